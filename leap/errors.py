"""The errors that a user can mend: each says what is wrong, where, and what to do."""


class LeapError(Exception):
    """Bad input or a failed stage. Scripts print its text in one line and exit with 1."""


class UsageError(LeapError):
    """A wrong command line. Scripts print its text in one line and exit with 2."""
