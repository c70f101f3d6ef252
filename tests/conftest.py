"""Eight CPU devices, strict rank promotion, shapes checked at every call, and a persistent compilation cache."""

import os
from pathlib import Path

os.environ.setdefault("XLA_FLAGS", "")
if "xla_force_host_platform_device_count" not in os.environ["XLA_FLAGS"]:
    os.environ["XLA_FLAGS"] += " --xla_force_host_platform_device_count=8"
if "xla_backend_optimization_level" not in os.environ["XLA_FLAGS"]:
    # Tests spend their time in the compiler, not in what it makes: this halves it and leaves the numbers alone.
    os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=0"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from jaxtyping import install_import_hook

install_import_hook("hmhi_jax", "beartype.beartype")

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update(
    "jax_compilation_cache_dir",
    os.environ.get("HMHI_TEST_CACHE", str(Path.home() / ".cache" / "hmhi-jax" / "tests")),
)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def davis() -> Path:
    """Five real DAVIS-2016 sequences beside the checkout; not shipped."""
    folder = SHARED / "data" / "davis"
    if not folder.is_dir():
        pytest.skip("the DAVIS sequences are not beside this checkout")
    return folder
