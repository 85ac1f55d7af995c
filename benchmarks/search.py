"""How fast is the nearest codeword found? The same as `vq bench search`.

python benchmarks/search.py --threads 1 --json benchmarks/results/search.json
"""

import sys

from vq.cli.main import main

sys.exit(main(["bench", "search", *sys.argv[1:]]))
