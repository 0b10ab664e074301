"""A whole fit on a tiny backbone: the same twice, the same after a stop, honest on bad input."""

from __future__ import annotations

import errno
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image

import napari_spatial_ar as nsar
from napari_spatial_ar.datasets.folders import find_slices, split_by_group
from napari_spatial_ar.datasets.survey import survey
from napari_spatial_ar.errors import InputError, StorageError, WeightsError
from napari_spatial_ar.imaging.json_text import from_plain
from napari_spatial_ar.imaging.windows import Window
from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.backbones.registry import Fuse, with_layers
from napari_spatial_ar.normative.calibration.calibration import Calibration, calibrate
from napari_spatial_ar.normative.detectors.ar_training import LoadedGrids, mean_nll
from napari_spatial_ar.normative.fitting import fit
from napari_spatial_ar.normative.fitting.config import DEFAULT_METHOD
from napari_spatial_ar.normative.fitting.feature_store import FeatureStore, load_batch
from napari_spatial_ar.normative.fitting.plan import FitProgress
from napari_spatial_ar.normative.model import NormativeModel
from napari_spatial_ar.normative.preprocessing import Preprocessing
from napari_spatial_ar.paths import feature_store_dir, user_models_dir
from napari_spatial_ar.steps import finish
from tests.tiny import fit_steps, learn_changes_briefly, random_state


@pytest.fixture
def settings(tiny_backbone: Backbone) -> dict[str, Any]:
    return {
        "backbone": tiny_backbone,
        "size": (64, 64),
        "epochs": 4,
        "batch_size": 4,
        "dilation": 1,
        "device": "cpu",
    }


def tensors(model: NormativeModel) -> dict[str, torch.Tensor]:
    return model.detector.tensors()


def assert_same(first: NormativeModel, second: NormativeModel) -> None:
    assert tensors(first).keys() == tensors(second).keys()
    for name, tensor in tensors(first).items():
        assert torch.equal(tensor, tensors(second)[name]), name
    assert said(first) == said(second)


def said(model: NormativeModel) -> dict[str, Any]:
    """All that the header says but how long the fit took."""
    header = model.header.to_dict()
    training = {key: value for key, value in header["training"].items() if key != "seconds"}
    return {**header, "training": training}


