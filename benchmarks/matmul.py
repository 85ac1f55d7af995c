"""How fast is a packed linear layer next to torch's own? The same as `vq bench matmul`.

python benchmarks/matmul.py --json benchmarks/results/matmul.json
"""

import sys

from vq.cli.main import main

sys.exit(main(["bench", "matmul", *sys.argv[1:]]))
