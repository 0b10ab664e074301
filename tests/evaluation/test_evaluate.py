"""An evaluation of a data set made on the spot, with figures known beforehand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.evaluation.evaluate import evaluate
from napari_spatial_ar.imaging.windows import Window
from napari_spatial_ar.normative.calibration import Calibration
from napari_spatial_ar.normative.scoring import SliceScore


class BrightnessModel:
    """Says that bright is unusual: its figures can be worked out by hand."""

    backbone = None
    header = SimpleNamespace(
        preprocessing=SimpleNamespace(window=Window("full8")),
        calibration=Calibration((0.1, 0.01), (150.0, 250.0), (), slices=1, patients=1),
    )

    def score_slice(self, image: np.ndarray, *, window: Any) -> SliceScore:
        assert window == (0.0, 255.0)
        return SliceScore(image.astype(np.float32), image[:1, :1], float(image.max()))

    def threshold_for_fpr(self, fpr: float) -> float:
        return {0.1: 150.0, 0.01: 250.0}[fpr]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Two normal images of patient a, two abnormal ones of patient b with a bright square."""
    rng = np.random.default_rng(0)
    for kind in ("good", "Ungood"):
        for part in ("img", "label"):
            (tmp_path / "test" / kind / part).mkdir(parents=True)
    for number in range(2):
        image = rng.integers(50, 100, (20, 24)).astype(np.uint8)
        image[3, 4] = 200  # a false alarm: 1 of 480 pixels
        label = np.zeros_like(image)
        Image.fromarray(image).save(tmp_path / f"test/good/img/a_{number}.png")
        Image.fromarray(label).save(tmp_path / f"test/good/label/a_{number}.png")
        image[3, 4] = 60
        image[5:10, 5:10] = 220
        label[5:10, 5:10] = 255
        Image.fromarray(image).save(tmp_path / f"test/Ungood/img/b_{number}.png")
        Image.fromarray(label).save(tmp_path / f"test/Ungood/label/b_{number}.png")
    return tmp_path


def test_figures(dataset: Path) -> None:
    seen: list[tuple[int, int]] = []
    result = evaluate(
        dataset,
        BrightnessModel(),
        fpr=0.1,
        progress=lambda *step: seen.append(step),  # type: ignore[arg-type]
    )
    assert seen[-1] == (4, 4)
    assert (result.images, result.abnormal_images, result.patients) == (4, 2, 2)
    assert result.pixel_auroc == 1.0
    assert result.pixel_aupr == 1.0
    assert result.pixel_aupro == pytest.approx(1.0)
    assert result.image_auroc == 1.0
    assert result.threshold == 150.0
    assert result.realised_fpr == pytest.approx(1 / 480)
    assert result.dice_at_fpr == pytest.approx(2 * 50 / (50 + 50 + 2))
    assert result.base_rate == pytest.approx(50 / (4 * 480))
    assert result.ms_per_slice > 0


def test_without_labels_only_image_figures(dataset: Path) -> None:
    for path in (dataset / "test/Ungood/label").iterdir():
        path.unlink()
    result = evaluate(dataset, BrightnessModel(), fpr=0.1)  # type: ignore[arg-type]
    assert result.pixel_auroc is None
    assert result.dice_at_fpr is None
    assert result.image_auroc == 1.0


def test_label_of_another_size(dataset: Path) -> None:
    Image.new("L", (5, 5)).save(dataset / "test/Ungood/label/b_1.png")
    with pytest.raises(InputError, match=r"label has \(5, 5\) pixels"):
        evaluate(dataset, BrightnessModel())  # type: ignore[arg-type]


def test_split_that_is_not_there(dataset: Path) -> None:
    with pytest.raises(InputError, match="valid/good"):
        evaluate(dataset, BrightnessModel(), split="valid")  # type: ignore[arg-type]
