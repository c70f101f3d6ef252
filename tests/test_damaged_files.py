"""Some hundred damaged files of every kind: read, or refused in one line, and never anything else."""

import random
import shutil

import pytest
from damaged_files import READERS, damaged, refused, valid_files

TRIED = {"video": 25, "animation": 20, "weights": 60, "packed": 30}  # of each kind; else 40


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return valid_files(tmp_path_factory.mktemp("valid"))


@pytest.mark.parametrize("kind", READERS)
def test_a_damaged_file_is_read_or_refused(kind, files, tmp_path):
    chance, many = random.Random(kind), files[kind]
    for path in many:
        assert not refused(READERS[kind], path) or path.suffix in (".npz", ".pth")  # parts of a network
    counts = {True: 0, False: 0}
    for number in range(TRIED.get(kind, 40)):
        path = many[number % len(many)]
        place = tmp_path / str(number)
        if kind == "packed":
            shutil.copytree(path.parent, place)
        else:
            place.mkdir()
        spoilt = place / path.name
        spoilt.write_bytes(damaged(path.read_bytes(), chance, chance.choice(many).read_bytes()))
        counts[refused(READERS[kind], spoilt)] += 1
    assert counts[True]
