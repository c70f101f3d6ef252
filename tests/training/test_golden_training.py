"""The training step against the release's: losses of five steps and the gradient of every parameter in the first."""

import json
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import cases

from hmhi_jax.interop import from_torch, to_torch
from hmhi_jax.models import build_model
from hmhi_jax.training import step as step_module
from hmhi_jax.training.mesh import make_mesh
from hmhi_jax.training.optimiser import learning_rate_schedule, make_optimiser
from hmhi_jax.training.step import make_state

# A bias's gradient is a sum over all pixels. One of them cancels to 6e-4 of its kernel's gradient norm: weights that
# differ by 1e-7 of themselves move it by 2 % under either policy. As a share of the kernel's gradient norm:
ROUNDING_OF_BIASES = {"read_outs": 0.0, "cheap": 3e-5}


@pytest.mark.slow
@pytest.mark.parametrize(("checkpoint", "steps"), [("read_outs", 5), ("cheap", 1)])
def test_losses_and_every_gradient_norm(checkpoint, steps):
    golden = json.loads((cases.FOLDER / "train_mit_b1.json").read_text())
    size, frames, batch, seed = (golden[key] for key in ("size", "frames", "batch", "seed"))
    model = build_model(golden["encoder"], memory_frames=golden["memory_frames"])
    clip = cases.recipe.clip(seed, batch, frames, size)
    b, t, y, x = np.ogrid[:batch, :frames, :size, :size]
    disk = (y - size / 2 - 4 * t) ** 2 + (x - size / 3 - 3 * t - b) ** 2 < (size / 4) ** 2
    inputs = {"frames": clip[0], "flows": clip[1], "masks": disk[..., None], "valid": np.ones((batch, frames), bool)}

    schedule = learning_rate_schedule("constant", golden["lr"], 5)
    optimiser = make_optimiser(schedule, weight_decay=5e-4, decay_mask="all")
    mesh = make_mesh(1, 1, jax.devices()[:1])
    # The goldens' pictures are numbers that no uint8 picture gives: they take the place of normalised ones.
    names = ("frames", "flows", "masks", "valid")
    as_they_are = mock.patch.object(
        step_module, "network_inputs", lambda arrays: tuple(arrays[name].astype(jnp.float32) for name in names)
    )
    state = make_state(from_torch(model, cases.state_dict(model, seed)), optimiser, 0)
    step = step_module.make_train_step(model, optimiser, schedule, mesh, dropout=False, checkpoint=checkpoint)
    losses = []
    for index in range(steps):
        with as_they_are:
            state, metrics = step(state, inputs)
        losses.append(float(metrics.scalars["loss"]))
        if index == 0:
            first = jax.device_get(state.opt_state)
    np.testing.assert_allclose(losses, golden["losses"][:steps], rtol=3e-4)

    # After one step Adam's first moment is a tenth of the gradient.
    (moments,) = (part.mu for part in first if hasattr(part, "mu"))
    gradients = to_torch(model, {"params": jax.tree.map(lambda moment: moment / (1 - 0.9), moments)})
    norms = {name: np.linalg.norm(gradient) for name, gradient in gradients.items()}
    expected = {name: norm for name, norm in golden["grad_norms"].items() if norm is not None}
    # What has no gradient in the release are exactly the entries that it never reads.
    assert {name for name in golden["grad_norms"] if name not in expected} == {
        name for name in norms if ".cross_attention." in name
    }
    for name, norm in expected.items():
        # Key biases shift all scores of a query alike: their true gradient is zero.
        of_kernel = expected.get(name.removesuffix("bias") + "weight", 0.0) if name.endswith(".bias") else 0.0
        close = pytest.approx(norm, rel=3e-3, abs=1e-6 + ROUNDING_OF_BIASES[checkpoint] * of_kernel)
        assert norms[name] == close, name
