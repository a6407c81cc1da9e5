"""Trains or resumes one experiment in its folder; --sweep trains several.

python experiments/run.py --config=experiments/frey_faces.py [FLAGS]

The flags are defined in aevb/cli/run.py; --help prints them.
"""

from aevb.runtime import signals

if __name__ == "__main__":
    signals.exit_at_once()  # before the slow imports

import sys

from aevb.cli.run import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], default=""))
