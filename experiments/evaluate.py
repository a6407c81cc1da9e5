"""Estimates log p(x) of a finished run's model, from below and from above.

python experiments/evaluate.py --workdir=RUN [FLAGS]

The flags are in aevb/cli/evaluate.py, and in what --help prints.
"""

import sys

from aevb.cli.evaluate import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
