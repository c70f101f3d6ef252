"""Where a stream stands between two frames: what to save in order to go on elsewhere with the same masks."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32, UInt8

from hmhi_jax.data.preprocessing import checked_size
from hmhi_jax.errors import InputError
from hmhi_jax.inference.writers import write_file
from hmhi_jax.interop.shapes import not_finite


@dataclasses.dataclass(frozen=True)
class StreamState:
    """The memory after a number of frames, on the host.

    frames        how many frames have been segmented; the next one to hand in has this number
    memory        leaves of the network's `Memory` by their paths
    previous      the last frame, uint8 `[H, W, 3]`: should only one more follow, its flow goes back to this one
    network_size  (height, width) the network runs at
    colours       what was counted of the video's colours, where masks are refined, see `colours.Colours`
    """

    frames: int
    memory: dict[str, np.ndarray]
    previous: UInt8[np.ndarray, "H W 3"] | None
    network_size: tuple[int, int]
    colours: Float32[np.ndarray, "2 bins"] | None = None

    @classmethod
    def of(
        cls, frames: int, memory: Any, previous: UInt8[np.ndarray, "H W 3"] | None, network_size: tuple[int, int]
    ) -> "StreamState":
        """Bring a `Memory` to the host."""
        leaves = {name: np.array(leaf) for name, leaf in _by_name(memory).items()}
        return cls(frames, leaves, previous, network_size)

    def to_memory(self, expected: Any) -> Any:
        """The memory again, with arrays of the host; `expected` are its shapes and dtypes.

        Raises `InputError` if the state has other entries, shapes or dtypes.
        """
        wanted = {name: (leaf.shape, np.dtype(leaf.dtype)) for name, leaf in _by_name(expected).items()}
        found = {name: (leaf.shape, leaf.dtype) for name, leaf in self.memory.items()}
        if wanted != found:
            name = next(name for name in sorted(wanted | found) if wanted.get(name) != found.get(name))
            raise InputError(
                f"saved memory: {name} is {_text(found.get(name))}, expected {_text(wanted.get(name))}; "
                "it belongs to another network, size, capacity or compute type"
            )
        return jax.tree.unflatten(jax.tree.structure(expected), [self.memory[name] for name in wanted])

    def save(
        self, path: str | Path, extra: dict[str, np.ndarray] | None = None, note: dict[str, Any] | None = None
    ) -> None:
        """Write a safetensors file, under a temporary name first; `extra` arrays and a JSON `note` go along."""
        from safetensors.numpy import save

        arrays = {f"memory/{name}": leaf for name, leaf in self.memory.items()}
        arrays |= {f"extra/{name}": np.ascontiguousarray(array) for name, array in (extra or {}).items()}
        if self.previous is not None:
            arrays["previous"] = np.ascontiguousarray(self.previous)
        if self.colours is not None:
            arrays["colours"] = self.colours
        header = {"frames": self.frames, "network_size": list(self.network_size), "note": note or {}}
        data = save(arrays, metadata={"hmhi_stream": json.dumps(header)})
        path = Path(path)
        write_file(path, data, path.parent)

    @classmethod
    def load(cls, path: str | Path) -> "StreamState":
        """Read what `save` wrote. Raises `InputError` for anything else."""
        return cls.load_with_extra(path)[0]

    @classmethod
    def load_with_extra(cls, path: str | Path) -> tuple["StreamState", dict[str, np.ndarray], dict[str, Any]]:
        """The state, and the arrays and the note that were saved along."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                header = json.loads((file.metadata() or {})["hmhi_stream"])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            memory, extra = (
                {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
                for prefix in ("memory/", "extra/")
            )
            size = checked_size(list(header["network_size"]))
            state = cls(header["frames"], memory, arrays.get("previous"), size, arrays.get("colours"))
            state._check()
            note = dict(header["note"])
        except (
            InputError, OSError, SafetensorError, KeyError, TypeError, ValueError, ArithmeticError, AttributeError,
            RecursionError,
        ) as error:  # fmt: skip
            raise InputError(f"{path}: is no saved memory of a stream ({error}); delete it to start over") from error
        return state, extra, note

    def _check(self) -> None:
        """Raises `ValueError` for what no stream leaves behind."""
        written = int(self.memory.get("written", 0))
        if type(self.frames) is not int or not 0 <= written <= self.frames < 2**31:
            raise ValueError(f"{str(self.frames)[:40]} frames, of which its memory counts {written}")
        if self.previous is not None and (self.previous.dtype != np.uint8 or self.previous.shape[2:] != (3,)):
            raise ValueError(f"its last frame is {self.previous.dtype} {self.previous.shape}")
        if broken := not_finite(self.memory | ({} if self.colours is None else {"colours": self.colours})):
            raise ValueError(f"{broken[0]} is not finite")


def _by_name(tree: Any) -> dict[str, Any]:
    """Leaves in the tree's own order, by dotted path ("shallow.keys")."""
    return {jax.tree_util.keystr(path).strip("."): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _text(kind: tuple | None) -> str:
    return "absent" if kind is None else f"{kind[1]} {kind[0]}"
