"""`python -m aevb` is `aevb`."""

import sys

from aevb.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
