"""The findings as a list to go through, with keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import ref

import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtGui import QKeySequence
from qtpy.QtWidgets import QShortcut, QVBoxLayout, QWidget

from napari_spatial_ar.gui.review.findings_model import COMMENT
from napari_spatial_ar.gui.review.findings_table import FindingsTable
from napari_spatial_ar.gui.review.mask import MaskController
from napari_spatial_ar.gui.review.scored_layer import Session
from napari_spatial_ar.gui.viewer import go_to_voxel
from napari_spatial_ar.gui.widgets.fold import folding
from napari_spatial_ar.gui.widgets.forms import Note, button, row
from napari_spatial_ar.gui.widgets.tooltips import tooltip
from napari_spatial_ar.gui.widgets.warning_note import WarningNote
from napari_spatial_ar.review.findings_list import FindingsList, ReviewedFinding, Status

__all__ = ["KEYS", "FindingsPanel"]

#: Key: what it does. P paints where the mask layer is selected; Shift+N goes back there too.
KEYS = {
    "N": "next",
    "P": "previous",
    "Shift+N": "previous",
    "K": "keep",
    "R": "reject",
    "U": "unsure",
}


def _key(panel: ref[FindingsPanel], action: str) -> Callable[[Any], None]:
    """Make what napari calls for a key pressed in the viewer's canvas; it keeps no dock alive."""

    def press(viewer: Any) -> None:
        found = panel()
        if found is not None:
            found.act(action)

    return press


