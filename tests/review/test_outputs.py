"""The files of a scan: on its grid, whole, and without the patient."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel as nib
import nrrd
import numpy as np
import pydicom
import pytest
from PIL import Image

from napari_spatial_ar.errors import InputError, StorageError
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.windows import Window
from napari_spatial_ar.normative.model_file import BackboneRef
from napari_spatial_ar.normative.preprocessing import Preprocessing
from napari_spatial_ar.normative.scores import ScanScores
from napari_spatial_ar.review import dicom_objects, outputs
from napari_spatial_ar.review.findings import label_components, list_findings
from napari_spatial_ar.review.masks import MaskSettings
from napari_spatial_ar.review.outputs import (
    DICOM_FILES,
    OUTPUT_FILES,
    scan_folder_name,
    write_scan_outputs,
)
from napari_spatial_ar.review.provenance import RESEARCH_USE, dicom_algorithm, recorded_algorithm
from tests.fake_model import fake_header
from tests.json_check import check

_POISON = re.compile(rb"(?i)poison|19991231|31\.12\.99")


def test_files_lie_on_the_scan_and_agree(
    tmp_path: Path, scan: Scan, scores: Any, model: Any
) -> None:
    written = write_scan_outputs(
        tmp_path / "out",
        scan,
        scores,
        model,
        threshold=2.0,
        fpr=0.01,
        settings=MaskSettings(min_size_mm3=5),
    )
    paths = written.files
    assert np.array_equal(written.mask, scores.nll > 2)
    assert len(written.findings) == 1
    assert {key: path.name for key, path in paths.items()} == OUTPUT_FILES
    source = nib.load(scan.path)
    nll, mask, numbers = (nib.load(paths[key]) for key in ("score", "mask", "findings"))
    assert paths["nll"].read_bytes() == paths["score"].read_bytes()
    assert nll.header.get_intent() == ("estimate", (), "NLL")
    assert nll.header["descrip"].item().startswith(b"NLL in nats per dimension, not for diagnosis")
    assert mask.header.get_intent() == ("label", (), "mask")
    assert numbers.header.get_intent() == ("label", (), "findings")
    assert np.array_equal(np.asarray(numbers.dataobj), np.asarray(mask.dataobj))
    for image, dtype in ((nll, np.float32), (mask, np.uint8), (numbers, np.uint16)):
        assert image.get_data_dtype() == dtype
        assert np.array_equal(image.affine, source.affine)
        assert image.shape == source.shape
    assert np.array_equal(np.asarray(nll.dataobj).T, scores.nll)
    assert np.array_equal(np.asarray(mask.dataobj).T, scores.nll > 2)
    (finding,) = json.loads(paths["findings_json"].read_text())["findings"]
    assert finding["voxels"] == int((scores.nll > 2).sum())
    assert len(paths["findings_csv"].read_text().splitlines()) == 2
    record = json.loads(paths["provenance"].read_text())
    assert record["research_use"] == RESEARCH_USE
    threshold = record["threshold"]
    assert threshold["score"] == threshold["nats_per_dimension"] == 2.0
    assert threshold["unit"] == "nats per dimension"
    assert record["threshold"]["share_of_normal_tissue_flagged"] == 0.01
    assert record["threshold"]["mask_edited_by_hand"] is False
    assert record["scan"]["slices_scored"] == 4
    assert record["model"]["sha256"] == model.sha256
    assert record["model"]["training"] == {"seed": 7}
    check(record, "provenance")
    check(json.loads(paths["findings_json"].read_text()), "findings")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["DOE_JANE.nii.gz", "out"]


def test_scores_are_named_in_the_models_unit(
    tmp_path: Path, scan: Scan, scores: Any, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.unit = "log odds"
    said: list[str] = []

    def picture(*_: Any, unit: str, **__: Any) -> Image.Image:
        said.append(unit)
        return Image.new("RGB", (30, 20))

    monkeypatch.setattr(outputs, "montage", picture)
    paths = write_scan_outputs(
        tmp_path / "out", scan, scores, model, threshold=2.0, montage_too=True
    ).files
    found = json.loads(paths["findings_json"].read_text())
    assert found["unit"] == found["units"]["score"] == found["findings"][0]["unit"] == "log odds"
    record = json.loads(paths["provenance"].read_text())
    assert (record["threshold"]["score"], record["threshold"]["unit"]) == (2.0, "log odds")
    assert record["summary"]["unit"] == "log odds"
    assert said == ["log odds"]
    header = nib.load(paths["nll"]).header
    assert header.get_intent() == ("estimate", (), "score")
    assert header["descrip"].item().startswith(b"score in log odds, not for diagnosis")
    # Nothing that is no log-likelihood is called one.
    texts = [paths[key].read_text() for key in ("findings_csv", "findings_json", "provenance")]
    names = {
        key for text in texts for key in re.findall(r"[a-z_]*(?:nll|nats)[a-z_]*", text.lower())
    }
    assert names <= {"nll"}, "but for the file's earlier name"


def test_nothing_written_names_the_patient(
    tmp_path: Path, scan: Scan, scores: Any, model: Any
) -> None:
    scan = replace(scan, series=replace(scan.series, uid="1.2.840.99.7"))
    paths = write_scan_outputs(tmp_path / "out", scan, scores, model, threshold=2.0).files
    for path in paths.values():
        content = path.read_bytes()
        assert b"DOE" not in content
        assert b"1.2.840.99.7" not in content
    kept = write_scan_outputs(
        tmp_path / "b", scan, scores, model, threshold=2.0, keep_uids=True
    ).files
    assert "1.2.840.99.7" in kept["provenance"].read_text()


def test_an_edited_mask_is_written_and_recorded(
    tmp_path: Path, scan: Scan, scores: Any, model: Any
) -> None:
    mask = np.zeros(scan.data.shape, np.int32)
    mask[0, 0, 0] = 3
    paths = write_scan_outputs(
        tmp_path / "out", scan, scores, model, threshold=2.0, mask=mask
    ).files
    assert np.asarray(nib.load(paths["mask"]).dataobj).sum() == 1
    (finding,) = json.loads(paths["findings_json"].read_text())["findings"]
    assert finding["centroid_zyx"] == [0, 0, 0]
    record = json.loads(paths["provenance"].read_text())
    assert record["threshold"]["mask_edited_by_hand"] is True


def test_earlier_results_are_kept_unless_asked(
    tmp_path: Path, scan: Scan, scores: Any, model: Any
) -> None:
    out = tmp_path / "out"
    paths = write_scan_outputs(out, scan, scores, model, threshold=2.0).files
    (out / "notes.txt").write_text("mine")
    before = paths["mask"].read_bytes()
    with pytest.raises(InputError, match="earlier run"):
        write_scan_outputs(out, scan, scores, model, threshold=9.0)
    assert paths["mask"].read_bytes() == before
    write_scan_outputs(out, scan, scores, model, threshold=9.0, overwrite=True)
    assert np.asarray(nib.load(paths["mask"]).dataobj).sum() == 0
    assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("existing", [False, True])
def test_a_full_disk_leaves_nothing_behind(
    tmp_path: Path,
    scan: Scan,
    scores: Any,
    model: Any,
    monkeypatch: pytest.MonkeyPatch,
    existing: bool,
) -> None:
    out = tmp_path / "out"
    if existing:
        write_scan_outputs(out, scan, scores, model, threshold=2.0)
    before = {p: p.read_bytes() for p in out.rglob("*")}

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(outputs, "write_findings_json", full)
    with pytest.raises(StorageError, match="disk is full"):
        write_scan_outputs(out, scan, scores, model, threshold=9.0, overwrite=True)
    assert {p: p.read_bytes() for p in out.rglob("*")} == before
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_move_that_fails_brings_the_earlier_run_back(
    tmp_path: Path, scan: Scan, scores: Any, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    write_scan_outputs(out, scan, scores, model, threshold=2.0, png=True, montage_too=True)
    (out / "notes.txt").write_text("mine")
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    move = os.replace

    def fails_at_the_mask(old: Path, new: Path) -> None:
        if Path(new) == out / "mask.nii.gz" and Path(old).parent.name != "aside":
            monkeypatch.setattr(outputs.os, "replace", move)
            raise OSError(5, "Input/output error")
        move(old, new)

    monkeypatch.setattr(outputs.os, "replace", fails_at_the_mask)
    with pytest.raises(StorageError, match="Input/output"):
        write_scan_outputs(out, scan, scores, model, threshold=9.0, overwrite=True)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["DOE_JANE.nii.gz", "out"]


def test_nothing_of_an_earlier_run_stays_beside_a_new_one(
    tmp_path: Path, dicom_scan: Scan, scores: Any, model: Any
) -> None:
    out = tmp_path / "out"
    options = {"dicom": True, "png": True, "montage_too": True}
    first = write_scan_outputs(out, dicom_scan, scores, model, threshold=2.0, **options)
    assert {*OUTPUT_FILES, *DICOM_FILES, "overlays", "montage"} == set(first.files)
    assert all(path.exists() for path in first.files.values())
    (out / "notes.txt").write_text("mine")
    write_scan_outputs(out, dicom_scan, scores, model, threshold=9.0, overwrite=True)
    assert sorted(p.name for p in out.iterdir()) == sorted([*OUTPUT_FILES.values(), "notes.txt"])
    (out / "provenance.json").unlink()
    for path in out.iterdir():
        path.unlink()
    (out / "overlays").mkdir()
    with pytest.raises(InputError, match="earlier run"):
        write_scan_outputs(out, dicom_scan, scores, model, threshold=9.0)


def test_dicom_objects_hold_the_mask_and_the_scores(
    tmp_path: Path, dicom_scan: Scan, scores: Any, model: Any
) -> None:
    written = write_scan_outputs(
        tmp_path / "out", dicom_scan, scores, model, threshold=2.0, dicom=True
    )
    assert written.warnings == ()
    seg = hd.seg.segread(written.files["mask_dicom"])
    assert seg.get_volume().array.sum() == written.mask.sum()
    (segment,) = seg.SegmentSequence
    assert segment.SegmentAlgorithmType == "AUTOMATIC"
    (made_by,) = segment.SegmentationAlgorithmIdentificationSequence
    assert (made_by.AlgorithmName, made_by.AlgorithmVersion) == ("brain", "ab" * 8)
    parameters = "threshold=2 nats per dimension", f"model sha256={model.sha256}"
    assert made_by.AlgorithmParameters == ",".join(parameters)
    found = hd.imread(written.files["nll_dicom"])
    assert found.get_volume(dtype=np.float32).array.sum() == pytest.approx(scores.nll.sum())
    edited = scores.nll > 1e9
    edited[0, 0, 0] = True
    again = write_scan_outputs(
        tmp_path / "b", dicom_scan, scores, model, threshold=2.0, mask=edited, dicom=True
    )
    seg = hd.seg.segread(again.files["mask_dicom"])
    assert seg.SegmentSequence[0].SegmentAlgorithmType == "SEMIAUTOMATIC"
    made = recorded_algorithm(again.files["mask"])
    assert made == (dicom_algorithm(model, threshold=2.0), True)
    assert recorded_algorithm(tmp_path / "mask.nii.gz") is None


def test_a_scan_that_is_not_from_dicom_has_a_sentence_instead(
    tmp_path: Path, scan: Scan, scores: Any, model: Any
) -> None:
    written = write_scan_outputs(tmp_path / "out", scan, scores, model, threshold=2.0, dicom=True)
    (sentence,) = written.warnings
    assert "not read from DICOM" in sentence
    assert "DOE" not in sentence
    assert set(written.files) == set(OUTPUT_FILES)


def test_the_record_says_what_was_seen(
    tmp_path: Path, dicom_scan: Scan, scores: Any, model: Any
) -> None:
    header = fake_header(
        preprocessing=Preprocessing(Window("fixed", -5, 35)),
        backbone=BackboneRef("fake-backbone", (), "cd" * 32),
    )
    model = replace(model, header=header)
    write = partial(write_scan_outputs, volume=dicom_scan, score=scores, model=model, threshold=2.0)
    record = json.loads(write(tmp_path / "a").files["provenance"].read_text())
    about = record["scan"]
    assert about["display_window"] == [0, 99]  # PS3.3 C.11.2.1.2
    assert about["model_window"] == [-5, 35]
    assert (about["role"], about["regular_grid"], about["unit"]) == ("original", True, None)
    assert record["model"]["backbone"]["sha256"] == "cd" * 32
    assert record["versions"]["highdicom"]
    uids = {"series_uid": "1.2.3", "study_uid": "1.2", "frame_of_reference_uid": "1.2.9"}
    for key, uid in uids.items():
        assert about[key] == "sha256:" + hashlib.sha256(uid.encode()).hexdigest()
    kept = json.loads(write(tmp_path / "b", keep_uids=True).files["provenance"].read_text())
    assert {key: kept["scan"][key] for key in uids} == uids


def test_no_word_of_the_patient_leaves_but_in_dicom(
    tmp_path: Path, dicom_scan: Scan, scores: Any, model: Any, said: list[str]
) -> None:
    """Every byte of every file, and of what is packed in it."""
    named = replace(dicom_scan, series=replace(dicom_scan.series, description="PoisonText T2"))
    out = tmp_path / "out"
    options = {"dicom": True, "png": True, "png_heat": True, "montage_too": True}
    written = write_scan_outputs(out, named, scores, model, threshold=2.0, **options)
    paths = [path for path in out.rglob("*") if path.is_file()]
    assert len(paths) == len(OUTPUT_FILES) + 4 + 2
    for key in ("score", "nll", "mask", "findings"):
        header = nib.load(written.files[key]).header
        assert b"not for diagnosis; model brain" in header["descrip"].item()
    for path in paths:
        assert not _POISON.search(str(path.relative_to(tmp_path)).encode())
        if path.suffix == ".dcm":
            continue
        content = path.read_bytes()
        content += gzip.decompress(content) if path.suffix == ".gz" else b""
        assert not _POISON.search(content), path.name
    assert not _POISON.search(" ".join((*said, *written.warnings)).encode())
    # DICOM carries the patient as it must, and none of the free text.
    seg = pydicom.dcmread(written.files["mask_dicom"])
    assert seg.PatientName == "PoisonName^Jane"
    assert "Poison" not in str(seg.get("SeriesDescription"))
    assert b"PoisonText" not in written.files["mask_dicom"].read_bytes()


def test_a_file_in_the_way_is_named(tmp_path: Path, scan: Scan, scores: Any, model: Any) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(InputError, match="a file, not a folder"):
        write_scan_outputs(tmp_path / "out", scan, scores, model, threshold=2.0)


def test_folder_names_come_from_the_series(scan: Scan) -> None:
    named = replace(scan, series=replace(scan.series, label="MR series 4 / T2*"))
    assert scan_folder_name(named) == "mr-series-4-t2"
    assert scan_folder_name(named, {"mr-series-4-t2"}) == "mr-series-4-t2-2"
    assert scan_folder_name(replace(scan, series=replace(scan.series, label="///"))) == "scan"


def test_a_montage_comes_with_the_files_where_asked(
    tmp_path: Path, scan: Scan, scores: Any, model: Any
) -> None:
    out = tmp_path / "out"
    files = write_scan_outputs(out, scan, scores, model, threshold=2.0, montage_too=True).files
    assert files["montage"].read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in out.iterdir()) == sorted([*OUTPUT_FILES.values(), "montage.png"])


def test_rejected_findings_leave_the_masks_and_are_marked_in_the_tables(
    tmp_path: Path, dicom_scan: Scan, scores: Any, model: Any
) -> None:
    nll = np.zeros_like(scores.nll)
    nll[1, 3:6, 3:9] = 5
    nll[2, 20:24, 10:14] = 7
    given = ScanScores(nll, dicom_scan.geometry, np.ones(5, bool), nll.max(axis=(1, 2)))
    mask = nll > 2
    listed = list_findings(mask, nll, dicom_scan.geometry, model=model)
    first, second = (item.finding.label for item in listed.items)
    listed = listed.decide(second, status="reject", comment="=vessel, not\nlesion")
    listed = listed.decide(first, status="keep")
    written = write_scan_outputs(
        tmp_path / "out",
        dicom_scan,
        given,
        model,
        threshold=2.0,
        mask=mask,
        reviewed=listed,
        dicom=True,
    )
    saved = np.asarray(nib.load(written.files["mask"]).dataobj).T
    assert np.array_equal(saved, nll == 7)
    numbers = np.asarray(nib.load(written.files["findings"]).dataobj).T
    assert np.array_equal(numbers, nll == 7)
    dicom = pydicom.dcmread(written.files["mask_dicom"])
    assert dicom.pixel_array.sum() == 16
    (segment,) = pydicom.dcmread(written.files["findings_dicom"]).SegmentSequence
    assert segment.SegmentLabel == "Finding 1"
    with written.files["findings_csv"].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["keep", "reject"]
    assert [row["label"] for row in rows] == ["1", "0"]
    assert label_components(saved)[2, 21, 11] == 1
    assert rows[1]["comment"] == "'=vessel, not\nlesion"
    assert float(rows[0]["longest_diameter_mm"]) > 0
    assert "not calibrated" in rows[0]["rarity"]
    assert rows[0]["one_in_normal_patients"] == ""
    tables = json.loads(written.files["findings_json"].read_text())["findings"]
    assert [item["status"] for item in tables] == ["keep", "reject"]
    record = json.loads(written.files["provenance"].read_text())
    assert record["threshold"]["mask_edited_by_hand"] is True


def three(scan: Scan) -> ScanScores:
    """Scores with three regions, of which the second in the order of the file peaks highest."""
    nll = np.zeros(scan.geometry.shape, np.float32)
    nll[0, 2:4, 3:9] = 5
    nll[1, 20:24, 10:14] = 9
    nll[3, 10:15, 2:6] = 7
    nll[3, 12, 3] = 7.5
    return ScanScores(nll, scan.geometry, np.ones(5, bool), nll.max(axis=(1, 2)))


def test_a_finding_has_one_number_name_and_colour_in_every_file(
    tmp_path: Path, dicom_scan: Scan, model: Any
) -> None:
    given = three(dicom_scan)
    listed = list_findings(given.nll > 2, given.nll, dicom_scan.geometry, model=model)
    middle = next(item.finding for item in listed.items if item.finding.rank == 2)
    listed = listed.decide(middle.label, status="reject")
    options = {"dicom": True, "seg_nrrd": True, "itksnap": True, "report": True}
    files = write_scan_outputs(
        tmp_path, dicom_scan, given, model, threshold=2.0, reviewed=listed, **options
    ).files
    numbers = np.asarray(nib.load(files["findings"]).dataobj).T
    assert np.unique(numbers).tolist() == [0, 1, 3], "the rejected one leaves a gap"
    assert np.array_equal(numbers != 0, np.asarray(nib.load(files["mask"]).dataobj).T != 0)
    with files["findings_csv"].open(newline="") as file:
        table = list(csv.DictReader(file))
    entries = json.loads(files["findings_json"].read_text())["findings"]
    assert [row["status"] for row in table] == ["unread", "reject", "unread"]
    assert [entry["label"] for entry in entries] == [1, 0, 3]
    seg = hd.seg.segread(files["findings_dicom"])
    snap = files["itksnap"].read_text()
    names, colours = {}, {}
    header = nrrd.read_header(str(files["seg_nrrd"]))
    for index in range(2):
        number = int(header[f"Segment{index}_LabelValue"])
        names[number] = header[f"Segment{index}_Name"]
        colours[number] = [round(255 * float(c)) for c in header[f"Segment{index}_Color"].split()]
    for row, entry in zip(table, entries, strict=True):
        number = entry["rank"]
        assert (int(row["rank"]), int(row["label"])) == (number, entry["label"])
        assert row["tracking_uid"] == entry["tracking_uid"]
        assert f'<th scope="row">{number}</th>' in files["report"].read_text()
        if entry["status"] == "reject":
            assert seg.get_segment_numbers(tracking_uid=entry["tracking_uid"]) == []
            continue
        assert (numbers == number).sum() == entry["voxels"] == int(row["voxels"])
        assert numbers[tuple(entry["peak_zyx"])] == number
        assert given.nll[tuple(entry["peak_zyx"])] == entry["peak_score"]
        (at,) = seg.get_segment_numbers(tracking_uid=entry["tracking_uid"])
        found = seg.get_volume(segment_numbers=[at]).array
        assert found.sum() == entry["voxels"]
        assert seg.get_segment_description(at).segment_label == entry["name"] == names[number]
        assert entry["colour"] == "#{:02x}{:02x}{:02x}".format(*colours[number])
        assert f'"{entry["name"]}"' in snap


def test_a_region_keeps_its_tracking_uid_in_later_exports(
    tmp_path: Path, dicom_scan: Scan, model: Any
) -> None:
    given = three(dicom_scan)

    def uids(name: str, scored: Any = given, by: Any = model, threshold: float = 2.0) -> list[str]:
        files = write_scan_outputs(
            tmp_path / name, dicom_scan, scored, by, threshold=threshold
        ).files
        return [
            row["tracking_uid"]
            for row in json.loads(files["findings_json"].read_text())["findings"]
        ]

    first = uids("a")
    assert len(set(first)) == 3
    assert all(re.fullmatch(r"2\.25\.\d{1,39}", uid) for uid in first)
    assert uids("b") == first
    assert uids("c", threshold=7.2) == first[:2], "at another threshold they are smaller"
    assert not set(uids("d", by=replace(model, sha256="cd" * 32))) & set(first)


def test_more_specks_than_anyone_reads_are_one_segment(
    tmp_path: Path, dicom_scan: Scan, scores: Any, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dicom_objects, "MOST_SEGMENTS", 2)
    written = write_scan_outputs(
        tmp_path, dicom_scan, three(dicom_scan), model, threshold=2.0, dicom=True
    )
    (sentence,) = written.warnings
    assert "3 flagged regions are more than 2 segments" in sentence
    assert not (tmp_path / "findings.dcm").exists()
    assert written.files.keys() >= {"mask_dicom", "nll_dicom"}


def test_nothing_found_gives_an_empty_map_and_no_segments(
    tmp_path: Path, dicom_scan: Scan, scores: Any, model: Any
) -> None:
    options = {"dicom": True, "seg_nrrd": True, "itksnap": True}
    written = write_scan_outputs(tmp_path, dicom_scan, scores, model, threshold=99.0, **options)
    assert written.warnings == ()
    assert not np.asarray(nib.load(written.files["findings"]).dataobj).any()
    assert "findings_dicom" not in written.files
    assert (tmp_path / "findings.seg.nrrd").exists()
