"""How far is each codebook from Shannon's limit on N(0, 1)? The same as `vq bench gaussian`.

python benchmarks/gaussian.py --json benchmarks/results/gaussian.json
"""

import sys

from vq.cli.main import main

sys.exit(main(["bench", "gaussian", *sys.argv[1:]]))
