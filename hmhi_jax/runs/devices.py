"""The devices of this computer that a command uses."""

import jax

from hmhi_jax.errors import InputError


def devices_here(most: int | None) -> list[jax.Device]:
    """The first `most` of them, None for all; `InputError` that names `--devices` if there are fewer."""
    there = jax.local_devices()
    if most is not None and most > len(there):
        raise InputError(f"--devices {most}: there are {len(there)} here ({there[0].platform}), expected at most that")
    return there[:most]