class FindingsPanel(QWidget):
    """Table of findings, and what a reader says of them.

    Parameters
    ----------
    viewer : napari.Viewer
        Where findings are shown.
    scope : QWidget
        The dock: keys work anywhere in it but in text fields, and on the viewer's canvas.
    """

    def __init__(self, viewer: Any, scope: QWidget):
        super().__init__()
        self._viewer = viewer
        self._masks: MaskController | None = None
        self._session: Session | None = None
        self._showing = False
        self._headline = ""
        self._listed = FindingsList()
        self.table = FindingsTable()
        self.model, self.sorted = self.table.findings, self.table.sorted
        self.comments = self.table.comments
        self.unlike = WarningNote(tooltip("model.why"))
        self.detail = Note()
        self.buttons = {
            "previous": button("◀", tooltip("findings.previous"), "Previous flagged region"),
            "next": button("▶", tooltip("findings.next"), "Next flagged region"),
            "keep": button("Keep", tooltip("findings.keep")),
            "unsure": button("Unsure", tooltip("findings.unsure")),
            "reject": button("Reject", tooltip("findings.reject")),
        }
        self.strokes = Note()
        self.forget = button("Forget strokes", tooltip("findings.forget_strokes"))
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        parts = [
            self.unlike,
            self.table,
            row(*self.buttons.values()),
            self.detail,
            row(self.strokes, self.forget),
        ]
        self.fold = folding("Flagged regions", parts, key="findings")
        layout.addWidget(self.fold)
        for name, made in self.buttons.items():
            made.setMinimumWidth(30)
            made.clicked.connect(getattr(self, name))
        for key, name in KEYS.items():
            shortcut = QShortcut(QKeySequence(key), scope)
            shortcut.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
            shortcut.activated.connect(getattr(self, name))
            viewer.bind_key(key.replace("+", "-"), _key(ref(self), name), overwrite=True)
        self.table.selectionModel().selectionChanged.connect(self._on_selected)
        self.model.commented.connect(self._on_comment)
        self.forget.clicked.connect(self._on_forget)
        self._show(None)

    def attend(self, masks: MaskController) -> None:
        """Follow what a controller finds."""
        self._masks = masks
        masks.listed_changed.connect(self._show)

    # ------------------------------------------------------------------ what is shown

    def warn(self, headline: str) -> None:
        """Say above the list that the scan is unlike those of the model; "" where it is not."""
        self._headline = headline
        self.unlike.say(headline if self.model.items else "", "")

    @property
    def current(self) -> ReviewedFinding | None:
        """The chosen finding."""
        rows = self.table.selectionModel().selectedRows()
        return self.model.items[self.sorted.mapToSource(rows[0]).row()] if rows else None

    def _show(self, session: Session | None) -> None:
        written = self._written(session)
        self._session = session
        self._showing = True
        self._listed = FindingsList() if session is None else session.listed
        self.model.show(self._listed)
        self.table.widen()
        self._select_chosen()
        self._showing = False
        if written is not None:
            at = self.model.index(*written[0])
            self.comments.reopen(self.sorted.mapFromSource(at), written[1])
        self._tell()

    def _written(self, session: Session | None) -> tuple[tuple[int, int], tuple[str, int]] | None:
        """Take the comment that is being typed before the list is replaced.

        Returns
        -------
        ((row, column), (text, cursor)) or None
            Where the same finding is in the new list and what stands there; None where nothing
            is typed, or the finding is gone: then its comment comes back with it.
        """
        listed = FindingsList() if session is None else session.listed
        label = None if listed is self._listed else self.table.label_written
        typed = None if label is None else self.comments.close()
        if label is None or typed is None:
            return None
        mine = self._session
        heir = listed.heir(self._listed, label) if session is mine else None
        if session is not None and heir is not None:
            rows = [item.finding.label for item in listed.items]
            return (rows.index(heir), COMMENT), typed
        if mine is not None:
            mine.listed = mine.listed.keep_comment(self._listed, label, typed[0].strip())
        return None

    def _select_chosen(self) -> None:
        """Select the row of the finding that is outlined, which may have moved."""
        chosen = None if self._session is None else self._session.chosen
        labels = [item.finding.label for item in self.model.items]
        if chosen is None or chosen.label not in labels:
            self.table.clearSelection()
            return
        at = self.sorted.mapFromSource(self.model.index(labels.index(chosen.label), 0))
        if at.row() not in [index.row() for index in self.table.selectionModel().selectedRows()]:
            self.table.selectRow(at.row())

    def _tell(self) -> None:
        item, strokes = self.current, self._session and self._session.strokes
        for name in ("keep", "unsure", "reject"):
            self.buttons[name].setEnabled(item is not None)
        for name in ("previous", "next"):
            self.buttons[name].setEnabled(bool(self.model.items))
        self.warn(self._headline)
        self.detail.say("" if item is None else _detail(item))
        self.strokes.say(strokes.sentence if strokes else "")
        self.forget.setVisible(bool(strokes))

    def _on_selected(self, *_: Any) -> None:
        if self._showing or self._masks is None or self._session is None:
            return
        item = self.current
        self._masks.choose(None if item is None else item.finding.label)
        self._tell()
        if item is not None:
            self._go_to(self._session, item)

    def _go_to(self, session: Session, item: ReviewedFinding) -> None:
        """Show the finding's voxel nearest to its middle in the slice with the highest score."""
        geometry = session.geometry
        region = session.listed.region(item.finding.label)
        voxels = np.stack(np.unravel_index(region, geometry.shape), axis=1)
        voxels = voxels[voxels[:, geometry.slice_axis] == item.finding.peak_slice]
        nearest = np.abs(voxels - voxels.mean(axis=0)).sum(axis=1).argmin()
        z, y, x = (int(value) for value in voxels[nearest])
        go_to_voxel(self._viewer, session.ensure_mask(), geometry.display_index((z, y, x)))

    # ------------------------------------------------------------------ what a reader does

    def act(self, action: str) -> None:
        """Do one of `KEYS`, where the list can be seen."""
        if self.isVisible():
            getattr(self, action)()

    def next(self) -> None:
        """Go to the next row; to the first where none is chosen."""
        self._step(1)

    def previous(self) -> None:
        """Go to the row before; to the first where none is chosen."""
        self._step(-1)

    def _step(self, by: int) -> None:
        rows, count = self.table.selectionModel().selectedRows(), self.sorted.rowCount()
        if count:
            row_index = min(max(rows[0].row() + by, 0), count - 1) if rows else 0
            self.table.setCurrentIndex(self.sorted.index(row_index, 0))

    def keep(self) -> None:
        """Keep the chosen finding."""
        self._decide("keep")

    def unsure(self) -> None:
        """Mark the chosen finding as unsure."""
        self._decide("unsure")

    def reject(self) -> None:
        """Leave the chosen finding out of what is exported."""
        self._decide("reject")

    def _decide(self, status: Status) -> None:
        item = self.current
        if item is not None and self._masks is not None:
            # The same again takes it back.
            new: Status = "unread" if item.status == status else status
            self._masks.decide(item.finding.label, status=new)

    def _on_comment(self, label: int, text: str) -> None:
        if self._masks is not None:
            self._masks.decide(label, comment=text)

    def _on_forget(self) -> None:
        if self._masks is not None:
            self._masks.forget_strokes()


def _detail(item: ReviewedFinding) -> str:
    """Say what has no column."""
    place = ""
    if item.finding.centroid_ras_mm is not None:
        x, y, z = item.finding.centroid_ras_mm
        letters = ("R" if x >= 0 else "L", "A" if y >= 0 else "P", "S" if z >= 0 else "I")
        parts = zip(letters, (x, y, z), strict=True)
        place = f"Centre {', '.join(f'{a} {abs(v):.0f}' for a, v in parts)} mm. "
    return f"{place}{item.rarity.sentence} {item.note}".strip()
