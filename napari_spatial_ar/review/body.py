"""The body in a scan that a model scored."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.tissue import tissue_mask
from napari_spatial_ar.imaging.windows import apply_window
from napari_spatial_ar.normative.scoring_model import ScoringModel
from napari_spatial_ar.review.provenance import model_window

__all__ = ["Body"]


class Body:
    """Finds the body slice by slice on request, and caches the result.

    The body is determined in the model window, as in calibration.

    Parameters
    ----------
    volume : Scan
        The scan.
    model : NormativeModel
        The model that scores it.
    """

    def __init__(self, volume: Scan, model: ScoringModel) -> None:
        self._volume = volume
        self._model = model
        self._body = np.zeros(volume.geometry.shape, bool)
        self._found = np.zeros(volume.geometry.slice_count, bool)

    @cached_property
    def _window(self) -> tuple[float, float]:
        return model_window(self._model, self._volume)

    def plane(self, index: int) -> npt.NDArray[np.bool_]:
        """Acquired slice ``index``: the two axes of (Z, Y, X) across it; see `tissue_mask`."""
        geometry = self._volume.geometry
        if not self._found[index]:
            upright = tissue_mask(apply_window(self._volume.slice(index), *self._window))
            geometry.to_slices(self._body)[index] = upright
            self._found[index] = True
        return np.asarray(np.moveaxis(self._body, geometry.slice_axis, 0)[index])

    def largest(self, scored: npt.NDArray[np.bool_]) -> int:
        """Pixels of the body in the slice with the most of it, among those (N,) that are scored."""
        areas = (int(np.count_nonzero(self.plane(int(i)))) for i in np.flatnonzero(scored))
        return max(areas, default=0)

    def whole(self, scored: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """(Z, Y, X), valid in the acquired slices (N,) that are scored."""
        for index in np.flatnonzero(scored):
            self.plane(int(index))
        return self._body
