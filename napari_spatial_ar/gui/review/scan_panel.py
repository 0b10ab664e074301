"""The Scan section: list and names of open scans, planes, display window."""

from __future__ import annotations

import re
import threading
from collections.abc import Generator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, ref

import numpy as np
from napari.layers import Image, Layer
from qtpy.QtCore import QObject, Qt, Signal
from qtpy.QtGui import QKeySequence
from qtpy.QtWidgets import (
    QButtonGroup,
    QComboBox,
    QHBoxLayout,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_spatial_ar.gui import display_windows
from napari_spatial_ar.gui.jobs import TaskHost, report
from napari_spatial_ar.gui.layers import (
    KEY,
    geometry_of,
    is_scan,
    result_name,
    scan_behind,
    scan_of,
)
from napari_spatial_ar.gui.open_scan import ScanOpener
from napari_spatial_ar.gui.viewer import patient_marks, plane_in_view, show_plane
from napari_spatial_ar.gui.widgets.forms import (
    SHARED_ROW,
    Note,
    button,
    combo,
    row,
    select_data,
    stack,
)
from napari_spatial_ar.gui.widgets.tooltips import tooltip
from napari_spatial_ar.imaging.geometry import Geometry, Plane
from napari_spatial_ar.imaging.scan import Scan

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.utils.events import Event


__all__ = [
    "PlaneButtons",
    "ScanList",
    "ScanNames",
    "ScanPanel",
    "WindowBox",
    "name_scans",
    "parts_that_differ",
    "path_of",
]

_KEYS: dict[Plane, str] = {"axial": "Alt+1", "coronal": "Alt+2", "sagittal": "Alt+3"}


class PlaneButtons(QWidget):
    """One button per plane, the current one pressed; hidden if the patient's axes are unknown."""

    def __init__(self, viewer: ViewerModel):
        super().__init__()
        self._viewer = viewer
        self._group = QButtonGroup(self)
        # Not exclusive: in 3-D display none is pressed.
        self._group.setExclusive(False)
        self.buttons: dict[Plane, QPushButton] = {}
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        for plane, key in _KEYS.items():
            made = QPushButton(plane.capitalize())
            made.setCheckable(True)
            made.setShortcut(QKeySequence(key))
            made.clicked.connect(partial(self._on_clicked, plane))
            self._group.addButton(made)
            layout.addWidget(made)
            self.buttons[plane] = made
        viewer.dims.events.order.connect(self._show)
        viewer.dims.events.ndisplay.connect(self._show)
        self.set_geometry(None)

    def set_geometry(self, geometry: Geometry | None) -> None:
        """Offer the planes of a scan; None hides the buttons."""
        known = geometry is not None and geometry.spacing_known
        self.setVisible(known)
        for plane, made in self.buttons.items():
            # A hidden button would still respond to its key.
            made.setEnabled(known)
            key = _KEYS[plane]
            made.setToolTip(
                tooltip("scan.planes", plane=plane, key=key)
                if geometry is None
                else tooltip("scan.planes.of_a_scan", plane=plane, key=key, seen=geometry.plane)
            )
        self._show()

    def _on_clicked(self, plane: Plane, *_: object) -> None:
        show_plane(self._viewer, plane)
        self._show()

    def _show(self, event: Event | None = None) -> None:
        shown = plane_in_view(self._viewer)
        for plane, made in self.buttons.items():
            made.setChecked(plane == shown)


_TOOLTIP = Qt.ItemDataRole.ToolTipRole


class ScanList(QObject):
    """Keeps a combo box in step with a viewer's image layers."""

    #: Another scan (or None) was chosen.
    chosen = Signal(object)
    #: A layer was removed from the viewer.
    removed = Signal()

    def __init__(self, viewer: ViewerModel, box: QComboBox):
        super().__init__(box)
        self._viewer = viewer
        self._box = box
        self._current: Image | None = None
        events = viewer.layers.events
        # napari disconnects these by itself when the box is deleted.
        events.inserted.connect(self._on_inserted)
        events.removed.connect(self._on_removed)
        events.reordered.connect(self._fill)
        for layer in viewer.layers:
            layer.events.name.connect(self._fill)
        box.currentIndexChanged.connect(self._on_index)
        self._fill()

    @property
    def layer(self) -> Image | None:
        """The chosen scan."""
        return self._current

    def choose(self, layer: Image) -> None:
        """Select a layer."""
        select_data(self._box, layer)

    def _on_inserted(self, event: Event) -> None:
        event.value.events.name.connect(self._fill)
        self._fill()

    def _on_removed(self, event: Event) -> None:
        event.value.events.name.disconnect(self._fill)
        self._fill()
        self.removed.emit()

    def _fill(self, event: Event | None = None) -> None:
        scans = [layer for layer in self._viewer.layers if is_scan(layer)]
        self._box.blockSignals(True)
        self._box.clear()
        for layer, text in zip(scans, _texts(scans), strict=True):
            self._box.addItem(text, layer)
            where = path_of(layer)
            self._box.setItemData(self._box.count() - 1, where and str(where), _TOOLTIP)
        if not scans:
            self._box.addItem("No scan is open", None)
        self._box.setEnabled(bool(scans))
        if not select_data(self._box, self._current):
            # The topmost one is the one that is visible.
            seen = [layer for layer in scans if layer.visible]
            select_data(self._box, seen[-1] if seen else None)
        self._box.blockSignals(False)
        self._on_index()

    def _on_index(self) -> None:
        layer = self._box.currentData()
        where = self._box.currentData(_TOOLTIP)
        self._box.setToolTip(f"{tooltip('scan.scan')}\n{where}" if where else tooltip("scan.scan"))
        if layer is not self._current:
            self._current = layer
            self.chosen.emit(layer)


def _texts(scans: Sequence[Image]) -> list[str]:
    """Names of scans, those with equal labels followed by the part of their paths that differs."""
    texts = [str(layer.name) for layer in scans]
    alike: dict[str, list[tuple[int, Path]]] = {}
    for index, layer in enumerate(scans):
        scan, where = scan_of(layer), path_of(layer)
        if scan is not None and where is not None:
            alike.setdefault(scan.series.label, []).append((index, where))
    for found in alike.values():
        parts = parts_that_differ([where for _, where in found]) if len(found) > 1 else [""]
        for (index, _), part in zip(found, parts, strict=True):
            texts[index] += f": {part}" if part else ""
    return texts


_BY_HAND = "by hand"


class WindowBox(QWidget):
    """Combo box that sets a layer's contrast limits and nothing else."""

    def __init__(self, tasks: TaskHost):
        super().__init__()
        self._tasks = tasks
        self._layer: Image | None = None
        self.box = combo(
            tooltip("scan.display_window"),
            "Display window",
            letters=SHARED_ROW,
        )
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.box, 1)
        self.box.activated.connect(self._on_activated)
        self.set_layer(None)

    def set_layer(self, layer: Image | None) -> None:
        """Follow another layer; hidden for layers that this plugin did not open."""
        if self._layer is not None:
            self._layer.events.contrast_limits.disconnect(self._show)
        volume = scan_of(layer)
        self._layer = layer if volume is not None else None
        self.box.clear()
        if volume is not None and layer is not None:
            for key, text in display_windows.choices(volume).items():
                self.box.addItem(text, key)
            layer.events.contrast_limits.connect(self._show)
        self._show()
        self.setVisible(volume is not None)

    def _show(self, event: Event | None = None) -> None:
        """Show which choice gave the current limits."""
        if self._layer is None:
            return
        drawn = tuple(float(v) for v in self._layer.contrast_limits)
        choice = _choice_of(self._layer, drawn)
        at = self.box.findData(_BY_HAND)
        if choice == _BY_HAND and at < 0:
            self.box.addItem("Set by hand", _BY_HAND)
        elif choice != _BY_HAND and at >= 0:
            self.box.removeItem(at)
        select_data(self.box, choice)

    def _on_activated(self, index: int) -> None:
        choice, layer = self.box.itemData(index), self._layer
        volume = scan_of(layer)
        if layer is None or volume is None or choice == _BY_HAND:
            return
        if not display_windows.needs_voxels(choice):
            self._draw(layer, volume, choice, display_windows.limits_of(volume, choice))
            return

        def work(stop: threading.Event) -> Generator[None, None, tuple[float, float]]:
            yield
            return display_windows.limits_of(volume, choice)

        task = self._tasks.start(work)
        task.returned.connect(lambda limits: self._draw(layer, volume, choice, limits))
        task.failed.connect(lambda error: report(error, "Finding the display window"))

    def _draw(self, layer: Image, volume: Scan, choice: str, limits: tuple[float, float]) -> None:
        display_windows.remember_choice(volume, choice)
        layer.metadata[KEY]["drawn"] = display_windows.Drawn(choice, limits)
        layer.contrast_limits = limits
        self._show()


