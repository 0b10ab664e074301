"""From an archive to a reading and back to it, with mouse and keys alone, and a real server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
MOST_FINDINGS = 9
# Bright boxes (z, y, x) that stand for lesions.
BOXES = (
    (slice(1, 4), slice(4, 12), slice(20, 30)),
    (slice(3, 6), slice(26, 32), slice(6, 12)),
    (slice(0, 2), slice(24, 27), slice(26, 29)),
)


@dataclass(frozen=True)
class Case:
    """A series, and how it is found and its results are sent.

    Parameters
    ----------
    folder : Path
        Its files.
    asked, sent : str
        Protocols by which archives are asked and sent to.
    name : str
        What is typed to find the patient.
    thresholds : tuple of float
        Of which the first that gives three to `MOST_FINDINGS` findings is taken.
    """

    folder: Path
    asked: str
    sent: str
    name: str
    thresholds: tuple[float, ...]


def written(folder: Path) -> Path:
    """Write a series of a patient who does not exist."""
    voxels = np.full((SLICES, ROWS, COLUMNS), 100, np.uint16)
    for box, value in zip(BOXES, (1200, 1000, 800), strict=True):
        voxels[box] = value
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
    return folder


@pytest.fixture(params=["written", "real, DICOMweb", "real, DIMSE"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    if request.param == "written":
        return Case(written(tmp_path / "scan"), "web", "dimse", "sample, a", (5.0,))
    folder = request.getfixturevalue("shared_data") / "readers" / "mr_sagittal_HFS"
    brightest = np.sort(np.concatenate([one.pixel_array.ravel() for one in images(folder)]))[::-1]
    thresholds = tuple(1 + float(brightest[count]) / 100 for count in range(5, 60, 5))
    protocol = "dimse" if "DIMSE" in request.param else "web"
    return Case(folder, protocol, protocol, "HFS", thresholds)


def images(folder: Path) -> list[pydicom.Dataset]:
    """Images of a series, in the order of their positions."""
    found = [pydicom.dcmread(path) for path in folder.iterdir()]
    normal = np.cross(*np.reshape(found[0].ImageOrientationPatient, (2, 3)).astype(float))
    return sorted(found, key=lambda one: float(normal @ one.ImagePositionPatient))


def places(sources: dict[str, pydicom.Dataset], above: float) -> set[tuple[float, ...]]:
    """Positions in mm of all voxels above a grey value, from the headers alone."""
    found: set[tuple[float, ...]] = set()
    for one in sources.values():
        rows, columns = np.nonzero(one.pixel_array > above)
        along, down = np.reshape(one.ImageOrientationPatient, (2, 3)).astype(float)
        apart = [float(value) for value in one.PixelSpacing]
        at = np.asarray(one.ImagePositionPatient, float)
        spots = at + np.outer(columns * apart[1], along) + np.outer(rows * apart[0], down)
        found |= {tuple(spot) for spot in np.round(spots, 2) + 0.0}
    return found


def test_from_an_archive_and_back_to_it(
    dock: Any,
    orthanc: Orthanc,
    dcmtk: Callable[..., Any],
    case: Case,
    qtbot: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def until(true: Callable[[], Any]) -> None:
        qtbot.waitUntil(lambda: bool(true()), timeout=60_000)

    here = ("127.0.0.1", orthanc.dicom, "-aec", "ORTHANC")
    dcmtk("storescu", "+sd", "+r", *here, case.folder)
    sources = {str(one.SOPInstanceUID): one for one in images(case.folder)}
    source = next(iter(sources.values()))
    assert orthanc.count() == len(sources)
    made = dock(scan=False, show=True)

    # Two archives are saved: one to ask, one to send to.
    (action,) = (a for a in made.scan.open_button.menu().actions() if "archive" in a.text())
    action.trigger()
    dialog = made.scan.opener.archive
    urls = {"web": orthanc.web, "dimse": orthanc.dimse}
    for name, url in (("Sent to", urls[case.sent]), ("Asked", urls[case.asked])):
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
    qtbot.keyClicks(dialog.form.patient_name, case.name)
    qtbot.keyClick(dialog.form.patient_name, Qt.Key.Key_Return)
    until(lambda: not dialog.busy)
    assert dialog.note.text() == "1 study"
    # By DIMSE there are no thumbnails to wait for.
    until(lambda: dialog.chosen and (dialog._known or case.asked == "dimse"))
    qtbot.mouseClick(dialog.open_button, LEFT)
    until(lambda: made.scan.layer is not None)
    assert made.scan.layer.name == f"MR series {source.SeriesNumber}"

    # Scored; of the findings two are kept.
    qtbot.mouseClick(made.volume_button, LEFT)
    until(lambda: not made.running and made.masks.settled)
    for threshold in case.thresholds:
        made.threshold.slider.setValue(threshold)
        until(lambda: not made.running and made.masks.settled)
        count = made.findings.sorted.rowCount()
        if 3 <= count <= MOST_FINDINGS:
            break
    assert 3 <= count <= MOST_FINDINGS
    canvas = made.viewer.window._qt_viewer.canvas.native
    for number in range(count):
        for key in ("n", "k" if number < 2 else "r"):
            qtbot.keyClicks(canvas, key)
            QApplication.processEvents()
    until(lambda: not made.running and made.masks.settled)
    session = made.session
    kept = [item for item in session.listed.items if item.status == "keep"]
    assert len(kept) == 2
    numbers = session.listed.numbered(session.volume.geometry.shape)

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
    where = f"ORTHANC at 127.0.0.1:{orthanc.dicom}" if case.sent == "dimse" else orthanc.web
    assert len(asked) == 2
    assert all(where in text for text in asked)
    assert all("carry the patient's identity" in text for text in asked)
    flagged = np.count_nonzero((numbers > 0).any(axis=(1, 2)))
    objects = 3 + flagged  # two segmentations, a report, and captures
    assert f"0 of {objects} objects were stored in Sent to, {objects} were" in dialog.note.text()
    assert orthanc.count() == len(sources) + objects
    dialog.close()

    # Fetched by another client.
    back = tmp_path / "back"
    back.mkdir()
    study = str(source.StudyInstanceUID)
    dcmtk(
        *("movescu", "-aet", "NSAR", "-aem", "NSAR", "-S", "-od", back, "+P", orthanc.move),
        *("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study}", *here),
    )
    read = {path: pydicom.dcmread(path) for path in sorted(back.iterdir())}
    by_kind: dict[str, list[Path]] = {}
    for path, one in read.items():
        assert (one.PatientID, one.PatientName) == (source.PatientID, source.PatientName)
        by_kind.setdefault(one.SOPClassUID.name, []).append(path)
        if one.SOPClassUID.name != "MR Image Storage":
            assert conformance_errors(path) == []
        else:
            assert one.PixelData == sources[str(one.SOPInstanceUID)].PixelData
    (report,) = by_kind["Comprehensive 3D SR Storage"]
    whole, parts = sorted(
        by_kind["Segmentation Storage"], key=lambda path: len(read[path].SegmentSequence)
    )
    assert len(by_kind["Secondary Capture Image Storage"]) == flagged
    # Voxels: those of the two findings, which are bright in the images themselves.
    seg = hd.seg.segread(whole)
    volume = seg.get_volume(combine_segments=True)
    found = volume.map_indices_to_reference(np.argwhere(volume.array > 0))
    spots = {tuple(spot) for spot in np.round(found, 2) + 0.0}
    assert len(spots) == len(found) == np.count_nonzero(numbers)
    above = (threshold - 1) * 100 - 1
    assert spots <= places(sources, above)
    if case.name == "sample, a":
        assert spots == places(sources, 900)
    referred = {image[2] for image in seg.get_source_image_uids()}
    assert referred <= sources.keys()
    assert len(read[parts].SegmentSequence) == 2
    # Measurements and references: those of the findings on the screen.
    groups = report_by_dcmtk(report).groups
    measured = [group for group in groups if "118565006" in group.numbers]
    volumes = sorted(group.numbers["118565006"][0] for group in measured)
    assert volumes == pytest.approx(sorted(item.finding.volume_ml for item in kept), rel=1e-3)
    assert {group.images[0][0] for group in measured} == {str(read[parts].SOPInstanceUID)}
