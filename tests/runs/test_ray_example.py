"""examples/ray_segment.py on two local workers, where Ray is installed (it is large, so no extra installs it)."""

import json
import os
import shutil
import subprocess
import sys

import jax
import pytest
from segment_results import TESTS, masks_of
from small_videos import moving_square, save_network, write_video

pytest.importorskip("ray.data")


@pytest.mark.slow
def test_two_workers_share_the_videos_of_a_folder(tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    clip = write_video(videos / "a.mp4", moving_square(3))
    shutil.copy(clip, videos / "b.mp4")
    (videos / "broken.mp4").write_text("no film")
    weights = save_network(tmp_path / "net.safetensors")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, sys.path)]),
        # The small network is a test's: workers register it before they load its weights.
        "RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps(
            {"runtime_env": {"worker_process_setup_hook": "small_network.small_model"}}
        ),
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    script = TESTS.parent / "examples" / "ray_segment.py"
    command = [*map(str, (sys.executable, script, videos, tmp_path / "out", "--weights", weights))]
    written = []
    for _ in range(2):  # the second time nothing is left to do
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == 1, done.stderr
        lines = [line for line in done.stdout.splitlines() if ": 3 frames in " in line]
        assert [line.split(":")[0] for line in lines] == ["a", "b"]
        assert "broken.mp4: is no video that can be read" in done.stderr
        written.append([(path, path.stat().st_mtime_ns) for path in sorted((tmp_path / "out").rglob("*.png"))])
    assert written[0] == written[1]
    assert len(masks_of(tmp_path / "out" / "a")) == len(masks_of(tmp_path / "out" / "b")) == 3