def _choice_of(layer: Image, drawn: tuple[float, ...]) -> str:
    """Choice that gives the current limits, as far as known without reading voxels."""
    volume = scan_of(layer)
    assert volume is not None
    last: display_windows.Drawn | None = layer.metadata[KEY].get("drawn")
    if last is not None and np.allclose(drawn, last.limits):
        return last.choice
    for choice in display_windows.choices(volume):
        if not display_windows.needs_voxels(choice) and np.allclose(
            drawn, display_windows.limits_of(volume, choice)
        ):
            return choice
    return _BY_HAND


_SUFFIXES = re.compile(r"(\.nii|\.nrrd|\.mha|\.dcm|\.png|\.tiff?)?(\.gz)?$", re.IGNORECASE)


def parts_that_differ(paths: Sequence[Path]) -> list[str]:
    """Shortest part of each path that distinguishes all, the nearest to the file.

    Parameters
    ----------
    paths : sequence of Path
        Files, or folders of scans with several files.

    Returns
    -------
    list of str
        One or more consecutive parts of each path, the file's without its usual suffix; "" for
        each if paths are equal.
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
    return [path.name for path in paths]  # they differ in the suffix only


class ScanNames:
    """Keeps the names of a viewer's scans and results in step with what is open.

    A name that the user gave a layer is kept.

    Parameters
    ----------
    viewer : napari.Viewer
        Held by weak reference.
    """

    def __init__(self, viewer: ViewerModel):
        self._viewer = ref(viewer)
        # napari holds these by weak reference.
        viewer.layers.events.inserted.connect(self.refresh)
        viewer.layers.events.removed.connect(self.refresh)
        self.refresh()

    def refresh(self, event: Event | None = None) -> None:
        """Name all layers again."""
        viewer = self._viewer()
        if viewer is None:
            return
        by_label: dict[str, list[Layer]] = {}
        for layer in viewer.layers:
            opened = scan_of(layer)
            if opened is not None:
                by_label.setdefault(opened.series.label, []).append(layer)
        several = sum(map(len, by_label.values())) > 1
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
                of = scan.name if several else ""
                _rename(layer, result_name(facts["kind"], facts["model"], of))


def path_of(layer: Image) -> Path | None:
    """File of a scan's layer, or the folder of its files; None if it has no file."""
    volume = scan_of(layer)
    files = () if volume is None else volume.series.files
    if not files:
        return None
    return Path(files[0] if len(files) == 1 else files[0].parent)


