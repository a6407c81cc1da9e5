"""`python -m aevb` is `aevb`."""

import sys

from aevb.cli.main import main

sys.exit(main())
