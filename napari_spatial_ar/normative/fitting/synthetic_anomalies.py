"""Synthetic anomalies: changes to normal slices, from which a detector learns.

No lesion is needed: a region of a normal slice is made darker or brighter, filled, covered with a
piece of another slice, pushed aside, blurred or roughened. The regions are soft and of irregular
outline, as in Natural Synthetic Anomalies (Schluter et al., ECCV 2022), and pieces of other slices
are blended in as in Foreign Patch Interpolation (Tan et al., 2020); CutPaste (Li et al., CVPR 2021)
and DRAEM (Zavrtanik et al., ICCV 2021) are of the same family. One generator serves all modalities:
it is independent of organs and diseases.

Everything is drawn from the caller's generator: the same seed gives the same change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from napari_spatial_ar.errors import InputError

__all__ = ["KINDS", "VERSION", "change"]

#: Incremented when the same seed gives another change.
VERSION = 2

Picture = npt.NDArray[np.float32]

# Regions per slice, and the share of the body that one covers (log-uniform). With fewer regions, a
# detector depends more on which were drawn (docs/explanation/method.md).
_REGIONS = (3, 6)
_AREA = (0.003, 0.1)
# Smaller regions are below the resolution of patches.
_FEWEST_PIXELS = 12


@dataclass(frozen=True)
class _Scene:
    """Input of a change: a slice, a soft region of it, and sources of other intensities."""

    image: Picture
    mask: Picture  # 1 in the region, soft at its edge
    centre: tuple[int, int]
    radius: float  # pixels
    spread: float  # standard deviation of the body's intensities, never 0
    body: npt.NDArray[np.bool_]
    others: Sequence[Picture]


def change(
    image: Picture,
    body: npt.NDArray[np.bool_],
    rng: np.random.Generator,
    others: Sequence[Picture] = (),
) -> tuple[Picture, Picture]:
    """Change three to six regions of a normal slice.

    Parameters
    ----------
    image : (rows, columns) float32
        Windowed slice, intensities in 0..1.
    body : (rows, columns) bool
        Where changes are allowed, as from `napari_spatial_ar.imaging.tissue.tissue_mask`.
    rng : numpy.random.Generator
        Source of everything drawn.
    others : sequence of (rows, columns) float32
        Other normal slices to take pieces from, of any size; without them, pieces come from the
        slice itself, mirrored or shifted.

    Returns
    -------
    changed : (rows, columns) float32
        In 0..1. A slice without body is returned unchanged.
    magnitude : (rows, columns) float32
        Absolute change of each pixel.

    Raises
    ------
    InputError
        If the slice does not have two axes, or the body has another shape.
    """
    if image.ndim != 2 or body.shape != image.shape:
        raise InputError(
            f"a slice and its body must have one shape, not {image.shape} and {body.shape}"
        )
    changed = image.astype(np.float32)
    names, shares = list(KINDS), [share for share, _ in KINDS.values()]
    if not body.any():
        return changed, np.zeros_like(changed)
    near_body = ndimage.binary_dilation(body, iterations=2)
    for _ in range(rng.integers(_REGIONS[0], _REGIONS[1] + 1)):
        name = names[rng.choice(len(names), p=shares)]
        where = _homogeneous(changed, body) if name == "tissue" else body
        mask, centre, radius = _region(rng, where, float(body.sum()))
        mask *= near_body
        spread = float(changed[body].std()) + 0.03
        scene = _Scene(changed, mask, centre, radius, spread, body, others or (image,))
        if mask.sum() >= _FEWEST_PIXELS:
            changed = np.clip(KINDS[name][1](scene, rng), 0, 1).astype(np.float32)
    return changed, np.abs(changed - image)


def _region(
    rng: np.random.Generator, where: npt.NDArray[np.bool_], body_pixels: float
) -> tuple[Picture, tuple[int, int], float]:
    """Soft mask, centre and radius of a region whose centre is drawn from ``where``."""
    share = np.exp(rng.uniform(*np.log(_AREA)))
    radius = max(1.5, float(np.sqrt(share * body_pixels / np.pi)))
    candidates = np.flatnonzero(where)
    row, column = divmod(int(candidates[rng.integers(len(candidates))]), where.shape[1])
    rows, columns = np.ogrid[: where.shape[0], : where.shape[1]]
    turn, stretch = rng.uniform(0, np.pi), rng.uniform(0.6, 1.6)
    cosine, sine = np.cos(turn), np.sin(turn)
    along = ((columns - column) * cosine + (rows - row) * sine) / (radius * stretch)
    across = ((rows - row) * cosine - (columns - column) * sine) / (radius / stretch)
    outline = np.hypot(along, across) + 0.25 * _field(rng, where.shape, radius)
    edge = max(0.5, rng.uniform(0.02, 0.25) * radius)
    mask = np.clip((1 - outline) * radius / edge + 0.5, 0, 1).astype(np.float32)
    return mask, (row, column), radius


def _field(
    rng: np.random.Generator, shape: tuple[int, ...], scale: float
) -> npt.NDArray[np.float64]:
    """Smooth noise of unit variance at knots ``scale`` pixels apart."""
    coarse = rng.standard_normal([int(n / scale) + 4 for n in shape])
    at = np.meshgrid(*(1 + np.arange(n) / scale for n in shape), indexing="ij")
    field: npt.NDArray[np.float64] = ndimage.map_coordinates(coarse, at, order=3, mode="nearest")
    return field


def _grain(rng: np.random.Generator, shape: tuple[int, ...], width: float) -> Picture:
    """Noise of unit variance, grains ``width`` pixels wide (standard deviation of the blur)."""
    grain = ndimage.gaussian_filter(rng.standard_normal(shape).astype(np.float32), width)
    unit: Picture = grain / np.float32(grain.std() + 1e-6)
    return unit


def _homogeneous(image: Picture, body: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Body pixels in even tissue that is neither black nor white; the body, if there is none."""
    mean = ndimage.gaussian_filter(image, 4)
    deviation = ndimage.gaussian_filter(image * image, 4) - mean * mean
    even = deviation < np.quantile(deviation[body], 0.45)
    found = body & even & (mean > 0.12) & (mean < 0.97)
    return found if found.any() else body


