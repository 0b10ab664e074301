"""Results for research: nothing of the patient in any byte, and references that hold."""

from __future__ import annotations

import gzip
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.dicom.deidentify import research_uid
from napari_spatial_ar.imaging.reading import read
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.review.dicom_objects import DICOM_OBJECTS
from napari_spatial_ar.review.outputs import ScanOutputs, write_scan_outputs
from tests.dicom_oracles import conformance_errors, pixels_by_dcmtk, report_by_dcmtk
from tests.json_check import check
from tests.review.test_dicom_objects import boxes_of, head, scored
from tests.scans import build_image

_POISON = re.compile(rb"(?i)poison|19991231|31\.12\.99|1\.2\.840\.99\.")
UIDS = {
    "StudyInstanceUID": "1.2.840.99.1",
    "SeriesInstanceUID": "1.2.840.99.2",
    "FrameOfReferenceUID": "1.2.840.99.3",
}


@pytest.fixture
def poisoned(tmp_path: Path) -> Path:
    """A series with the patient in every attribute that may hold him, private ones too."""
    pytest.importorskip("dicomanonymizer", reason="the extra 'deidentify' is not installed")
    folder = tmp_path / "poison_in"
    folder.mkdir()
    names = ["PatientName", "ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName"]
    texts = [
        *("PatientID", "AccessionNumber", "StudyID", "StudyDescription", "SeriesDescription"),
        *("InstitutionName", "InstitutionAddress", "StationName", "PatientComments"),
        *("OtherPatientNames", "PatientAddress", "MilitaryRank", "EthnicGroup", "Occupation"),
        *("ProtocolName", "ImageComments", "DeviceSerialNumber", "RequestingService"),
        *("AdmissionID", "PatientInsurancePlanCodeSequence", "ClinicalTrialSubjectID"),
        *("ClinicalTrialSponsorName", "ClinicalTrialProtocolID", "PositionReferenceIndicator"),
    ]
    dates = ["StudyDate", "SeriesDate", "PatientBirthDate", "AcquisitionDate", "ContentDate"]
    for k, plane in enumerate(head()):
        image = build_image(
            plane,
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            ImagePositionPatient=[0, 0, 3 * k],
            PixelSpacing=[2, 2],
            BodyPartExamined="BRAIN",
            PatientSex="M",
            PatientAge="044Y",
            **UIDS,
            **dict.fromkeys(names, "Poison^Jane"),
            **{name: "PoisonText" for name in texts if "Sequence" not in name},
            **dict.fromkeys(dates, "19991231"),
        )
        image.SOPInstanceUID = f"1.2.840.99.4.{k}"
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        for group in (0x0009, 0x0011, 0x0029):
            block = image.private_block(group, "POISON MAKER", create=True)
            block.add_new(1, "LO", "PoisonPrivate")
        nested = Dataset()
        nested.PatientID = "PoisonNested"
        image.OtherPatientIDsSequence = [nested]
        request = Dataset()
        request.RequestedProcedureDescription = "PoisonRequest"
        image.RequestAttributesSequence = [request]
        pydicom.dcmwrite(folder / f"poison_{k}.dcm", image, enforce_file_format=True)
    return folder


@pytest.fixture
def exported(poisoned: Path, tmp_path: Path, model: Any, said: list[str]) -> ScanOutputs:
    (scan,) = read(poisoned)
    written = write_scan_outputs(
        tmp_path / "out",
        scan,
        scored(scan, *boxes_of(scan)),
        model,
        threshold=2.0,
        dicom=DICOM_OBJECTS,
        signed_by="Poison^Reader",
        de_identify=True,
        png=True,
        montage_too=True,
        report=True,
        seg_nrrd=True,
        itksnap=True,
    )
    assert written.warnings == ()
    assert not _POISON.search(" ".join(said).encode()), "nothing is burnt in"
    return written


def elements(dataset: Dataset) -> Iterator[Any]:
    for element in dataset:
        yield element
        if element.VR == "SQ":
            for item in element.value:
                yield from elements(item)


def test_no_byte_of_the_patient_remains(exported: ScanOutputs, tmp_path: Path) -> None:
    paths = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    objects = [path for path in paths if path.suffix == ".dcm"]
    assert len(objects) == 5 + 4
    for path in paths:
        assert not _POISON.search(str(path.relative_to(tmp_path)).encode())
        content = path.read_bytes()
        content += gzip.decompress(content) if path.suffix == ".gz" else b""
        assert not _POISON.search(content), path.name
    pseudonyms = set()
    for path in objects:
        found = pydicom.dcmread(path)
        assert conformance_errors(path) == []
        pseudonyms |= {str(found.PatientName), str(found.PatientID)}
        assert (found.PatientIdentityRemoved, found.PatientSex) == ("YES", "")
        assert "PS3.15" in found.DeidentificationMethod
        assert found.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
        assert found.LongitudinalTemporalInformationModified == "REMOVED"
        assert found.StudyDate == found.PatientBirthDate == found.AccessionNumber == ""
        assert "PatientAge" not in found
        assert not any(element.tag.is_private for element in elements(found))
    (pseudonym,) = pseudonyms
    assert re.fullmatch(r"ANON-[0-9A-F]{8}", pseudonym)
    report = report_by_dcmtk(exported.files["report_dicom"])
    assert list(report.xml.iter("pname")) == []


