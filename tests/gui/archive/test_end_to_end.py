"""From an archive to a reading and back to it, with mouse and keys alone, and a real server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QMessageBox

from tests.archive.conftest import Orthanc
from tests.dicom_oracles import conformance_errors, report_by_dcmtk
from tests.scans import AXIAL, build_image

LEFT = Qt.MouseButton.LeftButton
SLICES, ROWS, COLUMNS = 6, 40, 36
# Bright boxes (z, y, x) that stand for lesions.
BOXES = (
    (slice(1, 4), slice(4, 12), slice(20, 30)),
    (slice(3, 6), slice(26, 32), slice(6, 12)),
    (slice(0, 2), slice(24, 27), slice(26, 29)),
)


@pytest.fixture
def scan(tmp_path: Path) -> tuple[Path, Any]:
    """A series of a patient who does not exist, and its voxels."""
    voxels = np.full((SLICES, ROWS, COLUMNS), 100, np.uint16)
    for box, value in zip(BOXES, (1200, 1000, 800), strict=True):
        voxels[box] = value
    folder = tmp_path / "scan"
    folder.mkdir()
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    for z, pixels in enumerate(voxels):
        image = build_image(
            pixels,
            StudyInstanceUID=study,
            SeriesInstanceUID=series,
            FrameOfReferenceUID=frame,
            PatientID="E2E-7",
            PatientName="Sample^Anna",
            PatientBirthDate="19700101",
            PatientSex="F",
            AccessionNumber="A-7",
            StudyID="1",
            StudyDate="20260114",
            StudyTime="101500",
            StudyDescription="Head",
            SeriesDescription="FLAIR",
            SeriesNumber=3,
            Modality="MR",
            BodyPartExamined="BRAIN",
            ImagePositionPatient=[-18.0, -20.0, 3.0 * z],
            ImageOrientationPatient=list(AXIAL),
            PixelSpacing=[1.0, 1.0],
            SliceThickness=3.0,
            InstanceNumber=z + 1,
        )
        pydicom.dcmwrite(folder / f"{z}.dcm", image, enforce_file_format=True)
    return folder, voxels


def test_from_an_archive_and_back_to_it(
    dock: Any,
    orthanc: Orthanc,
    dcmtk: Callable[..., Any],
    scan: tuple[Path, Any],
    qtbot: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def until(true: Callable[[], Any]) -> None:
        qtbot.waitUntil(lambda: bool(true()), timeout=60_000)

    folder, _ = scan
    here = ("127.0.0.1", orthanc.dicom, "-aec", "ORTHANC")
    dcmtk("storescu", "+sd", "+r", *here, folder)
    made = dock(scan=False, show=True)

    # Two archives are saved: to ask by DICOMweb, to send by DIMSE.
    (action,) = (a for a in made.scan.open_button.menu().actions() if "archive" in a.text())
    action.trigger()
    dialog = made.scan.opener.archive
    for name, url in (("Sent to", orthanc.dimse), ("Asked", orthanc.web)):
        qtbot.mouseClick(dialog.choice.add_button, LEFT)
        form = dialog.choice.dialog
        qtbot.keyClicks(form.name, name)
        qtbot.keyClicks(form.url, url)
        qtbot.mouseClick(form.test_button, LEFT)
        until(lambda form=form: form.note.text().endswith("answers."))
        until(form.save_button.isEnabled)
        qtbot.mouseClick(form.save_button, LEFT)
        until(lambda name=name: dialog.choice.name == name)

    # Found and opened.
    qtbot.keyClicks(dialog.form.patient_name, "sample, a")
    qtbot.keyClick(dialog.form.patient_name, Qt.Key.Key_Return)
    until(lambda: not dialog.busy)
    assert dialog.note.text() == "1 study"
    until(lambda: dialog.chosen and dialog._known)
    qtbot.mouseClick(dialog.open_button, LEFT)
    until(lambda: made.scan.layer is not None)
    assert made.scan.layer.name == "MR series 3"

    # Scored; of three findings two are kept.
    qtbot.mouseClick(made.volume_button, LEFT)
    until(lambda: not made.running and made.masks.settled)
    made.threshold.slider.setValue(5.0)
    until(lambda: not made.running and made.masks.settled)
    assert made.findings.sorted.rowCount() == 3
    canvas = made.viewer.window._qt_viewer.canvas.native
    for keys in ("n", "k", "n", "k", "n", "r"):
        qtbot.keyClicks(canvas, keys)
        QApplication.processEvents()
    until(lambda: not made.running and made.masks.settled)
    session = made.session
    kept = [item for item in session.listed.items if item.status == "keep"]
    assert len(kept) == 2

    # Sent, with one question, and again.
    asked: list[str] = []

    def answer(*arguments: Any) -> Any:
        asked.append(arguments[2])
        return QMessageBox.StandardButton.Yes

    monkeypatch.setattr(QMessageBox, "question", answer)
    qtbot.mouseClick(made.export.send_button, LEFT)
    dialog = made.exporter.dialog
    until(lambda: dialog.choice.name == "Asked")
    qtbot.keyClick(dialog.choice.box, Qt.Key.Key_Up)
    assert dialog.choice.name == "Sent to"
    for _ in range(2):
        dialog.answers.clear()
        qtbot.mouseClick(dialog.send_button, LEFT)
        until(lambda: dialog.answers.topLevelItemCount() and dialog.send_button.isEnabled())
    assert len(asked) == 2
    assert all(f"ORTHANC at 127.0.0.1:{orthanc.dicom}" in text for text in asked)
    assert all("carry the patient's identity" in text for text in asked)
    assert "0 of 8 objects were stored in Sent to, 8 were there already" in dialog.note.text()
    assert orthanc.count() == SLICES + 8
    dialog.close()

    # Fetched by another client.
    back = tmp_path / "back"
    back.mkdir()
    study = str(pydicom.dcmread(folder / "0.dcm").StudyInstanceUID)
    dcmtk(
        *("movescu", "-aet", "NSAR", "-aem", "NSAR", "-S", "-od", back, "+P", orthanc.move),
        *("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study}", *here),
    )
    read = {path: pydicom.dcmread(path) for path in sorted(back.iterdir())}
    by_kind: dict[str, list[Path]] = {}
    for path, one in read.items():
        assert one.PatientID == "E2E-7"
        by_kind.setdefault(one.SOPClassUID.name, []).append(path)
        if one.SOPClassUID.name != "MR Image Storage":
            assert conformance_errors(path) == []
    (report,) = by_kind["Comprehensive 3D SR Storage"]
    whole, parts = sorted(
        by_kind["Segmentation Storage"], key=lambda path: len(read[path].SegmentSequence)
    )
    assert len(by_kind["Secondary Capture Image Storage"]) == 5
    # Voxels: those of the two boxes.
    expected = np.zeros((SLICES, ROWS, COLUMNS), bool)
    expected[BOXES[0]] = expected[BOXES[1]] = True
    volume = hd.seg.segread(whole).get_volume(combine_segments=True)
    where = volume.map_indices_to_reference(np.argwhere(volume.array > 0))
    z, y, x = np.nonzero(expected)
    truth = np.stack([x - 18.0, y - 20.0, 3.0 * z], axis=1)
    assert sorted(map(tuple, np.round(where, 3))) == sorted(map(tuple, truth))
    assert len(read[parts].SegmentSequence) == 2
    # Measurements and references: those of the findings on the screen.
    groups = report_by_dcmtk(report).groups
    measured = [group for group in groups if "118565006" in group.numbers]
    volumes = sorted(group.numbers["118565006"][0] for group in measured)
    assert volumes == pytest.approx(sorted(item.finding.volume_ml for item in kept), rel=1e-3)
    assert {group.images[0][0] for group in measured} == {str(read[parts].SOPInstanceUID)}
