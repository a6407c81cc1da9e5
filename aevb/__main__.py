"""`python -m aevb` is `aevb`."""

import sys

from aevb.cli import main

sys.exit(main())
