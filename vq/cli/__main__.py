"""``python -m vq.cli`` is the command ``vq``; so is ``torchrun -m vq.cli``, in as many processes as it is told."""

import sys

from vq.cli.main import main

sys.exit(main())
