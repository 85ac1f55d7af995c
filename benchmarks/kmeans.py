"""How fast and how good is k-means? The same as `vq bench kmeans`.

python benchmarks/kmeans.py --threads 1 --json benchmarks/results/kmeans.json
"""

import sys

from vq.cli.main import main

sys.exit(main(["bench", "kmeans", *sys.argv[1:]]))