def _rename(layer: Layer, name: str, *, first: str = "") -> None:
    """Name a layer, unless the user has renamed it; ``first`` is its initial name."""
    facts = layer.metadata[KEY]
    given = facts.get("named", first or layer.name)
    # napari adds a number to a name that another layer has.
    if re.sub(r" \[\d+\]$", "", layer.name) != given:
        return
    if given != name:
        layer.name = name
    facts["named"] = name


_kept: WeakKeyDictionary[ViewerModel, ScanNames] = WeakKeyDictionary()


def name_scans(viewer: ViewerModel) -> ScanNames:
    """Return the namer of a viewer's scans, created on first use; it lasts as the viewer does."""
    if viewer not in _kept:
        _kept[viewer] = ScanNames(viewer)
    return _kept[viewer]


_INVITATION = "Or drop a file or folder on this dock."


_NOT_REGULAR = "Geometry not regular: nothing is measured in mm."


_SHEARED = "Geometry not regular: the gantry was tilted. Nothing is measured across slices."


class ScanPanel(QWidget):
    """Planes and display window; the list of scans and the ways to open one are for a dock's head.

    Parameters
    ----------
    viewer : napari.Viewer
        The viewer whose layers are listed.
    tasks : TaskHost
        Reads scans.
    """

    #: Another scan layer (or None) was chosen.
    chosen = Signal(object)

    def __init__(self, viewer: ViewerModel, tasks: TaskHost):
        super().__init__()
        self.box = combo(tooltip("scan.scan"), "Scan", letters=SHARED_ROW)
        self.open_button = button(
            "Open scan...",
            tooltip("scan.open_scan"),
        )
        self.worklist_button = button("Worklist...", tooltip("scan.worklist"))
        self.note = Note(_INVITATION)
        self.cancel_button = button("Cancel", tooltip("scan.cancel"))
        self.cancel_button.hide()
        self.warning = Note(strong=True)
        self.planes = PlaneButtons(viewer)
        self.window_box = WindowBox(tasks)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        view = row(self.planes, self.window_box)
        view.setStretch(1, 1)
        layout.addWidget(stack([self.warning, view]))
        self.opening = row(self.open_button, self.worklist_button, self.note, self.cancel_button)
        self.opening.setStretch(2, 1)
        self._marks = patient_marks(viewer)
        name_scans(viewer)
        self.opener = ScanOpener(viewer, tasks, self)
        self.list = ScanList(viewer, self.box)
        self.open_button.setMenu(self.opener.menu(self))
        self.cancel_button.clicked.connect(self.opener.cancel)
        # The line stays, so that what is below it stays under the cursor.
        self.opener.message.connect(lambda text: self.note.set_text(text or _INVITATION))
        self.opener.busy.connect(self._on_busy)
        # If there are several, the first is shown; the list has the others.
        self.opener.began.connect(self.list.choose)
        self.list.chosen.connect(self._on_chosen)
        self._on_chosen(self.list.layer)

    @property
    def layer(self) -> Image | None:
        """The chosen scan."""
        return self.list.layer

    def _on_busy(self, busy: bool) -> None:
        self.cancel_button.setVisible(busy)
        self.open_button.setEnabled(not busy)

    def _on_chosen(self, layer: Image | None) -> None:
        geometry = geometry_of(layer)
        irregular = geometry is not None and not geometry.regular
        sheared = geometry is not None and geometry.exact
        self.warning.set_text((_SHEARED if sheared else _NOT_REGULAR) if irregular else "")
        self.planes.set_geometry(geometry)
        self.window_box.set_layer(layer)
        self._marks.follow(layer)
        self.chosen.emit(layer)
