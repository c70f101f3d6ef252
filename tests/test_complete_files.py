"""Nothing half-written stands under its name."""

import pytest

from hmhi_jax.complete_files import completed, write_text


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "made" / "x.txt"
    with completed(path) as partial:
        partial.write_text("half")
        assert partial.parent == path.parent  # on the same disk
        assert not path.exists()
    assert path.read_text() == "half"
    write_text(path, "ä")
    assert path.read_bytes() == "ä".encode()
    assert list(path.parent.iterdir()) == [path]


def test_what_stood_there_stays_if_writing_fails(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(OSError, match="full"), completed(path) as partial:  # noqa: PT012 - fails half-way
        partial.write_text("new")
        raise OSError("full")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_replaces_an_empty_one_alone(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    with completed(path) as partial:
        partial.mkdir()
        (partial / "a").write_text("1")
    assert [p.name for p in path.iterdir()] == ["a"]
    with pytest.raises(OSError, match="not empty"), completed(path) as partial:  # noqa: PT012 - fails at its end
        partial.mkdir()
        (partial / "b").write_text("2")
    assert [str(p.relative_to(tmp_path)) for p in sorted(tmp_path.rglob("*"))] == ["folder", "folder/a"]


def test_a_workplace_elsewhere(tmp_path):
    (tmp_path / "work").mkdir()
    with completed(tmp_path / "x.txt", tmp_path / "work") as partial:
        assert partial.parent == tmp_path / "work"
        partial.write_text("1")
    assert (tmp_path / "x.txt").read_text() == "1"
    assert not list((tmp_path / "work").iterdir())