def test_uids_are_replaced_by_the_same_everywhere(exported: ScanOutputs) -> None:
    folder = exported.files["provenance"].parent
    seg = pydicom.dcmread(exported.files["findings_dicom"])
    by = {name: research_uid(uid) for name, uid in UIDS.items()}
    for path in folder.rglob("*.dcm"):
        assert pydicom.dcmread(path).StudyInstanceUID == by["StudyInstanceUID"]
    for key in ("findings_dicom", "mask_dicom", "nll_dicom"):
        found = pydicom.dcmread(exported.files[key])
        assert found.FrameOfReferenceUID == by["FrameOfReferenceUID"]
        assert found.ReferencedSeriesSequence[0].SeriesInstanceUID == by["SeriesInstanceUID"]
        referred = {item.ReferencedSOPInstanceUID for item in found.SourceImageSequence}
        assert referred == {research_uid(f"1.2.840.99.4.{k}") for k in range(6)}
    table = json.loads(exported.files["findings_json"].read_text())["findings"]
    tracked = [row["tracking_uid"] for row in table]
    assert [segment.TrackingUID for segment in seg.SegmentSequence] == tracked
    report = report_by_dcmtk(exported.files["report_dicom"])
    assert [group.texts["112040"] for group in report.groups[1:]] == [[uid] for uid in tracked]
    assert {group.images[0][0] for group in report.groups[1:]} == {seg.SOPInstanceUID}
    assert report.groups[1].texts["121232"] == [by["SeriesInstanceUID"]]
    record = json.loads(exported.files["provenance"].read_text())
    check(record, "provenance")
    assert record["scan"]["series_uid"] == by["SeriesInstanceUID"]
    assert record["scan"]["study_uid"] == by["StudyInstanceUID"]
    assert record["scan"]["frame_of_reference_uid"] == by["FrameOfReferenceUID"]


def test_the_result_itself_is_unchanged(
    exported: ScanOutputs, poisoned: Path, tmp_path: Path, model: Any
) -> None:
    """Voxels, measures and pictures are those of an export with identity; its UIDs are not."""
    (scan,) = read(poisoned)
    named = write_scan_outputs(
        tmp_path / "named",
        scan,
        scored(scan, *boxes_of(scan)),
        model,
        threshold=2.0,
        dicom=DICOM_OBJECTS,
    )
    pairs = [(named.files[key], exported.files[key]) for key in ("findings_dicom", "nll_dicom")]
    pairs += zip(
        sorted(named.files["captures_dicom"].iterdir()),
        sorted(exported.files["captures_dicom"].iterdir()),
        strict=True,
    )
    for theirs, ours in pairs:
        one, other = pydicom.dcmread(theirs), pydicom.dcmread(ours)
        np.testing.assert_array_equal(one.pixel_array, other.pixel_array)
        assert one.PatientName == "Poison^Jane"
        assert not {e.value for e in elements(one) if e.VR == "UI" and "2.25." in str(e.value)} & {
            e.value for e in elements(other) if e.VR == "UI" and "2.25." in str(e.value)
        }
    one, other = (report_by_dcmtk(w.files["report_dicom"]).groups for w in (named, exported))
    assert [group.numbers for group in one] == [group.numbers for group in other]
    assert [group.laterality for group in one] == [group.laterality for group in other]
    assert pixels_by_dcmtk(pairs[-1][0]).shape == pixels_by_dcmtk(pairs[-1][1]).shape
    masks = [nib.load(w.files["findings"]).get_fdata() for w in (named, exported)]
    np.testing.assert_array_equal(*masks)


def test_a_scan_with_something_burnt_in_is_refused(
    poisoned: Path, tmp_path: Path, model: Any
) -> None:
    for path in poisoned.iterdir():
        header = pydicom.dcmread(path)
        header.BurnedInAnnotation = "YES"
        header.save_as(path)
    (scan,) = read(poisoned)
    for kinds in (DICOM_OBJECTS, False):
        with pytest.raises(InputError, match="burnt into its pixels"):
            write_scan_outputs(
                tmp_path / "out",
                scan,
                scored(scan, *boxes_of(scan)),
                model,
                threshold=2.0,
                dicom=kinds,
                de_identify=True,
                png=True,
            )
    assert not (tmp_path / "out").exists()


def test_what_it_needs_and_excludes_is_said(
    dicom_scan: Scan, scores: Any, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(**options: Any) -> ScanOutputs:
        return write_scan_outputs(
            tmp_path / "out", dicom_scan, scores, model, threshold=2.0, de_identify=True, **options
        )

    with pytest.raises(InputError, match="cannot be kept"):
        write(keep_uids=True)
    monkeypatch.setitem(sys.modules, "dicomanonymizer", None)
    with pytest.raises(InputError, match=r"pip install .*deidentify"):
        write(dicom=True)
    assert not (tmp_path / "out").exists()
    write()  # nothing but UIDs to replace
