"""File names as people number them: frame2 comes before frame10."""

import re
from pathlib import Path


def natural_key(name: str) -> tuple:
    """Sort key under which `frame2` comes before `frame10`."""
    return tuple((int(part), "") if i % 2 else (-1, part) for i, part in enumerate(re.split(r"(\d+)", name))), name


def natural_order(path: Path) -> tuple:
    """Sort key of a file: its name without suffix, capitals or not."""
    return natural_key(path.stem.lower()), path.name


def last_number(stem: str) -> int | None:
    """The last number in a name: 12 of `dog_00012_gt` and of `00012`."""
    numbers = re.findall(r"\d+", stem)
    return int(numbers[-1]) if numbers else None
