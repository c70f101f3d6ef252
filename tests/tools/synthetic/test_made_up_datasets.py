"""Made-up data sets: packs of clips, and the command that fills them; clips rendered while they are read, the same as
in a pack and for any number of workers."""

import dataclasses
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from hmhi_jax.data.augmentation import NONE
from hmhi_jax.data.clips import ClipSampling
from hmhi_jax.data.flow import FlowRecipe
from hmhi_jax.data.layouts import entries_of
from hmhi_jax.data.pipeline import ClipPipeline, PipelineConfig
from hmhi_jax.errors import InputError
from hmhi_jax.tools.synthetic.clips import ClipMaker
from hmhi_jax.tools.synthetic.datasets import contact_sheet, read_clip, rendered_dataset, rendered_sources, write_pack
from hmhi_jax.tools.synthetic.settings import DEFAULTS, Settings
from hmhi_jax.training.config import default_config

SMALL = Settings(size=(64, 96), recipe=FlowRecipe(camera="affine", normalisation="robust"), pictures=0.0)
THREE_FRAMES = dataclasses.replace(DEFAULTS, size=(64, 96), least_frames=3, most_frames=3, pictures=0.0)


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


def test_rendered_clips_are_those_of_a_pack(tmp_path):
    pack = write_pack(tmp_path, 3, 5, THREE_FRAMES)
    dataset = rendered_dataset(THREE_FRAMES, 3, 5)
    for packed, rendered in zip(pack, dataset.videos, strict=True):
        assert (packed.name, packed.frame_names) == (rendered.name, rendered.frame_names)
        assert rendered.annotated == (0, 1, 2)
        for kind in ("frames", "flows", "masks"):
            pairs = zip(getattr(packed, kind), getattr(rendered, kind), strict=True)
            assert all(one.read_bytes() == other.read_bytes() for one, other in pairs)
    assert dataset.videos[0].fingerprint(flows=True) != dataset.videos[1].fingerprint(flows=True)
    assert pickle.loads(pickle.dumps(dataset)) == dataset


def test_batches_do_not_depend_on_the_workers_that_render_them():
    entries = entries_of([(rendered_dataset(THREE_FRAMES, 6, 5), 1)])
    config = PipelineConfig(
        batch_size=2, sizes=((64, 96),), seed=1, sampling=ClipSampling(frames=3, reach=2), augmentation=NONE, threads=1
    )
    taken = []
    for workers in (0, 2):
        pipeline = ClipPipeline(entries, dataclasses.replace(config, workers=workers), stop=3)
        taken.append(list(pipeline))
        pipeline.close()
    for alone, shared in zip(*taken, strict=True):
        for name in ("frames", "flows", "masks", "index"):
            np.testing.assert_array_equal(alone[name], shared[name])
    assert len({name for batch in taken[0] for name in batch["video"]}) == 6
    assert taken[0][0]["masks"].any()


def _config(**entry) -> ConfigDict:
    config = default_config()
    config.data.frames = 4
    config.data.rendered = (entry,)
    return config


def test_a_config_describes_them():
    entry = {"clips": 7, "repeats": 2, "seed": 3, "settings": {"size": (64, 96), "pictures": 0.0, "scenes": 0.0}}
    ((dataset, repeats, recipe),) = rendered_sources(_config(**entry))
    assert (len(dataset), repeats, len(dataset.videos[0])) == (7, 2, 4)
    assert recipe.size == (64, 96)
    assert recipe.camera == "affine"
    assert rendered_sources(default_config()) == []


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"seed": 1}, r"rendered\[0\] is .*expected 'clips'"),
        ({"clips": 2, "kind": "x"}, "expected 'clips' and perhaps"),
        ({"clips": 0}, "clips is 0"),
        ({"clips": 2, "preset": "fine"}, "preset is 'fine', expected one of default, photographic"),
        ({"clips": 2, "settings": {"shade": 1.0}}, "shade"),
        ({"clips": 2, "settings": {"most_frames": 9}}, "4 to 9 frames"),
    ],
)
def test_mistakes_are_named(entry, words):
    with pytest.raises(InputError, match=words):
        rendered_sources(_config(**entry))
