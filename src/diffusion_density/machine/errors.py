"""Errors for the user: what is wrong, where, and what to do."""


class InputError(ValueError):
    """Something that the user gave is wrong. The command line prints its one line and exits with status 2."""


class NumericalError(ArithmeticError):
    """A number is not finite. The message says where; no result is written."""
