"""Nothing half-written stands under its name."""

import os

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


@pytest.fixture
def calls(monkeypatch) -> list[tuple[str, int]]:
    """What is forced to the disk and what is renamed, in order, by inode: a file keeps its when it is renamed."""
    done, fsync, replace = [], os.fsync, os.replace

    def note_fsync(descriptor):
        done.append(("fsync", os.fstat(descriptor).st_ino))
        fsync(descriptor)

    def note_replace(source, target):
        done.append(("replace", os.stat(source).st_ino))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    return done


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, calls):
    path = tmp_path / "x.txt"
    write_text(path, "1")
    inode = path.stat().st_ino
    assert calls == [("fsync", inode), ("replace", inode), ("fsync", tmp_path.stat().st_ino)]


def test_all_of_a_folder_is_on_the_disk_before_it_has_its_name(tmp_path, calls):
    path = tmp_path / "folder"
    with completed(path) as partial:
        (partial / "inside").mkdir(parents=True)
        (partial / "inside" / "a").write_text("1")
        (partial / "b").write_text("2")
    renamed = calls.index(("replace", path.stat().st_ino))
    inside = {("fsync", found.stat().st_ino) for found in (path, *path.rglob("*"))}
    assert len(inside) == 4
    assert set(calls[:renamed]) == inside
    assert calls[renamed + 1 :] == [("fsync", tmp_path.stat().st_ino)]


def test_a_disk_that_does_not_take_a_file_is_an_error(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_text(tmp_path / "x.txt", "1")
    assert list(tmp_path.iterdir()) == []


def test_a_workplace_elsewhere(tmp_path):
    (tmp_path / "work").mkdir()
    with completed(tmp_path / "x.txt", tmp_path / "work") as partial:
        assert partial.parent == tmp_path / "work"
        partial.write_text("1")
    assert (tmp_path / "x.txt").read_text() == "1"
    assert not list((tmp_path / "work").iterdir())
