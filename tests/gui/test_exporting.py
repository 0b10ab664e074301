"""Exports of a scan that came from DICOM, from the dock."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel as nib
import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog, QMessageBox

from tests.gui.test_series_chooser import series

LEFT = Qt.MouseButton.LeftButton


@pytest.fixture
def scored(dock: Any, finish: Any, qtbot: Any, tmp_path: Path) -> Any:
    """A dock with a scored DICOM scan whose left front corner is found."""
    series(tmp_path / "scan", 4)
    made = dock(scan=False)
    made.scan.opener.open([str(tmp_path / "scan")])
    qtbot.waitUntil(lambda: made.scan.layer is not None, timeout=10_000)
    qtbot.mouseClick(made.volume_button, LEFT)
    finish(made)
    made.threshold.slider.setValue(5.0)
    finish(made)
    return made


def test_the_mask_goes_out_as_dicom_seg_where_the_scan_was_dicom(
    scored: Any, tmp_path: Path, monkeypatch: Any, qtbot: Any, notes: list[str]
) -> None:
    offered: list[str] = []

    def choose(*arguments: Any) -> tuple[str, str]:
        offered.append(arguments[3])
        # The suggested name, with the other kind picked.
        return str(tmp_path / "mask.nii.gz"), arguments[3].split(";;")[1]

    monkeypatch.setattr(QFileDialog, "getSaveFileName", choose)
    qtbot.mouseClick(scored.export.mask_button, LEFT)
    qtbot.waitUntil(lambda: len(notes) >= 1, timeout=20_000)
    assert "DICOM segmentation (*.dcm)" in offered[0]
    assert notes[0].startswith("The mask is saved in mask.dcm.")
    made = hd.seg.segread(tmp_path / "mask.dcm")
    volume = made.get_volume(combine_segments=True)
    where = volume.map_indices_to_reference(np.argwhere(volume.array > 0)).mean(axis=0)
    # Columns 12..19 of 1 mm from x = -10, rows 0..4 of 1.5 mm from y = -8 (LPS).
    assert where == pytest.approx([5.5, -5.0, 7.5])


def test_a_name_that_gets_its_ending_from_us_is_not_overwritten_unasked(
    scored: Any, tmp_path: Path, monkeypatch: Any, qtbot: Any
) -> None:
    (tmp_path / "m.nii.gz").write_text("old")
    monkeypatch.setattr(
        QFileDialog, "getSaveFileName", lambda *a: (str(tmp_path / "m"), "NIfTI (*.nii.gz *.nii)")
    )
    no = QMessageBox.StandardButton.No
    monkeypatch.setattr(QMessageBox, "question", lambda *a: no)
    qtbot.mouseClick(scored.export.mask_button, LEFT)
    assert (tmp_path / "m.nii.gz").read_text() == "old"
    yes = QMessageBox.StandardButton.Yes
    monkeypatch.setattr(QMessageBox, "question", lambda *a: yes)
    qtbot.mouseClick(scored.export.mask_button, LEFT)
    qtbot.waitUntil(lambda: (tmp_path / "m.nii.gz").stat().st_size > 10, timeout=10_000)
    assert np.asarray(nib.load(tmp_path / "m.nii.gz").dataobj).sum() == 4 * 5 * 8


def test_export_all_takes_dicom_and_pictures_along(
    scored: Any, tmp_path: Path, monkeypatch: Any, qtbot: Any, notes: list[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *a: str(out))
    assert not scored.export.dicom.isChecked()
    scored.export.dicom.click()
    scored.export.png.click()
    assert scored.export.extras() == {"dicom": True, "png": True}
    qtbot.mouseClick(scored.export.all_button, LEFT)
    qtbot.waitUntil(lambda: len(notes) >= 1, timeout=30_000)
    (folder,) = out.iterdir()
    names = {path.name for path in folder.iterdir()}
    assert {"mask.nii.gz", "nll.nii.gz", "mask.dcm", "nll.dcm", "overlays"} <= names
    assert list((folder / "overlays").glob("*.png"))


def test_dicom_is_not_offered_for_other_scans(dock: Any, finish: Any, qtbot: Any) -> None:
    made = dock()
    qtbot.mouseClick(made.slice_button, LEFT)
    finish(made)
    made.export.dicom.setChecked(True)
    assert not made.export.dicom.isEnabled()
    assert made.export.extras()["dicom"] is False
