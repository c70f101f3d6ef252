"""Names of files in the order people number them."""

from pathlib import Path

import pytest

from hmhi_jax.data.pictures import last_number, natural_key, natural_order


def test_numbers_count_as_numbers():
    names = ["frame10", "frame2", "Frame1", "frame2b", "7", "area²", "area", ""]
    assert sorted(names, key=natural_key) == ["", "7", "Frame1", "area", "area²", "frame2", "frame2b", "frame10"]
    paths = [Path(f"{name}.png") for name in names if name]
    in_order = ["7", "area", "area²", "Frame1", "frame2", "frame2b", "frame10"]
    assert [path.stem for path in sorted(paths, key=natural_order)] == in_order


def test_equal_numbers_keep_one_order():
    assert sorted(["f02", "f2", "f002"], key=natural_key) == sorted(["f2", "f002", "f02"], key=natural_key)


@pytest.mark.parametrize(("name", "number"), [("dog_00012_gt", 12), ("00012", 12), ("v2_7", 7), ("dog", None)])
def test_last_number(name, number):
    assert last_number(name) == number
