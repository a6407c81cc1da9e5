"""The entry point of `python -m aevb`, which is the same as the command `aevb`."""

import sys

from aevb.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
