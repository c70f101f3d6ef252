"""The camera's part of an optical flow: a robust affine model, fitted and taken away."""

import numpy as np
from jaxtyping import Bool, Float

_POINTS, _HYPOTHESES = 1000, 96  # vectors that a camera is fitted to, about, and models tried
UNKNOWN_FLOW = 1e9  # Middlebury's convention: a component beyond this is "unknown"


def known_flow(flow: Float[np.ndarray, "h w 2"]) -> Bool[np.ndarray, "h w"]:
    """True where a flow vector is a number and not Middlebury's "unknown" (a component above 1e9, or NaN)."""
    with np.errstate(invalid="ignore"):
        return (np.abs(flow[..., 0]) <= UNKNOWN_FLOW) & (np.abs(flow[..., 1]) <= UNKNOWN_FLOW)


def camera_positions(height: int, width: int) -> tuple[Float[np.ndarray, "h 1"], Float[np.ndarray, "1 w"]]:
    """Centred rows and columns, scaled alike so that the longer side spans [-1, 1]: keeps the fit well conditioned."""
    half = max(height, width, 2) / 2
    rows = ((np.arange(height) - (height - 1) / 2) / half).astype(np.float32)
    columns = ((np.arange(width) - (width - 1) / 2) / half).astype(np.float32)
    return rows[:, None], columns[None, :]


def camera_grid(size: tuple[int, int]) -> slice:
    """Which rows, and which columns, of a flow of `size` = (height, width) `fit_camera` looks at."""
    step = max(1, int(np.sqrt(size[0] * size[1] / _POINTS)))
    return slice(step // 2, None, step)


def fit_camera(flow: Float[np.ndarray, "h w 2"]) -> Float[np.ndarray, "3 2"]:
    """Fit `[1, x, y] @ model` to what most of the picture does.

    Random triples of points propose models, the one with the least truncated residual wins (RANSAC with the MSAC
    score), and iteratively reweighted least squares with Geman-McClure weights polishes it, all on the `camera_grid`.
    x and y are centred and scaled so that the longer side spans [-1, 1]. Deterministic; zeros if fewer than three
    vectors are known.
    """
    size = flow.shape[:2]
    grid = camera_grid(size)
    return fit_camera_to_samples(flow[grid, grid], size)


def fit_camera_to_samples(
    sampled: Float[np.ndarray, "rows columns 2"], size: tuple[int, int]
) -> Float[np.ndarray, "3 2"]:
    """`fit_camera` of a flow of `size`, of which `sampled` is what lies on the `camera_grid`."""
    rows, columns = camera_positions(*size)
    grid = camera_grid(size)
    known = known_flow(sampled)
    y, x = (np.broadcast_to(axis, size)[grid, grid] for axis in (rows, columns))
    design = np.stack([np.ones_like(x), x, y], -1)[known].astype(np.float64)
    vectors = sampled[known].astype(np.float64)
    if len(vectors) < 3:
        return np.zeros((3, 2), np.float32)

    triples = np.random.default_rng(0).integers(len(vectors), size=(_HYPOTHESES, 3))
    corners = design[triples]
    # Twice the triangle's area: nearly collinear triples extrapolate wildly. Plain least squares competes too.
    wide = np.abs(np.linalg.det(corners)) > 0.05
    overall = np.linalg.lstsq(design, vectors, rcond=None)[0]
    models = np.concatenate([overall[None], np.linalg.solve(corners[wide], vectors[triples[wide]])])
    # [models, points]
    residuals = sum((models[:, :, c] @ design.T - vectors[:, c]) ** 2 for c in (0, 1))
    # The scale of "inlier": the best model's median residual, but never below a tenth of a pixel.
    scale = max(float(np.median(residuals, axis=1).min()), 0.01)
    model = models[np.minimum(residuals, 9 * scale).sum(1).argmin()]

    for _ in range(8):
        squared = ((design @ model - vectors) ** 2).sum(-1)
        scale = max(2 * float(np.median(squared)), 0.01)
        weights = (scale / (scale + squared)) ** 2
        weighted = design * weights[:, None]
        model = np.linalg.solve(weighted.T @ design + 1e-6 * np.eye(3), weighted.T @ vectors)
    return model.astype(np.float32)


def camera_flow(model: Float[np.ndarray, "3 2"], size: tuple[int, int]) -> Float[np.ndarray, "h w 2"]:
    """The flow an affine camera `model` of `fit_camera` causes on a picture of `size` = (height, width)."""
    rows, columns = camera_positions(*size)
    return model[0] + columns[..., None] * model[1] + rows[..., None] * model[2]


def remove_camera(flow: Float[np.ndarray, "h w 2"]) -> Float[np.ndarray, "h w 2"]:
    """Subtract the affine motion most of the picture shares; unknown vectors stay unknown."""
    residual = (flow - camera_flow(fit_camera(flow), flow.shape[:2])).astype(np.float32)
    known = known_flow(flow)
    return residual if known.all() else np.where(known[..., None], residual, flow).astype(np.float32)
