"""Measures the appearance of a scan's slices to a model; see `domain_shift`."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from napari_spatial_ar.datasets.selection import place_in_stack
from napari_spatial_ar.errors import MemoryShortage
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.tissue import tissue_mask
from napari_spatial_ar.imaging.windows import apply_window, resolve
from napari_spatial_ar.normative.calibration.acquired import header_shift
from napari_spatial_ar.normative.calibration.domain_shift import (
    GREYS,
    Appearance,
    DomainShift,
    compare_appearance,
)
from napari_spatial_ar.normative.detectors.grids import without_air
from napari_spatial_ar.normative.scoring_model import ScoringModel
from napari_spatial_ar.normative.tiling import Tiling, embed_slice
from napari_spatial_ar.steps import finish

__all__ = ["domain_shift", "domain_shift_steps", "measure_appearance"]

# Channels of the embedding stored in a model file, spread evenly over all of them.
_MOST_CHANNELS = 512
# Positions in the middle of a stack that are measured: its ends differ in every scan.
_PLACES = (0.3, 0.4, 0.5, 0.6, 0.7)


def measure_appearance(
    unit: npt.NDArray[np.float32],
    grids: Tensor | None = None,
    tiling: Tiling | None = None,
    geometry: Geometry | None = None,
) -> Appearance | None:
    """Measure one slice.

    Parameters
    ----------
    unit : (rows, columns) float32
        Intensities in 0..1.
    grids : (T, D, h, w) float32, optional
        Embeddings of its tiles; with ``tiling``.
    geometry : Geometry, optional
        Geometry of the volume it belongs to.

    Returns
    -------
    Appearance or None
        None if there is no body in it.
    """
    body = tissue_mask(unit)
    if not body.any():
        return None
    greys = np.percentile(unit[body], list(GREYS.values()))
    measures = {"body": float(body.mean())}
    measures |= {name: float(grey) for name, grey in zip(GREYS, greys, strict=True)}
    if geometry is not None and geometry.measurable:
        spacing = list(geometry.spacing)
        measures["slice_spacing"] = spacing.pop(geometry.slice_axis)
        across = [n for axis, n in enumerate(geometry.shape) if axis != geometry.slice_axis]
        measures["pixel_spacing"] = max(spacing)
        measures["field_of_view"] = max(n * s for n, s in zip(across, spacing, strict=True))
    if grids is None or tiling is None:
        return Appearance(measures)
    weights = functional.interpolate(
        torch.from_numpy(body.astype(np.float32))[None, None], size=tiling.grid, mode="area"
    )[0, 0]
    weights = tiling.cut(weights).to(grids.device)[:, None]
    mean = (without_air(grids.float()) * weights).sum(dim=(0, 2, 3)) / weights.sum()
    step = -(-len(mean) // _MOST_CHANNELS)
    return Appearance(measures, mean[::step].cpu().numpy().astype(np.float32))


def domain_shift_steps(model: ScoringModel, volume: Scan) -> Generator[None, None, DomainShift]:
    """Compare a scan with a model's training scans, embedding a few slices in its middle.

    Parameters
    ----------
    model : ScoringModel
        If its file does not contain the appearance of normal scans, only headers are compared.
    volume : Scan
        The scan, with the slices that the model will score.

    Yields
    ------
    None
        After each slice; stop iterating to cancel.

    Returns
    -------
    DomainShift

    Raises
    ------
    InputError
        If the scan cannot be read.
    WeightsError
        If the backbone's weights are missing.
    """
    by_header = header_shift(model.header, volume)
    normal = model.header.looks
    if normal is None:
        return by_header
    shown = model.header.preprocessing
    window = resolve(shown.window, volume)
    tiling = Tiling.of(shown, model.backbone.patch)
    looks: list[Appearance] = []
    complete = True
    for index in _middle(volume, model.header.selection.slice_range):
        yield
        unit = apply_window(volume.slice(index), *window)
        grids = None
        if complete and normal.embedding and min(unit.shape) >= model.backbone.patch:
            try:
                grids = embed_slice(model.backbone, shown, unit)
            except MemoryShortage:
                complete = False  # scoring would move to the CPU and report it; not worth it here
        look = measure_appearance(unit, grids, tiling, volume.geometry)
        if look is not None:
            looks.append(look)
    found = compare_appearance(normal, looks)
    return DomainShift(
        (*by_header.reasons, *found.reasons),
        found.measured,
        complete and found.complete,
        (*by_header.topics, *found.topics),
    )


def domain_shift(model: ScoringModel, volume: Scan) -> DomainShift:
    """Compare a scan with a model's training scans; see `domain_shift_steps`."""
    return finish(domain_shift_steps(model, volume))


def _middle(volume: Scan, part: tuple[float, float]) -> list[int]:
    """Slices near the middle of the part of the stack that the model is for."""
    geometry = volume.geometry
    places = np.array([place_in_stack(geometry, index) for index in range(geometry.slice_count)])
    wanted = [part[0] + place * (part[1] - part[0]) for place in _PLACES]
    return sorted({int(np.argmin(np.abs(places - place))) for place in wanted})
