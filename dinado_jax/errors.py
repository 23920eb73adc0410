"""The one exception that means "your input": the command line prints it and exits with 2."""


class InputError(Exception):
    """Bad input, told in one line: what is wrong, where, and how to mend it."""
