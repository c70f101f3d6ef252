"""Stages: order, bounds, errors, and an end whatever happens."""

import itertools
import threading
import time

import pytest

from hmhi_jax.inference.pipeline import Pipeline, StageTimes


def no_threads_left():
    return not [thread for thread in threading.enumerate() if thread.name.startswith("hmhi")]


def test_order_is_kept_whatever_takes_longer():
    with Pipeline() as pipeline:
        slow = pipeline.map(lambda n: time.sleep(0.01 * (n % 3)) or n, pipeline.ahead(range(40), 2), workers=4)
        assert list(pipeline.ahead(slow, 1)) == list(range(40))
    assert no_threads_left()


def test_how_far_a_stage_runs_ahead():
    made = []

    def source():
        for n in itertools.count():
            made.append(n)
            yield n

    with Pipeline() as pipeline:
        results = pipeline.ahead(pipeline.map(lambda n: n, pipeline.ahead(source(), 3), workers=2), 2)
        for expected in range(50):
            assert next(results) == expected
            # 3 in the first channel, one being made; 2 * 2 in the map; 2 in the second channel, one being handed over.
            assert len(made) - expected <= 3 + 1 + 4 + 2 + 1 + 1
        time.sleep(0.05)
        assert len(made) - expected <= 12
    assert no_threads_left()


@pytest.mark.parametrize("where", ["source", "map", "reader"])
def test_errors_reach_the_reader_after_what_came_before(where):
    closed = []

    def source():
        try:
            for n in range(1000):
                if where == "source" and n == 5:
                    raise ValueError("here")
                yield n
        finally:
            closed.append(True)

    def function(n):
        if where == "map" and n == 5:
            raise ValueError("here")
        return n

    got = []

    def read():
        with Pipeline() as pipeline:
            for n in pipeline.ahead(pipeline.map(function, pipeline.ahead(source(), 2), workers=2), 1):
                if where == "reader" and n == 5:
                    raise ValueError("here")
                got.append(n)

    with pytest.raises(ValueError, match="here"):
        read()
    assert got == [0, 1, 2, 3, 4]
    assert closed == [True]
    assert no_threads_left()


def test_leaving_while_everybody_waits():
    """Full channels everywhere and a reader that goes away: no deadlock."""
    with Pipeline() as pipeline:
        results = pipeline.ahead(pipeline.map(lambda n: n, pipeline.ahead(itertools.count(), 1), workers=2), 1)
        next(results)
        time.sleep(0.05)
    assert no_threads_left()


def test_times_add_up():
    times = StageTimes()
    assert list(times.timed("read", (time.sleep(0.01) or n for n in range(3)))) == [0, 1, 2]
    with times.measure("work"):
        time.sleep(0.02)
    times.add("work", 1.0)
    seconds = times.seconds()
    assert seconds["read"] >= 0.03
    assert seconds["work"] >= 1.02
