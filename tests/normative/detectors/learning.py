"""Spatial AR on stored grids, to the end or up to a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from napari_spatial_ar.normative.detectors import FitContext, SpatialARDetector, StoredGrids
from napari_spatial_ar.normative.detectors.base import Learned, Step
from napari_spatial_ar.steps import finish


def learn_ar(
    grids: tuple[StoredGrids, StoredGrids],
    folder: Path,
    *,
    stop_at: int | None = None,
    **options: Any,
) -> tuple[Learned[SpatialARDetector] | None, list[Step]]:
    setup = FitContext(seed=3, valid=grids[1], checkpoint=folder / "checkpoint.safetensors")
    learning = SpatialARDetector.learn(grids[0], setup, **options)
    seen: list[Step] = []
    if stop_at is None:
        return finish(learning, seen.append), seen
    while not seen or seen[-1].done < stop_at:
        seen.append(next(learning))
    return None, seen
