"""The arrays of a tree by the way that leads to each, as text: "params/encoder/stage1/kernel"."""

from typing import Any

import jax


def leaves_by_path(tree: Any, separator: str = "/") -> dict[str, Any]:
    """Path -> leaf, in the order of `jax.tree.leaves`; keys, fields and indices are joined by `separator`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator=separator): leaf for path, leaf in leaves}
