"""Errors that a person can act on: what is wrong, where, and what to do."""


class InputError(ValueError):
    """Something the user gave is wrong. The command line prints its one line and exits with status 2."""


class NumericalError(ArithmeticError):
    """A computation left the finite numbers. The message names the place; nothing is written."""
