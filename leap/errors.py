"""The errors that a user can mend: each says what is wrong, where, and what to do."""


class LeapError(Exception):
    """Bad input or a failed stage. Scripts print its text in one line and exit with 1."""


class UsageError(LeapError):
    """A wrong command line. Scripts print its text in one line and exit with 2."""


class Stopped(Exception):
    """Work that was told to end by a signal and has put everything away. Scripts exit with 128 + the signal."""

    def __init__(self, text: str, signal: int) -> None:
        super().__init__(text)
        self.signal = signal
