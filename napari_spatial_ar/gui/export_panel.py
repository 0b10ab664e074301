"""Buttons that export, and what goes along."""

from __future__ import annotations

from qtpy.QtWidgets import QCheckBox, QVBoxLayout, QWidget

from napari_spatial_ar.gui import settings
from napari_spatial_ar.gui.forms import Note, button, row, section
from napari_spatial_ar.gui.reporting import OPEN_REPORTS
from napari_spatial_ar.imaging.dicom.derived import is_from_dicom
from napari_spatial_ar.imaging.volume import Volume

__all__ = ["ExportPanel"]

_DICOM = (
    "Also write the mask as DICOM segmentation and the heatmap as DICOM parametric map, for a "
    "PACS: they hold the patient's identity, copied from the scan"
)


class ExportPanel(QWidget):
    """What can be saved of a scored scan."""

    def __init__(self) -> None:
        super().__init__()
        self.mask_button = button("Export mask...", "Save the mask on the scan's own grid")
        self.all_button = button(
            "Export all...", "Save heatmap, mask, findings and provenance in a folder"
        )
        self.report_button = button(
            "Export report...",
            "Save pictures, findings and all figures of this scan in one file: HTML or PDF",
        )
        self.open_report = self._box("Open reports", OPEN_REPORTS)
        self.open_report.setToolTip("Show a report as soon as it is written")
        self.report_note = Note()
        self.dicom = self._box("With DICOM", "export_dicom")
        self.png = self._box("With pictures", "export_png")
        self.png.setToolTip("Also write PNG pictures of the slices with the mask's outline")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        parts = [
            row(self.mask_button, self.all_button),
            row(self.dicom, self.png),
            row(self.report_button, self.open_report),
            self.report_note,
        ]
        layout.addWidget(section("Export", parts))
        self.set_scan(None)
        self.enable(False)

    @staticmethod
    def _box(text: str, key: str) -> QCheckBox:
        box = QCheckBox(text)
        box.setChecked(settings.recall(key, False))
        box.toggled.connect(lambda on: settings.remember(key, on))
        return box

    def set_scan(self, volume: Volume | None) -> None:
        """Offer DICOM for scans that came from it."""
        self.from_dicom = volume is not None and is_from_dicom(volume)
        self.dicom.setEnabled(self.from_dicom)
        self.dicom.setToolTip(_DICOM if self.from_dicom else "Only for scans read from DICOM files")

    def enable(self, ready: bool) -> None:
        """Allow to export, or not."""
        self.mask_button.setEnabled(ready)
        self.all_button.setEnabled(ready)
        self.report_button.setEnabled(ready)

    def extras(self) -> dict[str, bool]:
        """Arguments of `write_scan_outputs` for what goes along."""
        return {"dicom": self.from_dicom and self.dicom.isChecked(), "png": self.png.isChecked()}
