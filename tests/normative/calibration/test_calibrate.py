"""Calibrating a fitted model on scans that it was not trained on."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import napari_spatial_ar as nsar
from napari_spatial_ar.errors import InputError
from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.calibration.calibrate import recalibrate
from napari_spatial_ar.normative.model import NormativeModel


@pytest.fixture
def model(
    normal_slices: Path, tmp_path: Path, tiny_backbone: Backbone, tiny_weights: Path
) -> NormativeModel:
    return nsar.fit(
        normal_slices,
        out=tmp_path / "model",
        backbone=tiny_backbone,
        method="patch-gaussian",
        size=(64, 64),
        device="cpu",
    )


@pytest.fixture
def others(normal_slices: Path, tmp_path: Path) -> Path:
    """The same slices turned upside down, as of five patients, one of whom has one slice."""
    folder = tmp_path / "others"
    folder.mkdir()
    for number, path in enumerate(sorted(normal_slices.iterdir())):
        upside_down = np.asarray(Image.open(path))[::-1]
        patient = "doe" if number == 0 else path.stem.split("_")[0]
        Image.fromarray(upside_down).save(folder / f"{patient}_{number:02}.png")
    return folder


def test_calibrated_in_place_and_as_a_copy(
    model: NormativeModel, others: Path, tmp_path: Path
) -> None:
    file = tmp_path / "model" / "model.safetensors"
    before = file.read_bytes()
    seen: list[tuple[str, int, int]] = []
    arguments = {"device": "cpu", "progress": lambda *step: seen.append(step)}
    copy = recalibrate(file, others, out=tmp_path / "copy", **arguments)
    assert file.read_bytes() == before
    assert ("Scoring normal slices", 12, 12) in seen
    assert seen[-1] == ("Counting regions in normal slices", 12, 12)
    calibration = copy.calibration
    assert (calibration.slices, calibration.patients, calibration.separate) == (12, 5, True)
    assert not model.calibration.separate, "a fit calibrates on what chose its best epoch"
    # What scoring a slice gives is among what was calibrated on, but for float16 embeddings.
    image = np.asarray(Image.open(others / "doe_00.png"))
    score = copy.score_slice(image)
    assert min(abs(np.array(calibration.image_scores) - score.image_score)) < 1e-2
    # Each patient's highest voxel is that of the heatmaps that findings are made of.
    assert calibration.peaks is not None
    highest: dict[str, float] = {}
    for path in sorted(others.iterdir()):
        patient = path.stem.split("_")[0]
        top = float(copy.score_slice(np.asarray(Image.open(path))).nll.max())
        highest[patient] = max(top, highest.get(patient, top))
    peaks = sorted(row[0] for row in calibration.peaks.scores)
    assert peaks == pytest.approx(sorted(highest.values()), abs=1e-2)
    saved = nsar.load_model(tmp_path / "copy", device="cpu")
    assert saved.header == copy.header
    assert saved.name == "copy"
    for name, tensor in model.detector.tensors().items():
        assert torch.equal(tensor, saved.detector.tensors()[name])
    with pytest.raises(InputError, match="a model already exists"):
        recalibrate(file, others, out=tmp_path / "copy", **arguments)
    recalibrate(file, others, **arguments)
    assert nsar.load_model(tmp_path / "model", device="cpu").header == saved.header


def test_slices_of_the_training_are_refused(
    model: NormativeModel, others: Path, normal_slices: Path, tmp_path: Path
) -> None:
    keys = model.header.training["slice_keys"]
    assert (len(keys["train"]), len(keys["valid"])) == (9, 3)
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    for path in normal_slices.iterdir():
        shutil.copy(path, others / f"renamed_{path.name}")
    with pytest.raises(InputError, match="9 of its 24 slices were used to train"):
        recalibrate(tmp_path / "model", others, device="cpu")
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before


def test_slices_that_chose_the_epoch_are_taken_and_said(
    model: NormativeModel, normal_slices: Path, others: Path, tmp_path: Path
) -> None:
    (held_out,) = {
        path.stem.split("_")[0]
        for path in normal_slices.iterdir()
        if _used(model, path, tmp_path / "one") == "valid"
    }
    for path in normal_slices.glob(f"{held_out}_*"):
        shutil.copy(path, others / f"again_{path.name}")
    calibrated = recalibrate(tmp_path / "model", others, out=tmp_path / "b", device="cpu")
    assert calibrated.calibration.patients == 6
    assert not calibrated.calibration.separate


def _used(model: NormativeModel, path: Path, folder: Path) -> str:
    """Where a fit has put a picture: "train" or "valid"."""
    from napari_spatial_ar.datasets.folders import find_slices
    from napari_spatial_ar.normative.calibration.calibrate import slice_keys

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.copy(path, folder)
    (key,) = slice_keys(find_slices(folder, modality="mri").train)
    keys = model.header.training["slice_keys"]
    return next(part for part in keys if key in keys[part])


def test_released_models_are_not_changed(others: Path) -> None:
    with pytest.raises(InputError, match=r"came with the package.*--out"):
        recalibrate("brain-flair-focus", others)
