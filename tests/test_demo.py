"""The demonstration on the shipped scan with the released model, without a display."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

import napari_spatial_ar as nsar
from napari_spatial_ar.demo import DEMO_MODEL, run_demo
from napari_spatial_ar.imaging.samples import sample_path
from napari_spatial_ar.paths import released_models_dir
from napari_spatial_ar.review.masks import make_mask


@pytest.mark.parametrize("name", [DEMO_MODEL, "brain-flair-change", "brain-flair-focus"])
def test_released_models_are_whole_and_say_what_they_are(name: str) -> None:
    model = nsar.load_model(name, device="cpu")
    header = model.header
    assert (header.modality, header.backbone.name) == ("mri", "dinov2_vits14_focus")
    assert header.backbone.layers == (7,)
    assert header.training["subjects"] == 60
    assert header.calibration is not None
    assert header.calibration.patients == 12
    assert header.calibration.peaks is not None
    assert len(header.calibration.peaks.scores) == 12
    assert header.acquired is not None
    assert (header.acquired.usual("plane"), header.acquired.usual("sequence")) == (
        ("axial",),
        ("FLAIR",),
    )
    card = (released_models_dir() / name / "README.md").read_text()
    assert "CC BY 3.0" in card
    assert "not for diagnosis" in card


def test_the_released_network_had_stopped_learning() -> None:
    model = nsar.load_model("brain-flair-focus", device="cpu")
    valid = model.header.training["history"]["valid_nll"]
    assert valid[-10] - min(valid) < 0.005


def test_headless_demo_finds_something_on_the_scans_own_grid(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    result = run_demo(headless=True, out=tmp_path / "out", progress=lambda *step: seen.append(step))
    assert seen[-1][1:] == (32, 32)
    assert len(result["files"]) == 8
    scan = nib.load(sample_path())
    nll = nib.load(tmp_path / "out" / "nll.nii.gz")
    mask = nib.load(tmp_path / "out" / "mask.nii.gz")
    for image in (nll, mask):
        assert image.shape == scan.shape
        np.testing.assert_allclose(image.affine, scan.affine)
    volume = nsar.read(sample_path())[0]
    scores = nll.get_fdata().T.astype(np.float32)
    found = json.loads((tmp_path / "out" / "findings.json").read_text())
    # The neck and the vertex, which no training slice shows, are left out.
    counted = np.array([p is not None for p in found["p_values"]["slices"]])
    assert not counted[[0, -1]].any()
    assert counted[5:28].all()
    assert scores[~counted].any()
    scores[~counted] = 0
    expected = make_mask(scores, result["threshold"], geometry=volume.geometry)
    np.testing.assert_array_equal(mask.get_fdata().T, expected)
    flagged = expected.astype(bool)
    assert 0.001 < flagged.mean() < 0.1
    # The glioma is bright in FLAIR: what is flagged is brighter than the rest of the body.
    assert volume.data[flagged].mean() > 1.1 * volume.data[~flagged & (volume.data > 20)].mean()
    with Image.open(tmp_path / "out" / "montage.png") as montage:
        assert montage.size[0] > 500
    # No line on how rare the glioma is contradicts another.
    glioma = found["findings"][0]
    assert found["p_values"]["scan"] == pytest.approx(1 / 13)
    assert (glioma["normal_patients_as_high"], glioma["normal_patients"]) == (0, 12)
    assert glioma["rarity"].startswith("Scores higher than in any of 12 normal patients")
    record = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert record["likeness"]["unlike"] == []
    assert record["model"]["backbone"]["name"] == "dinov2_vits14_focus"
    weights = record["backbone_weights"]
    assert (weights["embedded"], weights["rounded_to"]) == (True, "float16")
    assert result["weights"] == "comes with the package (blocks 1 to 7, float16)"
