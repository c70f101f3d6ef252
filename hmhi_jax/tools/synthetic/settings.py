"""What a generated clip may contain. Each feature has a probability: any can be left out and its worth measured."""

import dataclasses
import json

from hmhi_jax.data.flow import FlowRecipe
from hmhi_jax.errors import InputError

# Flow that shows what moves by itself: the camera is taken away, noise of still scenes stays pale.
COMPENSATED = FlowRecipe(size=(160, 288), neighbours="next", camera="affine", normalisation="robust")


@dataclasses.dataclass(frozen=True)
class Settings:
    """`size` is (height, width) of frames in pixels; frames follow each other at up to `longest_stride` moments.
    Everything after `recipe` is a probability in [0, 1]; those of the second group are 0 in `DEFAULTS`."""

    size: tuple[int, int] = (160, 288)
    least_frames: int = 5
    most_frames: int = 6
    longest_stride: int = 7
    recipe: FlowRecipe = COMPENSATED
    articulated: float = 1.0  # bodies with joints among the objects (else only blobs and polygons)
    same_texture: float = 0.08  # object and background share a texture: motion alone decides
    markings: float = 0.5  # parts carry patches, bands and panels of other colours, some of them the background's
    blending: float = 0.15  # the object has the background's colours, though not its texture
    several_objects: float = 0.12  # two or three objects move together
    close: float = 0.15  # the object fills a quarter of the picture and more
    tracking: float = 0.5  # the camera follows the object
    relief: float = 0.35  # the backdrop is not flat: near parts move more when the camera travels
    props: float = 0.45  # near planes that stand still: poles, trunks, bushes, fences, behind or before the object
    avenue: float = 0.12  # a row of poles or trunks that the object passes behind or in front of
    static_distractors: float = 0.5  # objects that look the part but stand still
    hardly_moving: float = 0.15  # clips whose object may stand nearly still from the beginning
    moving_distractors: float = 0.1  # small objects that move but are not salient
    shadows: float = 0.4
    wakes: float = 0.2
    reflections: float = 0.1
    waves: float = 0.25  # water or foliage that moves in place
    stops: float = 0.25  # the object stops, or starts, within the clip
    edge: float = 0.1  # the object enters or leaves
    soft: float = 0.25  # the whole object bends
    light: float = 0.25  # brightness changes over time
    motion_blur: float = 0.2
    noise: float = 0.7
    exact_flow: float = 0.05  # flow pictures from the exact flow instead of the estimated one
    backward_flow: float = 0.15  # flow to an earlier frame, as for the last frame of a video
    one_sided: float = 0.15  # frames whose flow looks at one neighbour alone, as at a video's ends
    pictures: float = 0.5  # share of textures that are photographs

    cut_outs: float = 0.0  # objects are pictures with opacity (`pictures.find_cut_outs`) instead of made of parts
    retextured: float = 0.5  # of those: they keep shape and shading and wear another surface
    limbs: float = 0.5  # of those: what is below the middle swings as legs do
    scenes: float = 0.0  # the backdrop is one photograph
    fills: float = 0.0  # the object fills half of the picture and more
    small_fast: float = 0.0  # the object is a few pixels wide, and fast
    smoke: float = 0.0  # smoke, dust or spray that moves with the object and is not part of it
    nothing: float = 0.0  # nothing moves by itself: the scene stands still, or only the camera moves; masks are empty

    def __post_init__(self) -> None:
        for name in FEATURES:
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise InputError(f"synthetic settings: {name} is {value!r}, expected a probability from 0 to 1")
        if not 2 <= self.least_frames <= self.most_frames:
            raise InputError(
                f"synthetic settings: {self.least_frames} to {self.most_frames} frames, expected 2 or more, least first"
            )
        if self.longest_stride < 1:
            raise InputError(f"synthetic settings: longest_stride is {self.longest_stride}, expected 1 or more")
        if min(self.size) < 64:
            raise InputError(f"synthetic settings: size is {self.size}, expected at least 64 pixels each way")

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self) | {"recipe": self.recipe.fields()})

    @classmethod
    def from_json(cls, text: str) -> "Settings":
        fields = json.loads(text)
        if unknown := sorted(set(fields) - {field.name for field in dataclasses.fields(cls)}):
            raise InputError(f"synthetic settings: unknown name {unknown[0]!r}")
        if "recipe" in fields:
            fields["recipe"] = FlowRecipe.from_fields(fields["recipe"])
        if "size" in fields:
            fields["size"] = tuple(fields["size"])
        return cls(**fields)


FEATURES = tuple(field.name for field in dataclasses.fields(Settings) if isinstance(field.default, float))
"""Names of the probabilities."""

DEFAULTS = Settings()

# For an encoder that already knows what things look like: real surfaces, shapes of real things, longer clips.
PHOTOGRAPHIC = Settings(
    size=(192, 352),
    least_frames=12,
    most_frames=12,
    longest_stride=3,
    recipe=dataclasses.replace(COMPENSATED, size=(192, 352)),
    same_texture=0.12,
    tracking=0.6,
    edge=0.15,
    pictures=0.7,
    cut_outs=0.6,
    scenes=0.5,
    fills=0.08,
    small_fast=0.1,
    smoke=0.15,
)
PRESETS = {"default": DEFAULTS, "photographic": PHOTOGRAPHIC}