def _tissue(scene: _Scene, rng: np.random.Generator) -> Picture:
    """Make one tissue slightly darker or brighter without changing texture or neighbours."""
    typical = ndimage.gaussian_filter(scene.image, 4)[scene.centre]
    mask = ndimage.gaussian_filter(scene.mask * (np.abs(scene.image - typical) < 0.22), 0.7)
    step = rng.choice([-1, 1]) * rng.uniform(0.07, 0.3)
    uneven = 1 + rng.uniform(0, 0.6) * _grain(rng, mask.shape, 3)
    return _add(scene, step * mask * np.clip(uneven, 0, 2))


def _shift(scene: _Scene, rng: np.random.Generator) -> Picture:
    """Make everything in the region darker or brighter."""
    step = rng.choice([-1, 1]) * scene.spread * rng.uniform(0.5, 2.5)
    uneven = 1 + rng.uniform(0, 0.5) * _grain(rng, scene.mask.shape, rng.uniform(1, 4))
    return _add(scene, step * scene.mask * np.clip(uneven, 0, 2))


def _fill(scene: _Scene, rng: np.random.Generator) -> Picture:
    """Blend in an even intensity with a grain of its own."""
    grey = np.quantile(scene.image[scene.body], rng.uniform(0.02, 0.98))
    grain = _grain(rng, scene.mask.shape, rng.uniform(0.5, 3))
    filling = np.float32(grey) + grain * np.float32(scene.spread * rng.uniform(0.02, 0.4))
    return _blend(scene, filling, rng.uniform(0.4, 1))


def _foreign(scene: _Scene, rng: np.random.Generator) -> Picture:
    """Blend in a piece from elsewhere in another slice."""
    other = scene.others[int(rng.integers(len(scene.others)))]
    if other.shape != scene.image.shape:
        factors = [n / m for n, m in zip(scene.image.shape, other.shape, strict=True)]
        other = ndimage.zoom(other, factors, order=1)
    if rng.random() < 0.5:
        other = other[:, ::-1]
    by = [int(rng.integers(-(n // 3), n // 3 + 1)) for n in other.shape]
    return _blend(scene, np.roll(other, by, axis=(0, 1)), rng.uniform(0.35, 1))


def _warp(scene: _Scene, rng: np.random.Generator) -> Picture:
    """Push tissue out of the region, or draw it in, as a mass does."""
    rows, columns = np.indices(scene.image.shape, dtype=np.float32)
    down, across = rows - scene.centre[0], columns - scene.centre[1]
    distance = np.hypot(down, across) / (1.5 * scene.radius)
    strength = rng.choice([-1, 1]) * rng.uniform(0.4, 0.8)
    factor = 1 - strength * np.square(np.clip(1 - distance, 0, 1))
    at = [scene.centre[0] + down * factor, scene.centre[1] + across * factor]
    moved: Picture = ndimage.map_coordinates(scene.image, at, order=1, mode="nearest")
    return moved


def _blur(scene: _Scene, rng: np.random.Generator) -> Picture:
    """Remove the texture."""
    return _blend(scene, ndimage.gaussian_filter(scene.image, rng.uniform(3, 7)), 1.0)


def _roughen(scene: _Scene, rng: np.random.Generator) -> Picture:
    """Add a texture."""
    grain = _grain(rng, scene.mask.shape, rng.uniform(0, 2))
    return _add(scene, scene.mask * grain * rng.uniform(0.05, 0.2))


def _add(scene: _Scene, amount: npt.NDArray[np.floating]) -> Picture:
    changed: Picture = (scene.image + amount).astype(np.float32)
    return changed


def _blend(scene: _Scene, other: Picture, opacity: float) -> Picture:
    return _add(scene, opacity * scene.mask * (other - scene.image))


#: Kinds of change: how often each is drawn, and its function.
KINDS: dict[str, tuple[float, Callable[[_Scene, np.random.Generator], Picture]]] = {
    "tissue": (0.35, _tissue),
    "shift": (0.18, _shift),
    "fill": (0.09, _fill),
    "foreign": (0.18, _foreign),
    "warp": (0.08, _warp),
    "blur": (0.06, _blur),
    "roughen": (0.06, _roughen),
}
