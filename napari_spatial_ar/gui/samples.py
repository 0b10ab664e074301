"""npe2 sample data: a real scan that comes with the plugin."""

from __future__ import annotations

from napari_spatial_ar.gui.display_windows import opening_window
from napari_spatial_ar.gui.loading import Loaded
from napari_spatial_ar.gui.readers import LayerData, layer_data
from napari_spatial_ar.imaging.samples import sample_volume

__all__ = ["flair_sample"]


def flair_sample() -> list[LayerData]:
    """Layer tuples of the sample, for napari's File > Open Sample menu."""
    volume = sample_volume()
    return layer_data([Loaded(volume, opening_window(volume))])
