"""The error a user can cause and mend."""


class VqError(ValueError):
    """Wrong input: says what was expected, what came, and what to do. The command line exits with 2."""