def test_fit_learns_and_reports(
    normal_slices: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    steps: list[FitProgress] = []
    model = nsar.fit(normal_slices, out=tmp_path / "m", progress=steps.append, **settings)
    stages = [step.stage for step in steps]
    assert list(dict.fromkeys(stages)) == ["features", "training", "calibration", "saving"]
    training = model.header.training
    assert (training["images"], training["subjects"]) == (9, 3)
    assert (training["valid_images"], training["valid_subjects"]) == (3, 1)
    valid = training["history"]["valid_nll"]
    assert len(valid) == 4
    assert valid[-1] < valid[0]
    assert training["best_nll"] == min(valid)
    assert valid[training["best_epoch"] - 1] == min(valid)
    assert steps[-2].total == 1
    assert model.header.calibration is not None
    assert model.header.calibration.patients == 1
    assert not (tmp_path / "m" / ".fit").exists()
    assert nsar.load_model(tmp_path / "m", device="cpu").header == model.header


def test_default_method_learns_from_changes_and_from_normals(
    normal_slices: Path,
    tmp_path: Path,
    settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    learn_changes_briefly(monkeypatch)
    for name in ("epochs", "batch_size", "dilation"):
        del settings[name]
    model = nsar.fit(normal_slices, out=tmp_path / "m", **settings)
    assert model.header.method == DEFAULT_METHOD == "spatial-ar-change"
    assert model.header.training["changed_patches"] > 0
    history = model.header.training["history"]["valid_nll"]
    assert len(history) == model.header.training["epochs"] == 3  # 6 steps of 8 of the nine slices
    assert history[-1] < history[0]
    again = nsar.fit(normal_slices, out=tmp_path / "again" / "m", **settings)
    assert_same(model, again)
    paper = nsar.fit(normal_slices, out=tmp_path / "paper", dilation=1, epochs=1, **settings)
    assert paper.header.method == "spatial-ar"


def test_the_best_epoch_is_kept_not_the_last(
    normal_slices: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    # The second epoch overshoots.
    settings |= {"epochs": 2, "learning_rate": 0.03, "options": {"hidden": 256}}
    model = nsar.fit(normal_slices, out=tmp_path / "m", **settings)
    training = model.header.training
    assert training["best_epoch"] == 1, "the case needs a last epoch that is not the best"
    _, valid = split_by_group(find_slices(normal_slices, modality="mri").train, 0.2, 0)
    store = FeatureStore(settings["backbone"], model.header.preprocessing)
    network = model.detector.network  # type: ignore[attr-defined]
    measured = mean_nll(network, LoadedGrids(store.paths(valid), torch.device("cpu"), turned=False))
    assert measured == pytest.approx(training["best_nll"], rel=1e-6)


def test_same_seed_same_weights_other_seed_others(
    normal_slices: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    first, second, third = (
        nsar.fit(normal_slices, out=tmp_path / name / "m", seed=seed, **settings)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert_same(first, second)
    assert first.sha256 == second.sha256, "however long each of them took"
    assert not torch.equal(tensors(first)["net.0.weight"], tensors(third)["net.0.weight"])


@pytest.mark.parametrize("stop_after", [3, 10, 17, 22, 24])
def test_stopped_and_resumed_is_the_same_as_uninterrupted(
    normal_slices: Path, tmp_path: Path, settings: dict[str, Any], stop_after: int
) -> None:
    whole = nsar.fit(normal_slices, out=tmp_path / "whole" / "m", **settings)
    shutil.rmtree(feature_store_dir())
    steps = fit_steps(normal_slices, out=tmp_path / "stopped" / "m", **settings)
    seen = [next(steps) for _ in range(stop_after)]
    steps.close()
    assert not list((tmp_path / "stopped").rglob("model.safetensors"))
    resumed: list[FitProgress] = []
    model = nsar.fit(
        normal_slices, out=tmp_path / "stopped" / "m", progress=resumed.append, **settings
    )
    assert_same(whole, model)
    if seen[-1].epoch:
        first = next(step for step in resumed if step.stage == "training")
        assert first.epoch == seen[-1].epoch


@pytest.mark.parametrize(
    ("method", "options", "seconds", "stop_at"),
    [
        ("spatial-ar", {}, 16, 9),  # 4 epochs of 3 steps, a tick for each and for its end
        (
            "dinomaly",
            {"iterations": 12, "batch_size": 4, "decoder": 2},
            12,
            9,
        ),  # a checkpoint each 2 steps
        ("memory-bank", {}, 9, None),
    ],
)
def test_seconds_of_learning_are_kept_across_a_stop(
    normal_slices: Path,
    tmp_path: Path,
    settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    options: dict[str, Any],
    seconds: int,
    stop_at: int | None,
) -> None:
    settings |= {"method": method, "options": options}
    now = 0.0
    monkeypatch.setattr("time.perf_counter", lambda: now)

    def tick(step: FitProgress) -> None:
        nonlocal now
        now += 1 if step.stage == "training" else 1000

    def measured(name: str) -> Any:
        model = nsar.fit(normal_slices, out=tmp_path / name / "m", progress=tick, **settings)
        loaded = nsar.load_model(tmp_path / name / "m", device="cpu")
        assert loaded.header == model.header
        return loaded.header.training["seconds"]

    assert measured("whole") == pytest.approx(seconds, abs=1)
    if stop_at is not None:
        steps = fit_steps(normal_slices, out=tmp_path / "stopped" / "m", **settings)
        for step in steps:
            tick(step)
            if step.stage == "training" and step.done == stop_at:
                break
        steps.close()
        now += 1e6
        assert measured("stopped") == pytest.approx(seconds, abs=2)


def test_checkpoint_of_other_settings_is_not_taken_up(
    normal_slices: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    steps = fit_steps(normal_slices, out=tmp_path / "m", seed=5, **settings)
    for step in steps:
        if step.epoch == 2:
            break
    steps.close()
    model = nsar.fit(normal_slices, out=tmp_path / "m", seed=6, **settings)
    fresh = nsar.fit(normal_slices, out=tmp_path / "fresh" / "m", seed=6, **settings)
    assert_same(model, fresh)


def test_damaged_checkpoint_starts_anew(
    normal_slices: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    steps = fit_steps(normal_slices, out=tmp_path / "m", **settings)
    for step in steps:
        if step.epoch == 2:
            break
    steps.close()
    checkpoint = tmp_path / "m" / ".fit" / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-50])
    model = nsar.fit(normal_slices, out=tmp_path / "m", **settings)
    assert len(model.header.training["history"]["valid_nll"]) == 4


def test_memory_bank_keeps_every_patch(
    normal_slices: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    model = nsar.fit(normal_slices, out=tmp_path / "m", method="memory-bank", **settings)
    assert tensors(model)["bank"].shape == (9 * 16, 24)
    assert nsar.load_model(tmp_path / "m", device="cpu").unit == "cosine distance"


def test_existing_model_is_kept_unless_told(
    normal_slices: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    settings["epochs"] = 1
    first = nsar.fit(normal_slices, out=tmp_path / "m", **settings)
    with pytest.raises(InputError, match="a model already exists"):
        nsar.fit(normal_slices, out=tmp_path / "m", seed=1, **settings)
    assert nsar.load_model(tmp_path / "m", device="cpu").sha256 == first.sha256
    second = nsar.fit(normal_slices, out=tmp_path / "m", seed=1, overwrite=True, **settings)
    assert nsar.load_model(tmp_path / "m", device="cpu").sha256 == second.sha256 != first.sha256


def test_without_a_folder_each_fit_gets_its_own(
    normal_slices: Path, settings: dict[str, Any]
) -> None:
    settings["epochs"] = 1
    first, second = (nsar.fit(normal_slices, **settings) for _ in range(2))
    try:
        assert first.name == f"mri-{settings['backbone'].spec.name}"
        assert second.name == f"{first.name}-2"
        assert_same(first, second)
    finally:
        shutil.rmtree(user_models_dir())


@pytest.fixture
def store(tiny_backbone: Backbone, tmp_path: Path) -> FeatureStore:
    preprocessing = Preprocessing(Window("full8"), size=(64, 64))
    return FeatureStore(tiny_backbone, preprocessing, tmp_path / "store")


def test_store_extracts_once_and_goes_on(store: FeatureStore, normal_slices: Path) -> None:
    refs = find_slices(normal_slices).train
    extraction = store.extract(refs)
    assert [next(extraction) for _ in range(4)] == [0, 1, 2, 3]
    extraction.close()
    assert list(store.extract(refs)) == list(range(3, 13))
    assert list(store.extract(refs)) == [len(refs)]
    batch = load_batch(store.paths(refs))
    assert batch.shape == (12, 24, 4, 4)
    assert batch.is_contiguous(memory_format=torch.channels_last)


def test_changed_file_or_setting_never_reuses_a_grid(
    store: FeatureStore, normal_slices: Path, tiny_backbone: Backbone, tmp_path: Path
) -> None:
    refs = find_slices(normal_slices).train
    list(store.extract(refs))
    Image.fromarray(np.eye(48, dtype=np.uint8) * 200).save(refs[0].path)
    changed = find_slices(normal_slices).train
    assert next(store.extract(changed)) == len(refs) - 1
    for other in (
        Preprocessing(Window("full8"), size=(64, 80)),
        Preprocessing(Window("percentile", 1, 99), size=(64, 64)),
        replace(store.preprocessing, mean=(0.0, 0.0, 0.0)),
        replace(store.preprocessing, clahe=0.01),
    ):
        assert next(FeatureStore(tiny_backbone, other, tmp_path / "store").extract(refs)) == 0
    spec = tiny_backbone.spec
    state = random_state(spec, seed=8)
    retrained = Backbone(spec, dict(state), source="random", device=torch.device("cpu"))
    cpu = torch.device("cpu")
    concat, mean = (
        Backbone(with_layers(spec, (1, 2), fuse), dict(state), source="", device=cpu)
        for fuse in get_args(Fuse)
    )
    stores = [FeatureStore(b, store.preprocessing, tmp_path / "store") for b in (concat, mean)]
    assert stores[0].folder != stores[1].folder
    assert [each.shape for each in stores] == [(4, 4, 48), (4, 4, 24)]
    other_store = FeatureStore(retrained, store.preprocessing, tmp_path / "store")
    assert next(other_store.extract(refs)) == 0


def test_keys_of_grids_stored_by_earlier_versions(
    tiny_backbone: Backbone, store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_backbone, "weights_sha256", "0" * 64)
    folder = FeatureStore(tiny_backbone, store.preprocessing).folder
    assert folder.name == "dinov3_tiny_for_tests-90cf5f79ea6072c8"


def test_half_written_grid_is_made_again(store: FeatureStore, normal_slices: Path) -> None:
    refs = find_slices(normal_slices).train[:2]
    list(store.extract(refs))
    path = store.paths(refs)[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert list(store.extract(refs)) == [1, 2]
    assert path.read_bytes() == whole


def test_no_room_for_the_store_is_said_before_it_starts(
    store: FeatureStore, normal_slices: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(StorageError, match="embeddings of 12 slices need"):
        list(store.extract(find_slices(normal_slices).train))


def test_disk_that_fills_up_leaves_nothing_half_written(
    store: FeatureStore, normal_slices: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, grid: np.ndarray) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(StorageError, match="disk is full"):
        list(store.extract(find_slices(normal_slices).train))
    assert not [p for p in store.folder.rglob("*") if p.is_file()]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"options": {"optimizer": "sgd"}},
            "must be adamw, adamw-cycle or muon, not 'sgd'",
        ),
        ({"options": {"raster": "x"}}, "raster must be forward or both, not 'x'"),
        ({"options": {"noise_share": 2.0}}, "noise_share must be at least 0 and at most 1"),
        ({"options": {"hidde": 3}}, "has no option 'hidde'"),
        (
            {"method": "patch-gaussian", "options": {"position": "patch", "cells": 9}},
            "a grid of 4 x 4 patches does not fill 9 x 9 cells",
        ),
        ({"layers": "5"}, "cannot give the blocks 5"),
        ({"layers": "two"}, "'two' does not state which blocks"),
        ({"fuse": "mean"}, "mean"),
        ({"device": "gpu"}, "no device 'gpu'"),
        ({"backbone": "resnet"}, "no backbone 'resnet'.*installed"),
        ({"weights": "absent.pth"}, "no such weights file"),
        ({"slice_range": "0.9:0.1"}, "0.9"),
        ({"acquired": "sideways"}, "'sideways' is not a known term"),
    ],
)
def test_wrong_settings_are_refused_before_a_scan_is_read(
    normal_slices: Path,
    tiny_weights: Path,
    tiny_name: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    change: dict[str, Any],
    words: str,
) -> None:
    monkeypatch.setattr(fit, "find_slices", None)
    out = tmp_path / "m"
    said = {"backbone": tiny_name, "size": 64, "device": "cpu", "method": "spatial-ar", **change}
    with pytest.raises((InputError, WeightsError), match=words):
        nsar.fit(normal_slices, out=out, **said)
    assert not out.exists()


def test_a_model_that_is_there_is_seen_before_a_scan_is_read(
    normal_slices: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fit, "find_slices", None)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(InputError, match="a model already exists"):
        nsar.fit(normal_slices, out=tmp_path, **settings)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"method": "oracle"}, "no method 'oracle'"),
        ({"modality": "pet"}, "modality must be"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"smoothing": 2}, "odd number"),
        ({"seed": -1}, "seed must be at least 0, not -1"),
        ({"seed": 2**63}, "seed must be at most"),
        ({"top_share": 1.5}, "top_share must be at most 1, not 1.5"),
        ({"valid_fraction": 1.0}, "between 0 and 1, not 1.0"),
        ({"clahe": 1.2}, "clip limit of CLAHE"),
        ({"size": "large"}, "'large' is not a size"),
        ({"size": "4 48"}, "'4 48' is not a size"),
        ({"size": (64, 64, 64)}, "'64x64x64' is not a size"),
        ({"size": 70}, "a size of 70 pixels.* such as 64 or 80"),
        ({"tile": 64}, "slices of 64 x 64 pixels cannot be cut into tiles of 64"),
        ({"tile": -16}, "0 for none, not -16"),
    ],
)
def test_settings_out_of_range(
    normal_slices: Path, settings: dict[str, Any], change: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        nsar.fit(normal_slices, **{**settings, **change})


def test_folders_that_cannot_be_fitted(tmp_path: Path, settings: dict[str, Any]) -> None:
    folder = tmp_path / "scans"
    with pytest.raises(InputError, match="scans"):
        nsar.fit(folder, **settings)
    folder.mkdir()
    with pytest.raises(InputError, match="scans"):
        nsar.fit(folder, **settings)
    (folder / "notes.txt").write_text("no image")
    with pytest.raises(InputError, match="scans"):
        nsar.fit(folder, **settings)
    rng = np.random.default_rng(0)
    for name in ("a_1.png", "b_1.png"):
        Image.fromarray(rng.integers(0, 255, (9, 9), np.uint8)).save(folder / name)
    with pytest.raises(InputError, match="2 slices excluded: less than 14 pixels"):
        nsar.fit(folder, out=tmp_path / "m", **settings)
    assert not (tmp_path / "m").exists()


def test_one_patient_is_not_enough(
    normal_slices: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    for path in normal_slices.glob("patient[123]*"):
        path.unlink()
    with pytest.raises(InputError, match="of one patient"):
        nsar.fit(normal_slices, out=tmp_path / "m", **settings)


def test_missing_backbone_weights_stop_the_fit(normal_slices: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="the weights of dinov3_vitb16 are not"):
        nsar.fit(normal_slices, out=tmp_path / "m", backbone="dinov3_vitb16", device="cpu")


def test_calibration_finds_the_quantiles_of_tissue() -> None:
    rng = np.random.default_rng(0)
    scores = [rng.exponential(size=30_000).astype(np.float32) for _ in range(5)]
    calibration = calibrate(scores, [3.0, 1.0, 2.0, 5.0, 4.0], ["a", "a", "b", "b", "c"])
    # The upper p-quantile of a unit exponential is -log(p).
    assert calibration.threshold_for_fpr(0.01) == pytest.approx(-np.log(0.01), rel=0.03)
    assert calibration.threshold_for_fpr(0.03) == pytest.approx(-np.log(0.03), rel=0.03)
    assert calibration.fpr_for_threshold(-np.log(0.05)) == pytest.approx(0.05, rel=0.05)
    assert calibration.image_scores == (1.0, 2.0, 3.0, 4.0, 5.0)
    assert (calibration.slices, calibration.patients) == (5, 3)
    assert from_plain(calibration.to_dict(), Calibration) == calibration
    few = calibrate([scores[0][:100]], [1.0], ["a"])
    assert few.fpr[-1] == 0.1, "a share that rests on fewer than 10 pixels is not promised"
    with pytest.raises(InputError, match="no tissue"):
        calibrate([np.empty(0, np.float32)], [1.0], ["a"])


def test_series_taken_out_are_not_learned_from(
    normal_slices: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    taken_out = finish(survey(normal_slices)).series[0]
    model = nsar.fit(
        [normal_slices],
        exclude={taken_out.key},
        out=tmp_path / "m",
        method="memory-bank",
        **settings,
    )
    training = model.header.training
    assert training["images"] + training["valid_images"] == 12 - len(taken_out.refs) == 9
    assert training["subjects"] + training["valid_subjects"] == 3
    assert training["excluded"] == [taken_out.key]
