"""The largest batch that fits, in few compilations."""

from collections.abc import Callable


def largest_that_fits(needed: Callable[[int], int | None], limit: int, most: int = 4096) -> int:
    """The largest n >= 1 with `needed(n) <= limit`, for a need that grows with n; 0 if even 1 does not fit.

    Every call costs a compilation, so the next n to try is where a line through the two nearest known needs meets the
    limit: memory is nearly linear in the batch, and four calls are usual.

    Args:
        needed: bytes for a batch of n; None if unknown because it was refused.
        limit: bytes there are.
        most: largest n to consider.
    """
    known: dict[int, int | None] = {}

    def fits(n: int) -> bool:
        known[n] = need = needed(n)
        return need is not None and need <= limit

    low, high = 0, most + 1  # low fits (or is 0), high does not (or is out of question)
    guess = 1
    while high - low > 1:
        guess = min(max(guess, low + 1), high - 1)
        if fits(guess):
            low = guess
        else:
            high = guess
        guess = _next(known, limit, low, high)
    return low


def _next(known: dict[int, int | None], limit: int, low: int, high: int) -> int:
    points = sorted((n, need) for n, need in known.items() if need is not None)
    if len(points) < 2:
        return 2 * low if high not in known else (low + high) // 2
    nearest = sorted(points, key=lambda point: abs(point[1] - limit))[:2]
    (n0, need0), (n1, need1) = sorted(nearest)
    if need1 <= need0:
        return 2 * low if high not in known else (low + high) // 2
    crossing = n0 + (limit - need0) * (n1 - n0) / (need1 - need0)
    # From below first the place itself, then the one above it, which should not fit: that ends the search.
    return int(crossing) if int(crossing) > low else low + 1
