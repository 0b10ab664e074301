"""An evaluation of a data set made on the spot, with figures known beforehand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score

from napari_spatial_ar.datasets.folders import bmad_items
from napari_spatial_ar.errors import InputError
from napari_spatial_ar.evaluation.candidates import Candidate
from napari_spatial_ar.evaluation.evaluate import evaluate, measure
from napari_spatial_ar.normative.model import NormativeModel
from napari_spatial_ar.normative.scores import SliceScore
from tests.evaluation.conftest import BrightnessModel


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
    assert result.best_dice_oracle == 1.0
    assert result.lesions == result.abnormal_images
    assert result.lesion_sensitivity == 1.0
    assert result.lesion_sensitivity_at["0.125"] == 1.0
    assert sum(part.lesions for part in result.lesion_sizes) == result.lesions
    assert "lesion_sensitivity" in result.intervals
    assert result.base_rate == pytest.approx(50 / (4 * 480))
    assert 0 < result.ms_per_slice <= result.ms_per_slice_p95
    assert (result.model_bytes, result.fit_seconds, result.peak_gpu_mb) == (12, None, None)
    assert result.smoothing == 1
    # Patient a alone has the false alarms, b the lesions: a draw of both gives the exact figure.
    low, high = result.intervals["realised_fpr"]
    assert low == high == result.realised_fpr
    assert result.intervals["pixel_auroc"] == (1.0, 1.0)
    json.dumps(result.to_dict(), allow_nan=False)


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


def test_models_on_one_backbone_embed_an_image_once(
    cohort: Path, bank: NormativeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    backbone = bank.backbone
    embed = backbone.embed
    monkeypatch.setattr(backbone, "embed", lambda images: calls.append(1) or embed(images))
    twin = NormativeModel("twin", bank.header, bank.detector, device="cpu")  # has no backbone yet
    items = bmad_items(cohort, "test")
    alone, smooth, other = measure(
        items, [Candidate(bank), Candidate(bank, smoothing=3), Candidate(twin)]
    )
    assert len(calls) == len(items)
    assert bank.backbone is backbone
    assert "backbone" not in vars(twin)
    assert other.evaluation.pixel_aupr == alone.evaluation.pixel_aupr
    assert smooth.evaluation.pixel_aupr != alone.evaluation.pixel_aupr
    assert (alone.evaluation.smoothing, smooth.evaluation.smoothing) == (1, 3)
    # The twin is charged for the embedding that it was given.
    for measured in (alone, other):
        figures = measured.evaluation
        assert figures.ms_per_slice > figures.ms_beyond_backbone > 0
    np.testing.assert_array_equal(alone.draws["pixel_aupr"], other.draws["pixel_aupr"])


def test_other_smoothing_is_the_model_saved_with_it(cohort: Path, bank: NormativeModel) -> None:
    items = bmad_items(cohort, "test")
    header = replace(bank.header, scoring=replace(bank.header.scoring, smoothing=3))
    saved = NormativeModel("saved", header, bank.detector, backbone=bank.backbone, device="cpu")
    (one,) = measure(items, [Candidate(bank, smoothing=3)])
    (two,) = measure(items, [Candidate(saved)])
    assert one.evaluation.pixel_aupr == two.evaluation.pixel_aupr
    assert one.evaluation.image_auroc == two.evaluation.image_auroc


def test_an_image_score_of_the_methods_own_outlives_smoothing(cohort: Path) -> None:
    model = BrightnessModel()
    score_slice = model.score_slice

    def own(image: np.ndarray, *, window: tuple[float, float]) -> SliceScore:
        return replace(score_slice(image, window=window), image_score=float(image[20, 20]))

    items = bmad_items(cohort, "test")
    plain, smooth = measure(items, [Candidate(model), Candidate(model, smoothing=5)])  # type: ignore[arg-type]
    assert plain.evaluation.image_auroc != smooth.evaluation.image_auroc
    model.score_slice = own  # type: ignore[method-assign]
    plain, smooth = measure(items, [Candidate(model), Candidate(model, smoothing=5)])  # type: ignore[arg-type]
    assert plain.evaluation.image_auroc == smooth.evaluation.image_auroc
    assert plain.evaluation.pixel_aupr != smooth.evaluation.pixel_aupr


def test_patients_figures_are_their_own(cohort: Path) -> None:
    items = bmad_items(cohort, "test")
    (measured,) = measure(items, [Candidate(BrightnessModel())])  # type: ignore[arg-type]
    assert len(measured.patients) == 5
    mine = [item for item in items if item.group == measured.patients[2]]
    score = np.concatenate([np.asarray(Image.open(i.image)).ravel() for i in mine])
    label = np.concatenate([np.asarray(Image.open(i.label)).ravel() for i in mine]) > 0
    expected = average_precision_score(label, score.astype(float))
    assert measured.patient_aupr[2] == pytest.approx(expected, abs=5e-3)
    low, high = measured.evaluation.intervals["pixel_aupr"]
    assert low < measured.evaluation.pixel_aupr < high  # type: ignore[operator]
