"""What scans and their results are called in the window.

A scan's label names no patient, so two scans may have the same one. Their layers are then numbered
in the order in which they were opened: napari proposes a layer's name as that of the file it is
saved to, so nothing of a path, which may hold a patient's name, stands in it. Which file is which
is shown on the screen alone: in the dock's list of scans.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary, ref

from napari.layers import Image, Layer

from napari_spatial_ar.gui.layers import KEY, kind_of, result_name, scan_behind

__all__ = ["ScanNames", "name_scans", "parts_that_differ", "path_of"]

_SUFFIXES = re.compile(r"(\.nii|\.nrrd|\.mha|\.dcm|\.png|\.tiff?)?(\.gz)?$", re.IGNORECASE)


def parts_that_differ(paths: Sequence[Path]) -> list[str]:
    """Shortest part of each path by which all are told apart, the nearest to the file.

    Parameters
    ----------
    paths : sequence of Path
        Files, or folders of scans that are in several.

    Returns
    -------
    list of str
        One or more parts of each path, in a row, the file's without its usual suffix; "" for
        each where paths are equal.
    """
    if len(set(paths)) < len(paths):
        return [""] * len(paths)
    reversed_parts = [
        [_SUFFIXES.sub("", path.name) or path.name, *reversed(path.parts[:-1])] for path in paths
    ]
    most = max(map(len, reversed_parts), default=0)
    for count in range(1, most + 1):
        for start in range(most - count + 1):
            shown = ["/".join(reversed(own[start : start + count])) for own in reversed_parts]
            if len(set(shown)) == len(shown) and all(shown):
                return shown
    return [path.name for path in paths]  # they differ in a suffix alone


class ScanNames:
    """Keeps the names of a viewer's scans and results in step with what is open.

    A name that the user gave a layer stays.

    Parameters
    ----------
    viewer : napari.Viewer
        Not kept alive by this.
    """

    def __init__(self, viewer: Any):
        self._viewer = ref(viewer)
        # napari holds these by weak reference.
        viewer.layers.events.inserted.connect(self.refresh)
        viewer.layers.events.removed.connect(self.refresh)
        self.refresh()

    def refresh(self, event: Any = None) -> None:
        """Name all layers anew."""
        viewer = self._viewer()
        if viewer is None:
            return
        scans = [layer for layer in viewer.layers if kind_of(layer) == "scan"]
        by_label: dict[str, list[Image]] = {}
        for layer in scans:
            by_label.setdefault(layer.metadata[KEY]["volume"].series.label, []).append(layer)
        for label, layers in by_label.items():
            for layer in layers:
                if "number" not in layer.metadata[KEY]:
                    taken = [one.metadata[KEY].get("number", 0) for one in layers]
                    layer.metadata[KEY]["number"] = max(taken) + 1
                number = layer.metadata[KEY]["number"]
                _rename(layer, f"{label} ({number})" if len(layers) > 1 else label, first=label)
        for layer in viewer.layers:
            scan = scan_behind(layer)
            if scan is not None:
                facts = layer.metadata[KEY]
                of = scan.name if len(scans) > 1 else ""
                _rename(layer, result_name(facts["kind"], facts["model"], of))


def path_of(layer: Image) -> Path | None:
    """File of a scan's layer, or the folder of its files; None of one that is in no file."""
    volume = layer.metadata.get(KEY, {}).get("volume")
    files = () if volume is None else volume.series.files
    if not files:
        return None
    return Path(files[0] if len(files) == 1 else files[0].parent)


def _rename(layer: Layer, name: str, *, first: str = "") -> None:
    """Give a layer a name, unless the user gave it one; ``first`` is the one it began with."""
    facts = layer.metadata[KEY]
    given = facts.get("named", first or layer.name)
    # napari adds a number to a name that another layer has.
    if re.sub(r" \[\d+\]$", "", layer.name) != given:
        return
    if given != name:
        layer.name = name
    facts["named"] = name


_kept: WeakKeyDictionary[Any, ScanNames] = WeakKeyDictionary()


def name_scans(viewer: Any) -> ScanNames:
    """Return what names a viewer's scans, made when first asked for; it lasts as the viewer."""
    if viewer not in _kept:
        _kept[viewer] = ScanNames(viewer)
    return _kept[viewer]
