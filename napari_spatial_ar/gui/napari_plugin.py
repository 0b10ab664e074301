"""The entry points of napari's manifest: readers, writers and sample data (npe2)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import napari
import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QMainWindow

from napari_spatial_ar.errors import Cancelled, SpatialARError
from napari_spatial_ar.gui.display_windows import opening_window
from napari_spatial_ar.gui.jobs import main_window, report, run_waiting, warn
from napari_spatial_ar.gui.layers import KEY, scan_of, source_array, volume_layer_kwargs
from napari_spatial_ar.gui.open_scan import (
    LOOKING,
    Loaded,
    SeriesChooser,
    Warned,
    find_steps,
    has_several,
    read_steps,
)
from napari_spatial_ar.gui.viewer import patient_marks, show_scan
from napari_spatial_ar.imaging.nifti import Content, write_nifti
from napari_spatial_ar.imaging.reading import read
from napari_spatial_ar.imaging.samples import sample_volume
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.signatures import kind_of
from napari_spatial_ar.review.contents import mask_content, scores_content

if TYPE_CHECKING:
    from napari.components import ViewerModel


__all__ = ["flair_sample", "get_reader", "layer_data", "read_layers", "write_image", "write_labels"]

Paths = str | Sequence[str]


LayerData = tuple[Any, ...]


# Return value that npe2 treats as "opened, but no layer".
_NOTHING: list[LayerData] = [(None,)]


# napari asks every reader about each dropped folder: the first files suffice.
_FILES_LOOKED_AT = 300


def get_reader(path: Paths) -> Callable[[Paths], list[LayerData]] | None:
    """Reader for a path, or None if nothing in it looks like a scan."""
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
    """Whether a file is a scan by its content, since other programs use the same extensions."""
    return kind_of(path) not in (None, "packed")


def read_layers(path: Paths) -> list[LayerData]:
    """Read the scans in a file, folder or list of files.

    If napari's window is open and there are several scans, the user is asked which to open.

    Returns
    -------
    list of tuple
        napari's layer tuples; ``[(None,)]``, which npe2 treats as nothing, if the user
        cancelled or an error was shown.

    Raises
    ------
    InputError
        If there is none, and no window to report it in.
    """
    window = main_window()
    if window is None:
        return layer_data([Loaded(volume, opening_window(volume)) for volume in read(path)])
    try:
        loaded = _ask_and_read([path] if isinstance(path, str) else list(path), window)
    except Cancelled:
        return _NOTHING
    except SpatialARError as error:
        report(error, "Opening the scan")
        return _NOTHING
    return layer_data(loaded) or _NOTHING


def _ask_and_read(paths: list[str], window: QMainWindow) -> list[Loaded]:
    _, found = run_waiting(lambda stop: find_steps(stop, paths), LOOKING, window)
    scans: Sequence[Scan] = found.scans
    errors = found.errors
    if has_several(found):
        chooser = SeriesChooser(found, window)
        scans = chooser.chosen if chooser.exec() else []
        errors = ()
        chooser.deleteLater()
        if not scans:
            raise Cancelled("no scan was chosen")
    steps, _ = run_waiting(lambda stop: read_steps(stop, scans, errors), "Reading...", window)
    for step in steps:
        if isinstance(step, Warned):
            warn(step.text)
    return [step for step in steps if isinstance(step, Loaded)]


def layer_data(scans: Sequence[Loaded]) -> list[LayerData]:
    """Convert scans to napari's layer tuples, and show their warnings.

    If napari is running, the first scan is then shown in its own plane, the others are hidden.
    """
    viewer = napari.current_viewer()
    layers: list[LayerData] = []
    # The stacks of a series share most of their warnings.
    for text in dict.fromkeys(text for loaded in scans for text in loaded.volume.warnings):
        warn(text)
    for loaded in scans:
        arguments = volume_layer_kwargs(loaded.volume, loaded.drawn)
        arguments["visible"] = viewer is None
        layers.append((arguments.pop("data"), arguments, "image"))
    if layers and viewer is not None:
        patient_marks(viewer)
        # Once napari has added the layers.
        QTimer.singleShot(0, partial(_show, viewer, scans[0].volume))
    return layers


def _show(viewer: ViewerModel, volume: Scan) -> None:
    for layer in viewer.layers:
        if scan_of(layer) is volume:
            show_scan(viewer, layer)
            return


def write_labels(path: str, data: npt.ArrayLike, attributes: dict[str, Any]) -> list[str]:
    """Write a Labels layer: uint8, or int32 if it has labels above 255.

    The mask of the Review dock is written as 1 and 0, with 1 also in rejected findings.

    Raises
    ------
    InputError, StorageError
        If the layer matches no scan, or the file cannot be written.
    """
    array, geometry, like = source_array(data, attributes)
    facts = attributes.get("metadata", {}).get(KEY, {})
    content = Content("labels", "Labels drawn in napari", "label")
    if facts.get("kind") == "mask":
        array = (array != 0) & ~np.isin(array, facts.get("rejected", ()))
        content = mask_content(facts["model"])
    wide = array.size and (array.max() > np.iinfo(np.uint8).max or array.min() < 0)
    array = array.astype(np.int32 if wide else np.uint8)
    write_nifti(path, array, geometry, like=like, content=content)
    return [path]


def write_image(path: str, data: npt.ArrayLike, attributes: dict[str, Any]) -> list[str]:
    """Write an Image layer, such as a heatmap, as float32.

    Raises
    ------
    InputError, StorageError
        If the layer matches no scan, or the file cannot be written.
    """
    array, geometry, like = source_array(data, attributes)
    facts = attributes.get("metadata", {}).get(KEY, {})
    content = Content("image", "Image from napari")
    if facts.get("kind") == "nll":
        content = scores_content(facts["unit"], facts["model"])
    elif facts.get("kind") == "scan":
        content = Content.scan(facts["volume"])
    write_nifti(path, array.astype(np.float32), geometry, like=like, content=content)
    return [path]


def flair_sample() -> list[LayerData]:
    """Layer tuples of the sample, for napari's File > Open Sample menu."""
    volume = sample_volume()
    return layer_data([Loaded(volume, opening_window(volume))])
