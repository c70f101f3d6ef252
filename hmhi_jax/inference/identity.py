"""What results were made from and how, noted beside them: results of another identity are never mixed with these."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hmhi_jax.errors import InputError


def read_note(file: Path) -> dict[str, Any]:
    """A note's JSON object. Raises `InputError` for anything else."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: cannot be read ({error}); move it away, or choose another folder") from error
    return content


def differences(noted: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """What differs between two identities, for people; empty if nothing does."""
    names = [name for name in {**wanted, **noted} if wanted.get(name) != noted.get(name)]
    return ", ".join(f"{name}: {_short(noted.get(name))}, now {_short(wanted.get(name))}" for name in names)


def some(names: list[str]) -> str:
    """The first of some names, and how many more there are."""
    return f"{names[0]} and {len(names) - 1} more" if names[1:] else names[0]


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_short(inner)}" for name, inner in value.items())
    text = str(value)
    return text[:12] + "..." if re.fullmatch("[0-9a-f]{64}", text) else text
