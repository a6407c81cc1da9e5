"""Estimates log p(x) of a finished run's model, from below and from above.

python experiments/evaluate.py --workdir=RUN [FLAGS]

The flags are defined in aevb/cli/evaluate.py; --help prints them.
"""

import sys

from aevb.cli.evaluate import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
