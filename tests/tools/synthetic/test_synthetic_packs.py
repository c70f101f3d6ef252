"""Packs of made-up clips, and the command that fills them."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from hmhi_jax.data.flow import FlowRecipe
from hmhi_jax.errors import InputError
from hmhi_jax.tools.synthetic.clips import ClipMaker
from hmhi_jax.tools.synthetic.rendering import contact_sheet, read_clip, write_pack
from hmhi_jax.tools.synthetic.settings import Settings

SMALL = Settings(size=(64, 96), recipe=FlowRecipe(camera="affine", normalisation="robust"), pictures=0.0)


def test_packs_do_not_depend_on_processes_and_read_back(tmp_path):
    seen = []
    alone = write_pack(tmp_path / "a", 5, 7, SMALL, advance=lambda name, frames: seen.append((name, frames)))
    write_pack(tmp_path / "b", 5, 7, SMALL, workers=2)
    assert (tmp_path / "a" / "shard-00000.array_record").read_bytes() == (
        tmp_path / "b" / "shard-00000.array_record"
    ).read_bytes()
    assert len(alone) == 5
    assert [name for name, _ in seen] == [video.name for video in alone]
    for index in (0, 4):
        made, read = ClipMaker(SMALL)(7, index), read_clip(alone[index])
        np.testing.assert_array_equal(read.frames, made.frames)
        np.testing.assert_array_equal(read.masks, made.masks)
        assert np.abs(read.flows.astype(int) - made.flows).mean() < 1.5
    assert FlowRecipe.from_json(alone.details["flow"]) == SMALL.recipe
    assert Settings.from_json(alone.details["settings"]) == SMALL


def test_another_seed_does_not_go_into_the_same_folder(tmp_path):
    write_pack(tmp_path, 2, 7, SMALL)
    with pytest.raises(InputError, match="already holds"):
        write_pack(tmp_path, 2, 8, SMALL)


def test_a_contact_sheet_shows_clips(tmp_path):
    clips = [ClipMaker(SMALL)(0, index) for index in range(2)]
    sheet = contact_sheet(clips, frames=3)
    assert sheet.shape == (2 * 64, 6 * 96, 3)
    np.testing.assert_array_equal(sheet[:64, 96:192], clips[0].flows[0])


@pytest.mark.slow
def test_command_packs_clips_and_explains_mistakes(tmp_path):
    def run(*arguments: str) -> subprocess.CompletedProcess:
        command = [
            sys.executable,
            "-c",
            "from hmhi_jax.cli import main; main()",
            "synthesise",
            str(tmp_path / "out"),
            *arguments,
        ]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    small = ("--clips", "3", "--height", "64", "--width", "96", "--without", "pictures", "--workers", "0")
    done = run(*small)
    assert done.returncode == 0, done.stderr
    assert "3 clips" in done.stdout
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    assert Settings.from_json(index["details"]["settings"]).pictures == 0
    assert Image.open(tmp_path / "out" / "sheet.png").size == (6 * 96, 3 * 64)
    assert json.loads(index["details"]["flow"])["neighbours"] == "next"
    other = run(*small, "--preset", "photographic")
    assert other.returncode == 2
    assert "already holds" in other.stderr  # clips of other settings
    wrong = run(*small, "--without", "shadow")
    assert wrong.returncode == 2
    assert "no such feature, expected one of" in wrong.stderr
    assert "Traceback" not in wrong.stderr
