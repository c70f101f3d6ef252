"""Clips: moments of a scene as a camera would record them, their masks and flow pictures."""

import dataclasses
import functools
import json
import logging

import cv2
import numpy as np
import simplejpeg
from jaxtyping import Float, UInt8

from hmhi_jax.data.camera import remove_camera
from hmhi_jax.data.flow import draw_flow, flow_picture
from hmhi_jax.tools.synthetic.layers import Target
from hmhi_jax.tools.synthetic.motion import Wander, log_uniform
from hmhi_jax.tools.synthetic.pictures import find_backdrops, find_cut_outs, find_pictures
from hmhi_jax.tools.synthetic.scene import Scene, SceneMaker
from hmhi_jax.tools.synthetic.settings import DEFAULTS, Settings
from hmhi_jax.tools.synthetic.textures import TextureMaker

_log = logging.getLogger(__name__)

# The salient object must be seen: at least this share of the picture in the middle of the clip, and not more than that.
_LEAST_AREA, _MOST_AREA = 0.008, 0.6
_LEAST_SMALL, _MOST_FILLING = 0.001, 0.92  # for scenes of which just that was asked
# And it must move by itself: half of its pixels at least this far between the two frames of its flow, as a fraction of
# the picture's diagonal. Without a visible motion nothing says which of the things in a picture is the salient one.
_LEAST_MOTION = 0.003


@dataclasses.dataclass(frozen=True)
class Clip:
    """`frames` and `flows` are RGB pictures, `masks` is 1 on the salient object; `traits` say what was drawn.

    `jpegs` are the frames as encoded: decoding them gives `frames` exactly.
    """

    frames: UInt8[np.ndarray, "T H W 3"]
    flows: UInt8[np.ndarray, "T h w 3"]
    masks: UInt8[np.ndarray, "T H W"]
    traits: dict
    jpegs: tuple[bytes, ...] = ()


