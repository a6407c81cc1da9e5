"""The exceptions that a user is meant to see, each with a message of one line."""

import signal


class UserError(Exception):
    """A mistake that the user can put right.

    Its message is one line: what is wrong, the value seen, what is allowed, what to do.
    """


class Interrupted(Exception):  # noqa: N818, it is no error
    """A run was asked to stop, and is saved; `status` is what the process should exit with."""

    def __init__(self, received: signal.Signals, examples: int):
        self.received = received
        self.status = 128 + received
        super().__init__(
            f"stopped by {received.name} and saved at {examples:,} training examples; "
            "the same command goes on from there"
        )
