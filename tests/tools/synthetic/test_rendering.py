"""Made-up clips rendered while they are read: the same as in a pack, the same for any number of workers."""

import dataclasses
import pickle

import numpy as np
import pytest
from ml_collections import ConfigDict

from hmhi_jax.data.augmentation import NONE
from hmhi_jax.data.clips import ClipSampling
from hmhi_jax.data.layouts import entries_of
from hmhi_jax.data.pipeline import ClipPipeline, PipelineConfig
from hmhi_jax.errors import InputError
from hmhi_jax.tools.synthetic.rendering import rendered_dataset, rendered_sources, write_pack
from hmhi_jax.tools.synthetic.settings import DEFAULTS
from hmhi_jax.training.config import default_config

SMALL = dataclasses.replace(DEFAULTS, size=(64, 96), least_frames=3, most_frames=3, pictures=0.0)


def test_rendered_clips_are_those_of_a_pack(tmp_path):
    pack = write_pack(tmp_path, 3, 5, SMALL)
    dataset = rendered_dataset(SMALL, 3, 5)
    for packed, rendered in zip(pack, dataset.videos, strict=True):
        assert (packed.name, packed.frame_names) == (rendered.name, rendered.frame_names)
        assert rendered.annotated == (0, 1, 2)
        for kind in ("frames", "flows", "masks"):
            pairs = zip(getattr(packed, kind), getattr(rendered, kind), strict=True)
            assert all(one.read_bytes() == other.read_bytes() for one, other in pairs)
    assert dataset.videos[0].fingerprint(flows=True) != dataset.videos[1].fingerprint(flows=True)
    assert pickle.loads(pickle.dumps(dataset)) == dataset


def test_batches_do_not_depend_on_the_workers_that_render_them():
    entries = entries_of([(rendered_dataset(SMALL, 6, 5), 1)])
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
