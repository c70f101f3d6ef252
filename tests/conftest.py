"""Eight CPU devices, strict rank promotion, shapes checked at every call, and a persistent compilation cache."""

import gc
import os
from pathlib import Path

from quick_compiler import compiler_flags, with_given_flags

os.environ["XLA_FLAGS"] = with_given_flags(compiler_flags(devices=8))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from jaxtyping import install_import_hook

install_import_hook("hmhi_jax", "beartype.beartype")

import jax  # noqa: E402
import pytest  # noqa: E402

CACHE = os.environ.get("HMHI_TEST_CACHE", str(Path.home() / ".cache" / "hmhi-jax" / "tests"))
os.environ.setdefault("HMHI_CACHE", CACHE)  # the programs that this package keeps, also those of processes started here

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: with several workers none is left alone with one of them in the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Tracing makes millions of objects, and looking through all that was imported each time costs a tenth of it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def davis() -> Path:
    """Five real DAVIS-2016 sequences beside the checkout; not shipped."""
    folder = SHARED / "data" / "davis"
    if not folder.is_dir():
        pytest.skip("the DAVIS sequences are not beside this checkout")
    return folder
