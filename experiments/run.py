"""Trains one experiment in its folder, or takes it up where it stopped; --sweep trains several.

python experiments/run.py --config=experiments/frey_faces.py [FLAGS]

The flags are in aevb/cli/run.py, and in what --help prints.
"""

from aevb.runtime import signals

if __name__ == "__main__":
    signals.exit_at_once()  # before all that takes its time to be imported

import sys

from aevb.cli.run import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], default=""))