class ClipMaker:
    """Makes clip `index` of `seed`; the same for any process, order or number of clips. `pictures`: files in use."""

    def __init__(self, settings: Settings = DEFAULTS, folders: tuple[str, ...] = ()) -> None:
        self.settings = settings
        pictures = find_pictures(folders) if settings.pictures else []
        cut_outs = find_cut_outs(folders) if settings.cut_outs else []
        backdrops = find_backdrops(folders) if settings.scenes else []
        for found, share, what in ((cut_outs, settings.cut_outs, "cut_outs"), (backdrops, settings.scenes, "scenes")):
            if share and not found:
                _log.warning("%s is %s, but there are no such pictures: see synthetic/pictures.py", what, share)
        self.pictures = [*pictures, *cut_outs, *backdrops]
        self.scenes = SceneMaker(settings, TextureMaker(pictures, settings.pictures, backdrops), cut_outs)

    def _start(self, seed: int, index: int) -> tuple[np.random.Generator, int]:
        rng = np.random.default_rng([seed, index])
        return rng, int(rng.integers(self.settings.least_frames, self.settings.most_frames + 1))

    def length(self, seed: int, index: int) -> int:
        """How many frames the clip has, without making it."""
        return self._start(seed, index)[1]

    def __call__(self, seed: int, index: int) -> Clip:
        s = self.settings
        rng, count = self._start(seed, index)
        gap = min(int(rng.choice([1, 2, 3], p=[0.6, 0.25, 0.15])), s.longest_stride)
        stride = gap if rng.random() < 0.55 else int(rng.integers(1, s.longest_stride + 1))
        backward = rng.random() < s.backward_flow
        times = [float(stride * i) for i in range(count)]
        gaps = [-float(gap) if backward else float(gap)] * count
        if not backward and rng.random() < 0.5:
            gaps[-1] = -float(gap)  # as a whole video ends
        first, last = -float(gap), times[-1] + gap
        scene = self._scene(rng, first, last, times, gaps)
        if s.nothing and rng.random() < s.nothing:
            scene = scene.without_motion(times[count // 2] if rng.random() < 0.5 else None)
        record = functools.cache(_Recorder(rng, s, scene).record)
        exact = rng.random() < s.exact_flow
        records = [record(time) for time in times]
        flows = []
        for time, step, (_, frame, _) in zip(times, gaps, records, strict=True):
            if exact:
                flow = scene.render(time, time + step).flow
                if s.recipe.size is not None and s.recipe.size != s.size:
                    factor = np.divide(s.recipe.size, s.size, dtype=np.float32)[::-1]
                    flow = cv2.resize(flow, s.recipe.size[::-1]) * factor
                flows.append(draw_flow(flow, s.recipe))
            else:
                both = s.recipe.neighbours == "both" and rng.random() >= s.one_sided
                opposite = record(time - step)[1] if both else None
                flows.append(flow_picture(frame, record(time + step)[1], s.recipe, opposite))
        traits = scene.traits | {
            "seed": seed, "index": index, "stride": stride, "gap": gap, "exact_flow": bool(exact),
            "backward": bool(backward),
        }  # fmt: skip
        return Clip(
            np.stack([frame for _, frame, _ in records]), np.stack(flows), np.stack([mask for *_, mask in records]),
            json.loads(json.dumps(traits)), tuple(jpeg for jpeg, *_ in records),
        )  # fmt: skip

    def _scene(
        self, rng: np.random.Generator, first: float, last: float, times: list[float], gaps: list[float]
    ) -> Scene:
        """Draw until the object can be seen and moves; the tenth try is taken as it is."""
        hardly_moving = rng.random() < self.settings.hardly_moving
        middle = len(times) // 2
        for _ in range(10):
            scene = self.scenes.draw(rng, first, last)
            least = _LEAST_SMALL if scene.traits["small"] else _LEAST_AREA
            most = _MOST_FILLING if scene.traits["fills"] else _MOST_AREA
            if not least <= float((scene.render(times[middle]).mask > 0.5).mean()) <= most:
                continue
            opening = scene.render(times[0], times[0] + gaps[0])
            if (opening.mask > 0.5).mean() < least / 2:
                if rng.random() < 0.3:  # it enters later
                    break
                continue
            if hardly_moving or _motion(opening) >= _LEAST_MOTION * np.hypot(*self.settings.size):
                break
        return scene


def _motion(target: Target) -> float:
    """Median length of the object's exact flow after the camera's affine part, in pixels."""
    residual = remove_camera(target.flow)[target.mask > 0.5]
    return float(np.median(np.hypot(residual[:, 0], residual[:, 1])))


class _Recorder:
    """The camera's side of things: exposure, focus, tone, sensor noise and JPEG."""

    def __init__(self, rng: np.random.Generator, settings: Settings, scene: Scene) -> None:
        self.scene = scene
        self.exposure = float(rng.uniform(0.2, 0.9)) if rng.random() < settings.motion_blur else 0.0
        self.noise = log_uniform(rng, 0.3, 4) if rng.random() < settings.noise else 0.0
        self.blur = float(rng.uniform(0.4, 0.9)) if rng.random() < 0.4 else 0.0
        self.quality = int(rng.integers(85, 99))
        self.light = Wander(rng, log_uniform(rng, 0.01, 0.12), 60, 6, 1) if rng.random() < settings.light else None
        self.tone = _tone(rng)
        self.noise_seed = int(rng.integers(2**32))

    def record(self, time: float) -> tuple[bytes, UInt8[np.ndarray, "H W 3"], UInt8[np.ndarray, "H W"]]:
        """(JPEG file, the frame it decodes to, mask) at `time`."""
        target = self.scene.render(time)
        colour = target.colour
        if self.exposure:
            for offset in (-0.5, -0.25, 0.25, 0.5):
                colour = colour + self.scene.render(time + offset * self.exposure).colour
            colour = colour / 5
        gain = 1.0 if self.light is None else max(0.3, 1 + float(self.light(time)[0]))
        colour = (colour.reshape(-1, 3) @ (self.tone * np.float32(gain))).reshape(colour.shape)
        if self.blur:
            colour = cv2.GaussianBlur(colour, (0, 0), self.blur)
        if self.noise:
            moment = np.random.default_rng([self.noise_seed, round((time + 1000) * 8)])
            colour = colour + moment.standard_normal(colour.shape, np.float32) * np.float32(self.noise)
        bgr = cv2.cvtColor(np.clip(colour, 0, 255).astype(np.uint8), cv2.COLOR_RGB2BGR)
        # Colours at half the resolution, as cameras write them.
        jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, self.quality])[1].tobytes()
        return jpeg, simplejpeg.decode_jpeg(jpeg), (target.mask > 0.5).astype(np.uint8)


def _tone(rng: np.random.Generator) -> Float[np.ndarray, "3 3"]:
    """White balance, saturation and brightness as one matrix on RGB rows."""
    saturation = rng.uniform(0.35, 1.1)
    grey = np.outer((0.299, 0.587, 0.114), (1, 1, 1))
    balance = np.diag(1 + rng.normal(0, 0.06, 3)) * rng.uniform(0.75, 1.2)
    return ((saturation * np.eye(3) + (1 - saturation) * grey) @ balance).astype(np.float32)
