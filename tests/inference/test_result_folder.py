"""Whose results are whose."""

import json

import pytest

from hmhi_jax.errors import InputError
from hmhi_jax.inference.result_folder import ResultFolder

ME = {"input": {"path": "/a.mp4", "bytes": 3}, "size": None, "sha": "0123456789abcdef" * 4}


def test_new_unfinished_finished(tmp_path):
    folder = ResultFolder(tmp_path / "out", ME)
    assert folder.status() == "new"
    folder.check_writable()
    assert list((tmp_path / "out").iterdir()) == []
    with folder.occupied():
        assert folder.status() == "unfinished"
        with pytest.raises(InputError, match="another command is writing there"), folder.occupied():
            pass
        (folder.masks / "0.png").touch()
        folder.finish({"frames": 1, "area": {"0": 0.5}})
    assert folder.status() == "finished"
    assert folder.read_summary()["frames"] == 1
    assert not folder.workplace.exists()
    (folder.masks / "0.png").unlink()
    assert folder.status() == "unfinished"
    with folder.occupied():
        assert not folder.summary.exists()


def test_results_of_another_identity(tmp_path):
    folder = ResultFolder(tmp_path, ME)
    other = ResultFolder(tmp_path, {**ME, "input": {"path": "/b.mp4", "bytes": 3}, "size": "64x64"})
    with folder.occupied():
        pass
    assert other.status() == "new"  # nothing was made yet
    (folder.masks / "0.png").touch()
    with pytest.raises(
        InputError,
        match=r"unfinished results made otherwise \(input: path /a.mp4, bytes 3, now path /b.mp4, bytes 3, "
        r"size: None, now 64x64\)",
    ):
        other.status()
    assert other.is_ours()
    (tmp_path / "notes.txt").touch()
    other.clear()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert other.status() == "new"


@pytest.mark.parametrize("area", [5, None, ["0"]])
def test_a_summary_of_another_shape_is_not_ours(tmp_path, area):
    folder = ResultFolder(tmp_path, ME)
    folder.summary.write_text(json.dumps({"identity": ME, "area": area}))
    assert not folder.is_ours()
    with pytest.raises(InputError, match=r"holds summary\.json that this command did not write"):
        folder.status()


def test_only_what_was_written_is_removed(tmp_path):
    folder = ResultFolder(tmp_path, ME)
    with folder.occupied():
        (folder.masks / "0.png").touch()
        folder.finish({"area": {"0": 0.5}})
    (folder.masks / "mine.png").touch()
    with pytest.raises(InputError, match=r"holds masks/mine\.png that this command did not write; move that away"):
        folder.clear()
    assert folder.summary.exists()
    (folder.masks / "mine.png").rename(tmp_path / "mine.png")
    (folder.masks / ".DS_Store").touch()
    folder.clear()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["masks", "mine.png"]
    assert folder.status() == "new"


@pytest.mark.parametrize("name", ["masks/0.png", "overlay.mp4", "soft/a/b.png"])
def test_what_somebody_else_put_there(tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
    folder = ResultFolder(tmp_path, ME)
    with pytest.raises(InputError, match="that this command did not write"):
        folder.status()
    assert not folder.is_ours()


def test_a_summary_of_something_else(tmp_path):
    (tmp_path / "summary.json").write_text('{"my": "notes"}')
    folder = ResultFolder(tmp_path, ME)
    assert not folder.is_ours()
    with pytest.raises(InputError, match=r"holds summary\.json that this command did not write; choose another folder"):
        folder.status()


def test_a_summary_that_is_none(tmp_path):
    (tmp_path / "summary.json").write_text("[")
    with pytest.raises(InputError, match=r"summary\.json: cannot be read"):
        ResultFolder(tmp_path, ME).status()
