"""Flow pictures by a flow network: the recipe `estimator: raft`, followed on a device.

Every frame is encoded once, however many pairs it is part of, and pairs are estimated in batches of one size, so that a
picture does not depend on which others were asked for with it.
"""

import dataclasses
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num, UInt8

from hmhi_jax import process
from hmhi_jax.data.camera import camera_grid, fit_camera_to_samples
from hmhi_jax.data.flow import FlowRecipe, flow_picture
from hmhi_jax.data.preprocessing import resize_picture
from hmhi_jax.errors import InputError
from hmhi_jax.flow_models import RAFT, build_flow_model
from hmhi_jax.flow_models.estimation import check_sizes, cropped, draw_pictures, prepared, shorter_flow, without_camera
from hmhi_jax.inference.network import chunk_of
from hmhi_jax.interop.flow_weights import load_flow_weights, weights_digest
from hmhi_jax.kernels.platforms import DTYPES

ITERATIONS = 12
_KEPT = 12  # encodings: features and contexts of a frame and its neighbours, and as many for a second thread


class LearnedFlow:
    """A flow network with its weights on a device, and the recipe it follows; a `data.flow.FlowEstimator`.

    May be used by several threads.
    """

    def __init__(
        self,
        flow_model: RAFT,
        variables: Any,
        recipe: FlowRecipe,
        *,
        batch: int | None = None,
        device: jax.Device | None = None,
    ) -> None:
        """Put a flow network on a device.

        Args:
            flow_model: from `build_flow_model`, the one that `recipe` names.
            variables: its variables.
            recipe: of the estimator "raft".
            batch: pairs estimated at once by `pictures`; None takes 1 on CPU and 8 elsewhere.
            device: where to compute; None takes JAX's default.
        """
        process.enable_compilation_cache()
        self.device = device or jax.local_devices()[0]
        self.recipe = recipe
        self._model = flow_model
        self._variables = jax.device_put(variables, self.device)
        self._batch = batch or chunk_of(self.device)
        self._encodings: OrderedDict[tuple[int, str], tuple[np.ndarray, Array]] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def load(
        cls,
        weights: str | Path,
        recipe: FlowRecipe | None = None,
        *,
        iterations: int | None = None,
        dtype: str = "float32",
        batch: int | None = None,
        device: jax.Device | None = None,
    ) -> "LearnedFlow":
        """A flow network from weights: a file, or a name that stands for one in PyTorch's hub cache.

        Args:
            weights: see `interop.flow_weights.find_flow_weights`.
            recipe: what to follow. Of the estimator raft, weights of another checksum are refused; of another
                estimator, everything but the estimator is kept.
            iterations: instead of the recipe's; 12 where it says none.
            dtype: in which the encoders and the update operator compute, one of `kernels.platforms.DTYPES`.
            batch, device: see `LearnedFlow`.

        Raises:
            InputError: for weights that do not exist, cannot be read, do not fit or are not the recipe's.
        """
        if dtype not in DTYPES:
            raise InputError(f"dtype is {dtype!r}, expected one of {', '.join(map(repr, DTYPES))}")
        found = load_flow_weights(weights)
        digest = weights_digest(found.variables)
        recipe = recipe or FlowRecipe()
        if recipe.estimator == "raft" and recipe.weights != digest:
            raise InputError(
                f"{found.path}: its weights ({found.network}, checksum {digest[:12]}) are not those of the flow recipe "
                f"({recipe.network}, {str(recipe.weights)[:12]}); take the file the flow pictures were made with"
            )
        recipe = dataclasses.replace(
            recipe, estimator="raft", network=found.network, weights=digest,
            iterations=iterations or recipe.iterations or ITERATIONS,
            preset=FlowRecipe.preset,  # says nothing of this estimator: recipes that draw alike are equal
        )  # fmt: skip
        model = build_flow_model(found.network, dtype=dtype)
        return cls(model, found.variables, recipe, batch=batch, device=device)

    def to(self, device: jax.Device) -> "LearnedFlow":
        """The same on a device; itself where it is there already."""
        if device == self.device:
            return self
        return LearnedFlow(self._model, self._variables, self.recipe, batch=self._batch, device=device)

    def picture(
        self,
        frame: UInt8[np.ndarray, "H W 3"],
        neighbour: UInt8[np.ndarray, "H2 W2 3"],
        opposite: UInt8[np.ndarray, "H3 W3 3"] | None = None,
    ) -> UInt8[np.ndarray, "h w 3"]:
        """As `data.flow.flow_picture`. Frames that were seen a moment ago (the same arrays) are not encoded again."""
        frames = {number: x for number, x in enumerate((frame, neighbour, opposite)) if x is not None}
        return self._pictures(frames, [(0, 1, None if opposite is None else 2)], 1)[0]

    def pictures(
        self, frames: Mapping[int, UInt8[np.ndarray, "H W 3"]], wanted: Sequence[tuple[int, int, int | None]]
    ) -> list[UInt8[np.ndarray, "h w 3"]]:
        """A flow picture for each (frame, neighbour, opposite) of `wanted`, numbers of `frames`.

        Raises `InputError` for frames of unequal or too small a size.
        """
        made: list[np.ndarray] = []
        for start in range(0, len(wanted), self._batch):
            made += self._pictures(frames, wanted[start : start + self._batch], self._batch)
        return made

    def _pictures(
        self, frames: Mapping[int, np.ndarray], wanted: Sequence[tuple[int, int, int | None]], batch: int
    ) -> list[np.ndarray]:
        recipe = self.recipe
        sizes = [frames[number].shape[:2] for numbers in wanted for number in numbers if number is not None]
        for size in sizes:
            check_sizes(sizes[0], size, recipe.size)
        # Filled up with the last one: all batches are of one size, and compiled once.
        filled = [*wanted, *[wanted[-1]] * (batch - len(wanted))]
        pairs = [(frame, other) for frame, other, _ in filled]
        if recipe.neighbours == "both":
            # Where there is no opposite, the neighbour stands in for it, and what it gives is not used.
            pairs += [(frame, other if opposite is None else opposite) for frame, other, opposite in filled]
        flows = self._moving(frames, pairs)
        if recipe.neighbours == "both":
            one, other = flows[:batch], -flows[batch:]
            has = np.array([opposite is not None for *_, opposite in filled])
            flows = jnp.where(has[:, None, None, None], shorter_flow(one, other), one)
        drawn = draw_pictures(flows, normalisation=recipe.normalisation, least_motion=float(recipe.least_motion))
        return list(np.asarray(drawn)[: len(wanted)])

    def _moving(self, frames: Mapping[int, np.ndarray], pairs: Sequence[tuple[int, int]]) -> Float[Array, "B h w 2"]:
        """Flow of every pair, the camera's part taken away if asked."""
        size = self._resized(frames[pairs[0][0]]).shape[:2]
        flows = _matched(
            self._model, self._variables,
            [self._encoding(frames[frame], "encode") for frame, _ in pairs],
            [self._encoding(frames[other], "encode") for _, other in pairs],
            [self._encoding(frames[frame], "encode_context") for frame, _ in pairs],
            self.recipe.iterations or ITERATIONS, size,
        )  # fmt: skip
        if self.recipe.camera == "none":
            return flows
        grid = camera_grid(size)
        models = np.stack([fit_camera_to_samples(sampled, size) for sampled in np.asarray(flows[:, grid, grid])])
        return _without_camera(flows, jax.device_put(models, self.device))

    def _encoding(self, frame: np.ndarray, method: str) -> Float[Array, "1 h w C"]:
        key = (id(frame), method)
        with self._lock:
            if (known := self._encodings.get(key)) is not None:
                self._encodings.move_to_end(key)
                return known[1]
        picture = jax.device_put(self._resized(frame)[None], self.device)
        encoding = _encoded(self._model, self._variables, picture, method)
        with self._lock:
            # The frame is kept too: as long as it is, no other array has its identity.
            self._encodings[key] = (frame, encoding)
            while len(self._encodings) > _KEPT + 4 * self._batch:
                self._encodings.popitem(last=False)
        return encoding

    def _resized(self, frame: np.ndarray) -> np.ndarray:
        return frame if self.recipe.size is None else resize_picture(frame, self.recipe.size)


