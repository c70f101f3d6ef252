"""The training step against the release's: losses of five steps and the gradient of every parameter in the first."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import cases

from hmhi_jax.interop import from_torch, to_torch
from hmhi_jax.models import build_model
from hmhi_jax.training import step as step_module
from hmhi_jax.training.mesh import make_mesh, replicated
from hmhi_jax.training.optimiser import learning_rate_schedule, make_optimiser
from hmhi_jax.training.step import make_state

pytestmark = pytest.mark.slow
GOLDEN = json.loads((cases.FOLDER / "train_mit_b1.json").read_text())


@pytest.fixture(scope="module")
def network():
    """The model and its variables."""
    model = build_model(GOLDEN["encoder"], memory_frames=GOLDEN["memory_frames"])
    return model, from_torch(model, cases.state_dict(model, GOLDEN["seed"]))


@pytest.fixture(scope="module")
def inputs():
    size, frames, batch, seed = (GOLDEN[key] for key in ("size", "frames", "batch", "seed"))
    clip = cases.recipe.clip(seed, batch, frames, size)
    b, t, y, x = np.ogrid[:batch, :frames, :size, :size]
    disk = (y - size / 2 - 4 * t) ** 2 + (x - size / 3 - 3 * t - b) ** 2 < (size / 4) ** 2
    return {"frames": clip[0], "flows": clip[1], "masks": disk[..., None], "valid": np.ones((batch, frames), bool)}


@pytest.fixture(autouse=True)
def _pictures_as_they_are(monkeypatch):
    """The goldens' pictures are numbers that no uint8 picture gives: they take the place of normalised ones."""
    names = ("frames", "flows", "masks", "valid")
    monkeypatch.setattr(
        step_module, "network_inputs", lambda arrays: tuple(arrays[name].astype(jnp.float32) for name in names)
    )


def check_norms(model, gradients):
    """Of the gradient of every parameter.

    A bias's gradient is a sum over all pixels. One of them cancels to 6e-4 of its kernel's gradient norm: weights that
    differ by 1e-7 of themselves move it by 2 % under either policy, and so does another processor's order of adding.
    So what a bias may be off by is a share of its kernel's gradient norm too.
    """
    norms = {name: np.linalg.norm(gradient) for name, gradient in to_torch(model, {"params": gradients}).items()}
    expected = {name: norm for name, norm in GOLDEN["grad_norms"].items() if norm is not None}
    # What has no gradient in the release are exactly the entries that it never reads.
    assert {name for name in GOLDEN["grad_norms"] if name not in expected} == {
        name for name in norms if ".cross_attention." in name
    }
    for name, norm in expected.items():
        # Key biases shift all scores of a query alike: their true gradient is zero.
        of_kernel = expected.get(name.removesuffix("bias") + "weight", 0.0) if name.endswith(".bias") else 0.0
        assert norms[name] == pytest.approx(norm, rel=3e-3, abs=1e-6 + 3e-5 * of_kernel), name


def test_losses_and_every_gradient_norm(network, inputs):
    model, variables = network
    schedule = learning_rate_schedule("constant", GOLDEN["lr"], 5)
    optimiser = make_optimiser(schedule, weight_decay=5e-4, decay_mask="all")
    mesh = make_mesh(1, 1, jax.devices()[:1])
    # On the mesh from the start, as in a run: without its sharding the step would be compiled once more for it.
    made = jax.jit(
        lambda given: make_state(jax.tree.map(jnp.copy, given), optimiser, 0), out_shardings=replicated(mesh)
    )
    state = made(variables)
    step = step_module.make_train_step(model, optimiser, schedule, mesh, dropout=False, checkpoint="read_outs")
    losses = []
    for index in range(5):
        state, metrics = step(state, inputs)
        losses.append(float(metrics.scalars["loss"]))
        if index == 0:
            first = jax.device_get(state.opt_state)
    np.testing.assert_allclose(losses, GOLDEN["losses"], rtol=3e-4)
    # After one step Adam's first moment is a tenth of the gradient.
    (moments,) = (part.mu for part in first if hasattr(part, "mu"))
    check_norms(model, jax.tree.map(lambda moment: moment / (1 - 0.9), moments))


def test_the_loss_and_every_gradient_norm_where_all_but_what_is_costly_is_recomputed(network, inputs):
    """The step's gradient alone: the optimiser is in the other test, and takes long to compile."""
    model, variables = network

    def loss(params, inputs):
        return step_module.batch_loss(model, params, {}, inputs, None, checkpoint="cheap")[0]

    program = jax.jit(jax.value_and_grad(loss), compiler_options=step_module.compiler_options("cpu"))
    value, gradients = program(variables["params"], inputs)
    np.testing.assert_allclose(value, GOLDEN["losses"][0], rtol=3e-4)
    check_norms(model, gradients)
