"""Programs are read back bit for bit, and nothing that was made otherwise, is damaged or may be another's is run."""

import os
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from hmhi_jax import kept_programs
from hmhi_jax.inference.functions import Functions
from hmhi_jax.inference.network import Network
from hmhi_jax.models import Bank, Memory

ARGUMENTS = ({"a": jnp.arange(12.0).reshape(3, 4)}, jnp.float32(0.3))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of caches of its own; JAX's cache is empty and stays so."""
    monkeypatch.setenv("HMHI_CACHE", str(tmp_path))
    before = jax.config.jax_compilation_cache_dir, jax.config.jax_persistent_cache_min_compile_time_secs
    set_jax_cache(str(tmp_path / "jax"), 1e9)
    yield tmp_path / "programs"
    set_jax_cache(*before)


def set_jax_cache(folder, least_seconds):
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", least_seconds)
    compilation_cache.reset_cache()


class Lowered:
    """A function that is lowered anew whenever asked, and counted."""

    def __init__(self, function=lambda tree, x: {"sum": jnp.tanh(tree["a"] @ tree["a"].T) * x, "same": tree}) -> None:
        self.function, self.times = function, 0

    def __call__(self, arguments=ARGUMENTS):
        self.times += 1
        return jax.jit(self.function, donate_argnums=0).lower(*arguments)


def program(lower, what="a test", arguments=ARGUMENTS, **options):
    return kept_programs.program(what, arguments, lambda: lower(arguments), jax.devices()[:1], **options)


def fresh():
    return jax.tree.map(jnp.copy, ARGUMENTS)


def test_what_is_read_back_computes_the_same_bits_without_being_lowered(folder):
    lower = Lowered()
    made, kept = program(lower), program(lower)
    assert lower.times == 1
    jax.tree.map(np.testing.assert_array_equal, made(*fresh()), kept(*fresh()))
    given = fresh()
    kept(*given)
    assert given[0]["a"].is_deleted()  # what was donated still is
    assert (folder.stat().st_mode & 0o777) == 0o700


def test_what_was_made_otherwise_is_not_looked_at(folder, monkeypatch):
    lower = Lowered()
    program(lower)
    other = ({"a": jnp.ones((5, 4))}, jnp.float32(1))
    cases = [{"what": "another"}, {"arguments": other}, {"options": {"xla_backend_optimization_level": 1}}]
    for number, case in enumerate(cases, 2):
        program(lower, **case)
        assert lower.times == number
    with jax.default_matmul_precision("highest"):
        program(lower)
    monkeypatch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"] + " --xla_cpu_max_isa=SSE4_2")
    kept_programs._machine.cache_clear()
    program(lower)
    monkeypatch.setattr(kept_programs, "digest_of_sources", lambda: "other sources")
    kept_programs._machine.cache_clear()
    program(lower)
    assert lower.times == 7
    monkeypatch.undo()
    kept_programs._machine.cache_clear()


def test_what_cannot_be_said_is_not_kept(folder):
    lower = Lowered()
    program(lower, what=None)
    program(lower, what=None)
    assert lower.times == 2
    assert not folder.exists()


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"", lambda b: b[:500] + bytes([b[500] ^ 1]) + b[501:]])
def test_what_is_damaged_is_made_anew(folder, damage):
    lower = Lowered()
    program(lower)
    (file,) = (folder / "kept").iterdir()
    good = file.read_bytes()
    file.write_bytes(damage(good))
    program(lower)
    assert lower.times == 2
    program(lower)
    assert lower.times == 2


def test_a_folder_that_may_be_anothers_is_left_alone(folder, monkeypatch):
    lower = Lowered()
    program(lower)
    folder.chmod(0o770)
    program(lower)
    assert lower.times == 2
    folder.chmod(0o700)
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
    program(lower)
    assert lower.times == 3
    monkeypatch.undo()
    elsewhere = folder.rename(folder.parent / "elsewhere")
    folder.symlink_to(elsewhere)
    monkeypatch.setenv("HMHI_CACHE", str(folder.parent))
    program(lower)
    assert lower.times == 4


def test_those_not_used_for_longest_make_room(folder, monkeypatch):
    lower = Lowered()
    program(lower, what="first")
    (first,) = (folder / "kept").iterdir()
    program(lower, what="second")
    (second,) = set((folder / "kept").iterdir()) - {first}
    for age, file in ((200, second), (100, first)):
        os.utime(file, (time.time() - age,) * 2)
    program(lower, what="second")  # used again
    monkeypatch.setattr(kept_programs, "MOST_BYTES", int(2.5 * first.stat().st_size))
    program(lower, what="third")
    assert second.exists()
    assert not first.exists()


def test_jax_is_not_asked_for_what_is_kept_and_serves_everything_else(folder, tmp_path):
    lower = Lowered(lambda tree, x: tree["a"] + jnp.cos(x * 1.25))
    set_jax_cache(str(tmp_path / "jax"), 0.0)
    made = lower().compile()(*fresh())
    jax.clear_caches()
    program(lower)  # JAX has it, but what it gives would not run when it is read back
    np.testing.assert_array_equal(program(lower)(*fresh()), made)
    assert lower.times == 2
    before = len(list((tmp_path / "jax").iterdir()))
    jax.jit(lambda x: jnp.sin(x) * 1.5)(jnp.float32(1))
    assert len(list((tmp_path / "jax").iterdir())) > before


def test_a_network_gives_the_same_bits_without_being_traced(folder):
    def encode(variables, frames, flows):
        return tuple((jnp.tanh(frames[t] * variables + flows[t])[None],) * 4 for t in range(frames.shape[0]))

    def start(variables, features):
        return Memory(None, Bank(features[0], features[1] * variables), jnp.int32(1)), features[2].sum(
            -1, keepdims=True
        )

    def step(variables, memory, features):
        values = memory.deep.values * variables + jnp.cos(features[3])
        return Memory(None, Bank(features[0], values), memory.written + 1), values.sum(-1, keepdims=True)

    def refused(*_):
        raise AssertionError("the network was traced")

    functions = Functions(encode, start, step, what="small functions")
    pictures = np.random.default_rng(0).integers(0, 256, (2, 1, 1, 4, 6, 3)).astype(np.uint8)

    def outputs(functions):
        network = Network(functions, jnp.float32(0.3))
        shapes = network.memory_shapes((4, 6), 1)
        memory, first = network.start(network.encode(*pictures)[0])
        assert jax.tree.map(lambda x: (x.shape, x.dtype), memory) == jax.tree.map(lambda x: (x.shape, x.dtype), shapes)
        return np.asarray(first), np.asarray(network.step(memory, network.encode(*pictures[::-1])[0])[1])

    made = outputs(functions)
    kept = outputs(functions._replace(encode=refused, start=refused, step=refused))
    jax.tree.map(np.testing.assert_array_equal, made, kept)
    with pytest.raises(AssertionError, match="was traced"):
        outputs(functions._replace(encode=refused, what="others"))
