"""The one exception a user may see, and words for its message."""

from collections.abc import Sequence


class InputError(Exception):
    """What was given cannot be used: the message names it, says what was found, what was expected and what to do.

    The command line prints the message as one line and exits with code 2; library callers can catch it.
    """


def reason_of(error: BaseException) -> str:
    """What an error says, on one line and not too long."""
    return " ".join(str(error).split())[:200]


def first_of(names: Sequence[str], most: int = 3) -> str:
    """The first names of a list that may be long: `a, b, c, ...`."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
