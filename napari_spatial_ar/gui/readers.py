"""npe2 reader: scans of any supported format, told by content."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import napari
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QMainWindow

from napari_spatial_ar.errors import Cancelled, SpatialARError
from napari_spatial_ar.gui.display_windows import opening_window
from napari_spatial_ar.gui.layers import KEY, volume_layer_kwargs
from napari_spatial_ar.gui.loading import LOOKING, Loaded, Warned, find_steps, read_steps
from napari_spatial_ar.gui.marks import attend
from napari_spatial_ar.gui.notify import report, warn
from napari_spatial_ar.gui.series_chooser import SeriesChooser, worth_asking
from napari_spatial_ar.gui.viewer import show_scan
from napari_spatial_ar.gui.waiting import main_window, run_waiting
from napari_spatial_ar.imaging.reading import read
from napari_spatial_ar.imaging.signatures import kind_of
from napari_spatial_ar.imaging.volume import Volume

__all__ = ["get_reader", "layer_data", "read_layers"]

Paths = str | Sequence[str]
LayerData = tuple[Any, ...]

# What npe2 takes as "opened, but no layer".
_NOTHING: list[LayerData] = [(None,)]

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
    """Whether a file is a scan by its content: names that other programs use too say little."""
    return kind_of(path) not in (None, "packed")


def read_layers(path: Paths) -> list[LayerData]:
    """Read the scans in a file, folder or list of files.

    Where napari's window is open and there are several scans, the user is asked which to open.

    Returns
    -------
    list of tuple
        napari's layer tuples; ``[(None,)]``, which npe2 takes as nothing, where the user
        cancelled or an error was shown.

    Raises
    ------
    InputError
        If there is none, and no window to say so in.
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
    scans, errors = found.scans, found.errors
    if worth_asking(found):
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
    """Turn scans into napari's layer tuples, and show what is to be known of them.

    Where napari runs, the first scan is then shown in its own plane, the others wait hidden.
    """
    viewer = napari.current_viewer()
    layers: list[LayerData] = []
    # The stacks of a series have most of their warnings in common.
    for text in dict.fromkeys(text for loaded in scans for text in loaded.volume.warnings):
        warn(text)
    for loaded in scans:
        arguments = volume_layer_kwargs(loaded.volume, loaded.drawn)
        arguments["visible"] = viewer is None
        layers.append((arguments.pop("data"), arguments, "image"))
    if layers and viewer is not None:
        attend(viewer)
        # Once napari has added the layers.
        QTimer.singleShot(0, partial(_show, viewer, scans[0].volume))
    return layers


def _show(viewer: Any, volume: Volume) -> None:
    for layer in viewer.layers:
        if layer.metadata.get(KEY, {}).get("volume") is volume:
            show_scan(viewer, layer)
            return
