"""npe2 reader: scans of any supported format, told by content."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from napari_spatial_ar.gui.layers import volume_layer_kwargs
from napari_spatial_ar.gui.notify import warn
from napari_spatial_ar.imaging.dicom import is_dicom
from napari_spatial_ar.imaging.nifti import is_nifti
from napari_spatial_ar.imaging.raster import is_raster
from napari_spatial_ar.imaging.reading import read
from napari_spatial_ar.imaging.volume import Volume

__all__ = ["get_reader", "layer_data", "read_layers"]

Paths = str | Sequence[str]
LayerData = tuple[Any, dict[str, Any], str]

# napari asks every reader about each dropped folder: the first files tell.
_FILES_LOOKED_AT = 300


def get_reader(path: Paths) -> Callable[[Paths], list[LayerData]] | None:
    """Reader for a path, or None where nothing in it looks like a scan."""
    paths = [path] if isinstance(path, str) else list(path)
    return read_layers if paths and all(_may_hold_scan(Path(p)) for p in paths) else None


def _may_hold_scan(path: Path) -> bool:
    try:
        return any(_is_image(file) for file in islice(_files(path), _FILES_LOOKED_AT))
    except OSError:
        return False


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for folder, subfolders, names in os.walk(path):
        subfolders.sort()
        yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))


def _is_image(path: Path) -> bool:
    return is_nifti(path) or is_dicom(path) or is_raster(path)


def read_layers(path: Paths) -> list[LayerData]:
    """Read every scan in a file, folder or list of files.

    Raises
    ------
    InputError
        If there is none.
    """
    return layer_data(read(path))


def layer_data(volumes: Sequence[Volume]) -> list[LayerData]:
    """Turn scans into napari's layer tuples, and show what is to be known of them."""
    layers: list[LayerData] = []
    for volume in volumes:
        for text in volume.warnings:
            warn(text)
        arguments = volume_layer_kwargs(volume)
        layers.append((arguments.pop("data"), arguments, "image"))
    return layers
