"""Buttons that export, and what goes along."""

from __future__ import annotations

from qtpy.QtWidgets import QCheckBox, QVBoxLayout, QWidget

from napari_spatial_ar.gui import settings
from napari_spatial_ar.gui.review.reporting import OPEN_REPORTS
from napari_spatial_ar.gui.widgets.forms import Note, button, row, section
from napari_spatial_ar.gui.widgets.tooltips import tooltip
from napari_spatial_ar.imaging.dicom.derived import is_from_dicom
from napari_spatial_ar.imaging.volume import Volume

__all__ = ["ExportPanel"]


class ExportPanel(QWidget):
    """What can be saved of a scored scan."""

    def __init__(self) -> None:
        super().__init__()
        self.mask_button = button("Export mask...", tooltip("export.export_mask"))
        self.all_button = button("Export all...", tooltip("export.export_all"))
        self.report_button = button(
            "Export report...",
            tooltip("export.export_report"),
        )
        self.open_report = self._box("Open reports", OPEN_REPORTS)
        self.open_report.setToolTip(tooltip("export.open_reports"))
        self.report_note = Note()
        self.dicom = self._box("With DICOM", "export_dicom")
        self.png = self._box("With pictures", "export_png")
        self.png.setToolTip(tooltip("export.with_pictures"))
        self.seg_nrrd = self._box("3D Slicer", "export_seg_nrrd")
        self.seg_nrrd.setToolTip(tooltip("export.slicer"))
        self.itksnap = self._box("ITK-SNAP", "export_itksnap")
        self.itksnap.setToolTip(tooltip("export.itk_snap"))
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        parts = [
            row(self.mask_button, self.all_button),
            row(self.dicom, self.png),
            row(self.seg_nrrd, self.itksnap),
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
        self.dicom.setToolTip(
            tooltip("export.with_dicom")
            if self.from_dicom
            else tooltip("export.with_dicom.unavailable")
        )

    def enable(self, ready: bool) -> None:
        """Allow to export, or not."""
        self.mask_button.setEnabled(ready)
        self.all_button.setEnabled(ready)
        self.report_button.setEnabled(ready)

    def extras(self) -> dict[str, bool]:
        """Arguments of `write_scan_outputs` for what goes along."""
        return {
            "dicom": self.from_dicom and self.dicom.isChecked(),
            "png": self.png.isChecked(),
            "seg_nrrd": self.seg_nrrd.isChecked(),
            "itksnap": self.itksnap.isChecked(),
        }
