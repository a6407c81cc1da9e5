"""A run with as many pauses, evaluations and checkpoints in minutes as others have in hours.

python tests/faults/soak.py FOLDER PAUSES_PER_SECOND SECONDS_BETWEEN_CHECKPOINTS

It ends when the process that started it ends, such as a test that is killed.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path

from small_run import get_config

from aevb import runs
from aevb.config import validate
from aevb.errors import Interrupted
from aevb.training import loop


def stop_with_the_parent() -> None:
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGTERM)


def main(folder: str, pauses_per_second: str, checkpoint_seconds: str) -> int:
    threading.Thread(target=stop_with_the_parent, daemon=True).start()
    loop.SECONDS_BETWEEN_PAUSES = 1.0 / float(pauses_per_second)
    config = get_config()
    config.model.hidden = (2,)
    config.train.num_examples = 2 * 10**9
    config.train.batch_size = 1
    config.train.evals_per_decade = 30
    config.train.checkpoint_seconds = float(checkpoint_seconds)
    try:
        runs.run(validate(config), Path(folder))
    except Interrupted as stop:
        return stop.status
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
