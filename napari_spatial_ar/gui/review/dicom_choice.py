"""The choice of DICOM objects, for an export and for sending."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtWidgets import QCheckBox, QLineEdit

from napari_spatial_ar.gui import settings
from napari_spatial_ar.gui.widgets.forms import Fold, Part, row, stack
from napari_spatial_ar.gui.widgets.tooltips import tooltip
from napari_spatial_ar.review.dicom_objects import DEFAULT_OBJECTS, DicomObject, chosen_objects

__all__ = ["DicomChoice", "remembered"]


class DicomChoice:
    """Which DICOM objects are written, and how: a part of a panel that can be collapsed.

    Parameters
    ----------
    kind : str
        What is done with them, such as "export": the choice is remembered for each kind.
    default : sequence of str
        Objects that are ticked at first.
    expanded : bool
        Whether it is open at first.
    """

    def __init__(
        self,
        kind: str = "export",
        default: Sequence[DicomObject] = DEFAULT_OBJECTS,
        *,
        expanded: bool = False,
    ) -> None:
        self.kinds: dict[DicomObject, QCheckBox] = {
            "seg": QCheckBox("Segmentations"),
            "pm": QCheckBox("Score map"),
            "sr": QCheckBox("Structured report"),
            "capture": QCheckBox("Captures"),
            "gsps": QCheckBox("Outlines"),
        }
        box = self.kinds
        box["seg"].setToolTip(tooltip("export.segmentations"))
        box["pm"].setToolTip(tooltip("export.score_map"))
        box["sr"].setToolTip(tooltip("export.structured_report"))
        box["capture"].setToolTip(tooltip("export.captures"))
        box["gsps"].setToolTip(tooltip("export.outlines"))
        self.de_identify = QCheckBox("De-identify")
        self.de_identify.setToolTip(tooltip("export.de_identify"))
        # A person's name is not remembered.
        self.signed_by = QLineEdit()
        self.signed_by.setMaxLength(64)
        self.signed_by.setToolTip(tooltip("export.signed_by"))
        parts: list[Part] = [
            row(box["seg"], box["pm"]),
            row(box["sr"], box["capture"]),
            row(box["gsps"], self.de_identify),
            ("Signed by", self.signed_by),
        ]
        tip = tooltip("export.dicom_objects")
        key = "dicom_objects" if kind == "export" else f"{kind}_objects"
        self.fold = Fold("DICOM objects", tip, stack(parts), key=key, expanded=expanded)
        for name, each in box.items():
            remembered(each, f"{kind}_dicom_{name}", name in default)
        remembered(self.de_identify, f"{kind}_de_identify")
        self.fold.set_summary(self._summary)
        for each in (*box.values(), self.de_identify):
            each.toggled.connect(lambda _: self.fold.update_summary())

    def chosen(self) -> tuple[DicomObject, ...]:
        """Objects that are ticked."""
        return chosen_objects([kind for kind, box in self.kinds.items() if box.isChecked()])

    def _summary(self) -> str:
        named = ", ".join(self.kinds[kind].text().lower() for kind in self.chosen()) or "none"
        return f"{named}, de-identified" if self.de_identify.isChecked() else named


def remembered(box: QCheckBox, key: str, default: bool = False) -> QCheckBox:
    """Set a check box to its stored state, and store changes; returns the box."""
    box.setChecked(settings.recall(key, default))
    box.toggled.connect(lambda on: settings.remember(key, on))
    return box
