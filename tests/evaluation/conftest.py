"""Data sets made on the spot, and a model whose figures can be worked out by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from napari_spatial_ar.imaging.windows import Window
from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.backbones.registry import BackboneSpec
from napari_spatial_ar.normative.calibration.calibration import Calibration
from napari_spatial_ar.normative.detectors import MemoryBank
from napari_spatial_ar.normative.heatmap import Scoring
from napari_spatial_ar.normative.model import NormativeModel
from napari_spatial_ar.normative.model_file import BackboneRef, ModelHeader
from napari_spatial_ar.normative.preprocessing import Preprocessing
from napari_spatial_ar.normative.scores import SliceScore


class BrightnessModel:
    """Says that bright is unusual."""

    name = "bright"
    unit = "grey values"
    sha256 = "b" * 64
    device = torch.device("cpu")
    detector = SimpleNamespace(tensors=lambda: {"nothing": torch.zeros(3)}, heatmap_divisor=1.0)

    def __init__(self, *, name: str = "bright", inverted: bool = False) -> None:
        self.name = name
        self.inverted = inverted
        self.backbone = SimpleNamespace(device=self.device)
        self.header = SimpleNamespace(
            backbone=BackboneRef("none", (), ""),
            method="brightness",
            preprocessing=SimpleNamespace(window=Window("full8")),
            scoring=Scoring(1),
            training={"seed": 0},
            calibration=Calibration((0.1, 0.01), (150.0, 250.0), (), slices=1, patients=1),
        )

    def score_slice(self, image: np.ndarray, *, window: Any) -> SliceScore:
        assert window == (0.0, 255.0)
        scores = image.astype(np.float32)
        scores = 255 - scores if self.inverted else scores
        return SliceScore(scores, scores, float(scores.max()))

    def threshold_for_fpr(self, fpr: float) -> float:
        return {0.1: 150.0, 0.01: 250.0}[fpr]


def write_slice(root: Path, split: str, name: str, image: np.ndarray, label: np.ndarray) -> None:
    folder = root / split / ("Ungood" if label.any() else "good")
    for part, pixels in (("img", image), ("label", 255 * label.astype(np.uint8))):
        (folder / part).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / part / f"{name}.png")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Two normal images of patient a, two abnormal ones of patient b with a bright square."""
    rng = np.random.default_rng(0)
    for number in range(2):
        image = rng.integers(50, 100, (20, 24)).astype(np.uint8)
        image[3, 4] = 200  # a false alarm: 1 of 480 pixels
        label = np.zeros((20, 24), bool)
        write_slice(tmp_path, "test", f"a_{number}", image, label)
        image[3, 4] = 60
        image[5:10, 5:10] = 220
        label[5:10, 5:10] = True
        write_slice(tmp_path, "test", f"b_{number}", image, label)
    return tmp_path


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Noisy discs of several patients, valid and test with brighter squares, train without."""
    root = tmp_path / "cohort"
    rng = np.random.default_rng(5)
    rows, columns = np.mgrid[:40, :40]
    disc = (rows - 20) ** 2 + (columns - 20) ** 2 < 300
    (root / "train" / "good").mkdir(parents=True)
    for split, patients in (("train", 3), ("valid", 3), ("test", 5)):
        for patient in range(patients):
            for number in range(2):
                grey = rng.normal(110 + 5 * patient, 15, disc.shape)
                label = np.zeros(disc.shape, bool)
                if split != "train" and number:
                    top, left = rng.integers(10, 24, 2)
                    label[top : top + 6, left : left + 5] = True
                image = np.clip(disc * (grey + 45 * label), 0, 255).astype(np.uint8)
                name = f"{split}Doe{patient}_{number}"
                if split == "train":
                    Image.fromarray(image).save(root / "train" / "good" / f"{name}.png")
                else:
                    write_slice(root, split, name, image, label)
    return root


@pytest.fixture
def bank(tiny_spec: BackboneSpec, tiny_backbone: Backbone) -> NormativeModel:
    """A memory bank of random patches on the tiny backbone, never saved."""
    rows = torch.randn(50, 24, generator=torch.Generator().manual_seed(0))
    return NormativeModel(
        "bank",
        ModelHeader(
            method="memory-bank",
            parameters={},
            modality="mri",
            backbone=BackboneRef(tiny_spec.name, tiny_spec.layers, tiny_backbone.sha256),
            preprocessing=Preprocessing(Window("full8"), size=(64, 64)),
            scoring=Scoring(smoothing=1),
        ),
        MemoryBank(torch.nn.functional.normalize(rows).half()),
        backbone=tiny_backbone,
        device="cpu",
    )
