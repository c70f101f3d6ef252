"""The one exception a user may see."""


class InputError(Exception):
    """What was given cannot be used: the message names it, says what was found, what was expected and what to do.

    The command line prints the message as one line and exits with code 2; library callers can catch it.
    """
