"""The exceptions whose messages are shown to the user, each of one line."""

import signal


class UserError(Exception):
    """An error that the user can correct.

    Its message is one line. It says what is wrong, the value, the allowed values and what to do.
    """


class Interrupted(Exception):  # noqa: N818, it is not an error
    """The exception of a run that was stopped by a signal and saved.

    `status` is the exit status for the process.
    """

    def __init__(self, received: signal.Signals, examples: int):
        self.received = received
        self.status = 128 + received
        super().__init__(
            f"stopped by {received.name} and saved at {examples:,} training examples; "
            "the same command resumes from there"
        )
