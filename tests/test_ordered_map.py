"""Work over threads or processes: in order, not too far ahead, stopped when nobody takes the results."""

import itertools
import threading
from contextlib import closing

import pytest

from hmhi_jax.ordered_map import ordered_map


def square(number: int) -> int:
    return number**2


@pytest.mark.parametrize(("workers", "processes"), [(0, False), (3, False), (2, True)])
def test_results_are_in_order(workers, processes):
    found = list(ordered_map(square, range(20), workers=workers, processes=processes))
    assert found == [number**2 for number in range(20)]
    assert list(ordered_map(square, (), workers=workers, processes=processes)) == []


def test_endless_items_are_taken_as_they_are_needed():
    taken = []
    items = (taken.append(number) or number for number in itertools.count())
    with closing(ordered_map(square, items, workers=2)) as results:
        assert [next(results) for _ in range(5)] == [0, 1, 4, 9, 16]
        assert len(taken) <= 5 + 4


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_comes_in_its_place_and_ends_the_work(workers):
    begun = []

    def work(number):
        begun.append(number)
        return 1 / (number - 3)

    results = ordered_map(work, range(1000), workers=workers)
    assert [next(results) for _ in range(3)] == [1 / -3, 1 / -2, -1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert len(begun) < 20


def test_threads_work_side_by_side():
    meeting = threading.Barrier(3, timeout=20)
    assert list(ordered_map(lambda number: meeting.wait() >= 0, range(3), workers=3)) == [True] * 3
