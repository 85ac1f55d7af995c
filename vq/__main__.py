"""``python -m vq`` is the command ``vq``."""

import sys

from vq.cli.main import main

sys.exit(main())
