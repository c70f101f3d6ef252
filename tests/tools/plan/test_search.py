"""The largest batch that fits, found in few compilations."""

import pytest

from hmhi_jax.tools.plan.plan import largest_that_fits


def searched(need, limit, most=4096):
    asked = []

    def needed(n):
        asked.append(n)
        return need(n)

    return largest_that_fits(needed, limit, most), asked


@pytest.mark.parametrize("answer", [1, 2, 3, 7, 50, 300])
def test_linear_memory_takes_few_compilations(answer):
    found, asked = searched(lambda n: 1000 + 100 * n, 1000 + 100 * answer + 40)
    assert found == answer
    assert len(asked) <= 4
    assert len(set(asked)) == len(asked)


@pytest.mark.parametrize("answer", [1, 5, 23])
def test_bent_memory_and_refusals(answer):
    """Beyond what fits the compiler may only refuse; and memory need not be linear."""

    def need(n):
        return None if n > answer else 50 + n * n

    assert searched(need, 10**6)[0] == answer
    assert searched(lambda n: 7 * n + n**3, 7 * answer + answer**3)[0] == answer


def test_nothing_and_everything_fits():
    assert searched(lambda n: 10 * n, 9)[0] == 0
    assert searched(lambda n: None, 9)[0] == 0
    assert searched(lambda n: 10, 100, most=64)[0] == 64