def flow_source(
    recipe: FlowRecipe, network: LearnedFlow | None, device: jax.Device | None = None
) -> FlowRecipe | LearnedFlow:
    """What estimates flow by a recipe: the recipe itself, or a flow network where it names one.

    `network` is taken if it is there. Otherwise the weights that the recipe names are looked for in PyTorch's hub
    cache; `InputError` if they are not there or are others.
    """
    if network is not None:
        return network
    return LearnedFlow.load(str(recipe.network), recipe, device=device) if recipe.estimator == "raft" else recipe


def picture_from(
    source: FlowRecipe | LearnedFlow,
    frame: UInt8[np.ndarray, "H W 3"],
    neighbour: UInt8[np.ndarray, "H2 W2 3"],
    opposite: UInt8[np.ndarray, "H3 W3 3"] | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """A flow picture from what `flow_source` gave; see `data.flow.flow_picture`."""
    if isinstance(source, LearnedFlow):
        return source.picture(frame, neighbour, opposite)
    return flow_picture(frame, neighbour, source, opposite)


@partial(jax.jit, static_argnums=(0, 3))
def _encoded(model: RAFT, variables: Any, pictures: Num[Array, "B H W 3"], method: str) -> Float[Array, "B h w C"]:
    return model.apply(variables, prepared(pictures), method=method)


@partial(jax.jit, static_argnums=(0, 5, 6))
def _matched(
    model: RAFT,
    variables: Any,
    first: list[Float[Array, "1 h w C"]],
    second: list[Float[Array, "1 h w C"]],
    context: list[Float[Array, "1 h w D"]],
    iterations: int,
    size: tuple[int, int],
) -> Float[Array, "B H W 2"]:
    encodings = (jnp.concatenate(each) for each in (first, second, context))
    match, state = model.apply(variables, *encodings, method="start")
    state = model.apply(variables, match, state, iterations, method="refine")
    return cropped(model.apply(variables, state, method="upsample"), size)


_without_camera = jax.jit(without_camera)
