"""What can be refused of the options of `hmhi segment` before anything is opened."""

import os
import re
from pathlib import Path

from hmhi_jax.errors import InputError

_MOST_MEMORY_FRAMES = 1000


def parse_size(text: str | None) -> tuple[int, int] | str | None:
    """ "auto", "512" or "480x864" (height first); multiples of 32."""
    if text is None or text == "auto":
        return text
    match = re.fullmatch(r"(\d+)(?:[x×](\d+))?", text)
    height, width = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if min(height, width) < 32 or height % 32 or width % 32:
        raise InputError(f"--size {text}: expected HEIGHTxWIDTH in multiples of 32, such as 480x864, or 'auto'")
    return height, width


def check_numbers(
    *,
    threshold: float,
    dtype: str | None,
    save_every: int,
    frame_rate: float | None,
    memory_frames: int | None,
    **at_least_one: int | None,
) -> None:
    """Raises `InputError`, naming the option, for a number or a name that nothing can be done with."""
    if not 0 < threshold < 1:
        raise InputError(f"--threshold {threshold}: expected a probability between 0 and 1, such as 0.5")
    if dtype is not None:
        check_dtype(dtype)
    if frame_rate is not None and not 0.01 <= frame_rate <= 1000:
        raise InputError(f"--frame-rate {frame_rate}: expected frames per second, 0.01 to 1000")
    if save_every < 0:
        raise InputError(f"--save-every {save_every}: expected a number of frames, or 0 for never")
    for name, value in {"memory_frames": memory_frames, **at_least_one}.items():
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} {value}: expected a positive number")
    if memory_frames is not None and memory_frames > _MOST_MEMORY_FRAMES:
        raise InputError(
            f"--memory-frames {memory_frames}: expected at most {_MOST_MEMORY_FRAMES}; each takes up to some "
            "megabytes, and every frame reads them all"
        )


def check_dtype(name: str) -> None:
    """Raises `InputError` for a compute type that no network has."""
    from hmhi_jax.kernels.precision import DTYPES

    if name not in DTYPES:
        raise InputError(f"--dtype {name}: expected {', '.join(DTYPES[:-1])} or {DTYPES[-1]}")


def refuse_inside(out: Path, inputs: list[str]) -> None:
    """Results inside a folder that is searched would be found there as videos by the next command."""
    for given in inputs:
        folder = Path(given).expanduser()
        if given and os.path.isdir(folder) and out.resolve().is_relative_to(folder.resolve()):
            raise InputError(
                f"--out {out}: is inside the input {given}, where results would be taken for videos to segment; "
                "choose a folder beside it"
            )
