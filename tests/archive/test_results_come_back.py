"""Results in a real archive: sent once, however often they are exported, and back unchanged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest

from napari_spatial_ar.archive.access import Access
from napari_spatial_ar.archive.opening import open_archive
from napari_spatial_ar.archive.results import result_files
from napari_spatial_ar.archive.sending import send
from napari_spatial_ar.imaging.reading import read
from napari_spatial_ar.review.dicom_objects import DICOM_OBJECTS
from napari_spatial_ar.review.outputs import ScanOutputs, write_scan_outputs
from napari_spatial_ar.steps import finish
from tests.archive.conftest import Orthanc
from tests.dicom_oracles import conformance_errors, pixels_by_dcmtk, report_by_dcmtk
from tests.fake_model import FakeModel, fake_header
from tests.review.test_dicom_objects import boxes_of, head, scored

MODEL = FakeModel("brain", fake_header(method="spatial-ar"), "ab" * 32, calibrated=False)


@pytest.mark.parametrize("protocol", ["web", "dimse"])
def test_results_are_stored_once_and_come_back(
    protocol: str,
    orthanc: Orthanc,
    dcmtk: Callable[..., Any],
    write_series: Callable[..., list[Path]],
    tmp_path: Path,
) -> None:
    paths = write_series(head(), FrameOfReferenceUID="1.2.9", BodyPartExamined="BRAIN")
    (scan,) = read(paths)

    def export(name: str, threshold: float) -> ScanOutputs:
        scores = scored(scan, *boxes_of(scan))
        return write_scan_outputs(
            tmp_path / name,
            scan,
            scores,
            MODEL,
            threshold=threshold,
            dicom=DICOM_OBJECTS,
            overwrite=True,
        )

    def put(name: str) -> list[str]:
        access = Access(timeout=10.0, retries=1, receive_port=orthanc.move)
        archive = open_archive(getattr(orthanc, protocol), access)
        answers = finish(send(archive, result_files(tmp_path / name)))
        archive.close()
        return [answer.state for answer in answers]

    first = export("out", 2.0)
    stored = len(list((tmp_path / "out").rglob("*.dcm")))
    assert put("out") == ["stored"] * stored == ["stored"] * 9
    export("again", 2.0)
    assert put("out") == put("again") == ["there"] * 9
    assert orthanc.count() == 9
    report = first.files["report_dicom"].read_bytes()
    later = export("out", 3.2)
    answers = put("out")
    assert answers.count("there") == 1, "the map: scores are the same at any threshold"
    assert answers.count("stored") == len(answers) - 1
    back = tmp_path / "back"
    back.mkdir()
    dcmtk(
        *("movescu", "-aet", "NSAR", "-aem", "NSAR", "-aec", "ORTHANC", "-S", "-od", back),
        *("+P", orthanc.move),
        *("-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID=1.2"),
        *("127.0.0.1", orthanc.dicom),
    )
    found = {str(pydicom.dcmread(path).SOPInstanceUID): path for path in back.iterdir()}
    assert len(found) == orthanc.count()
    for path in (tmp_path / "out").rglob("*.dcm"):
        ours = pydicom.dcmread(path)
        theirs = found[str(ours.SOPInstanceUID)]
        assert conformance_errors(theirs) == []
        if "PixelData" in ours:
            assert (pixels_by_dcmtk(theirs) == pixels_by_dcmtk(path)).all()
            assert pydicom.dcmread(theirs).PixelData == ours.PixelData
    one, other = (
        report_by_dcmtk(path)
        for path in (
            later.files["report_dicom"],
            found[str(pydicom.dcmread(later.files["report_dicom"]).SOPInstanceUID)],
        )
    )
    assert one.groups == other.groups
    for group in other.groups[1:]:
        assert group.images[0][0] in found, "the segmentation that it refers to is there"
    before = other.xml.find("document/predecessor/study/series/value/instance")
    assert before is not None
    assert before.get("uid", "").encode() in report
    assert before.get("uid", "") in found
