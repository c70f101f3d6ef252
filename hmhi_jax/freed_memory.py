"""Memory that the C library keeps after it was freed."""

import ctypes
import sys


def give_back() -> None:
    """Hand freed memory back to the system, where the C library is GNU's; elsewhere nothing happens.

    Compiling a large program frees gigabytes in small pieces. Kept for later, they would add to what running it takes.
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)
