"""Compiled programs are kept in the user's cache folder, so the second start of a command does not compile."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$HMHI_CACHE`, else `$XDG_CACHE_HOME/hmhi-jax`, else `~/.cache/hmhi-jax`."""
    if folder := os.environ.get("HMHI_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hmhi-jax"


def enable() -> None:
    """Turn JAX's persistent compilation cache on, unless the user already chose a folder."""
    import jax

    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
