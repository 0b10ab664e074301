"""Whether a scan is known to be outside the training domain of a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import napari_spatial_ar as nsar
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.json_text import from_plain
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.series import Series
from napari_spatial_ar.normative import model_file
from napari_spatial_ar.normative.calibration.appearance import domain_shift, measure_appearance
from napari_spatial_ar.normative.calibration.calibrate import recalibrate
from napari_spatial_ar.normative.calibration.domain_shift import (
    Appearance,
    NormalAppearance,
    compare_appearance,
    sum_up,
)
from napari_spatial_ar.normative.tiling import Tiling

OPTIONS: dict[str, Any] = {"method": "memory-bank", "size": 64, "device": "cpu"}


def disc(brightness: float = 0.5) -> Any:
    rows, columns = np.mgrid[:40, :40]
    inside = (rows - 20) ** 2 + (columns - 20) ** 2 < 150
    return np.where(inside, brightness, 0).astype(np.float32)


def test_a_slice_is_measured_in_its_body_alone() -> None:
    tiling = Tiling((4, 4), (4, 4), ((0, 0),))
    grids = torch.full((1, 3, 4, 4), 7.0)
    unit = np.zeros((40, 40), np.float32)
    unit[10:20, 10:20] = 0.6  # one patch
    grids[0, :, 1, 1] = torch.tensor([1.0, 2.0, 3.0])
    geometry = Geometry((10, 40, 40), np.diag([-0.8, -0.5, 4.0, 1.0]))
    look = measure_appearance(unit, grids, tiling, geometry)
    assert look is not None
    np.testing.assert_allclose(look.embedding, [1, 2, 3])
    assert look.measures["body"] == pytest.approx(1 / 16)
    assert look.measures["middle"] == pytest.approx(0.6)
    assert look.measures["slice_spacing"] == pytest.approx(4.0)
    assert look.measures["pixel_spacing"] == pytest.approx(0.8)
    assert look.measures["field_of_view"] == pytest.approx(32.0)
    assert measure_appearance(np.zeros((40, 40), np.float32)) is None


def test_of_a_wide_embedding_few_channels_are_kept() -> None:
    look = measure_appearance(disc(), torch.ones(1, 1500, 4, 4), Tiling((4, 4), (4, 4), ((0, 0),)))
    assert look is not None
    assert look.embedding is not None
    assert 256 < len(look.embedding) <= 512


def normal(patients: int = 8, spread: float = 0.3) -> NormalAppearance:
    rng = np.random.default_rng(1)
    looks = [
        Appearance(
            {
                "body": 0.4 + 0.01 * p,
                **{"dark": 0.2, "middle": 0.3, "bright": 0.4 + 0.01 * p},
                **{"slice_spacing": 5.0, "pixel_spacing": 1.0, "field_of_view": 240.0},
            },
            (np.ones(20) + rng.normal(0, spread, 20)).astype(np.float32),
        )
        for p in range(patients)
        for _ in range(3)
    ]
    found = sum_up(looks, [f"p{p}" for p in range(patients) for _ in range(3)])
    assert found is not None
    return found


LIKE = {
    **{"body": 0.42, "dark": 0.2, "middle": 0.3, "bright": 0.42},
    **{"slice_spacing": 5.0, "pixel_spacing": 1.0, "field_of_view": 240.0},
}


def test_patients_count_by_the_median_of_their_slices() -> None:
    looks = [Appearance({"body": share}) for share in (0.1, 0.2, 0.9, 0.5)]
    found = sum_up(looks, ["a", "a", "a", "b"])
    assert found is not None
    assert (found.patients, found.slices) == (2, 4)
    assert found.quantiles["body"][0] == pytest.approx(0.2)
    assert found.quantiles["body"][-1] == pytest.approx(0.5)
    assert "distance" not in found.quantiles
    assert sum_up([], []) is None


def test_a_scan_like_the_normal_ones_gives_no_reason() -> None:
    found = compare_appearance(normal(), [Appearance(LIKE, np.ones(20, np.float32))])
    assert found.reasons == ()
    assert found.warning == ""
    assert found.complete
    assert found.measured["distance"] < 0.05


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("slice_spacing", 1.0, "its slice spacing is 1 mm (5 mm in 8 normal patients)"),
        ("pixel_spacing", 0.3, "its pixels measure 0.3 mm"),
        ("field_of_view", 120.0, "its field of view is 120 mm"),
        ("body", 0.1, "the body fills 10% of a slice (40% to 47% in 8 normal patients)"),
        ("middle", 0.75, "half of its tissue is below 75% of the grey scale"),
        ("bright", 0.1, "three quarters of its tissue is below 10%"),
    ],
)
def test_what_lies_outside_is_said_with_its_figures(name: str, value: float, said: str) -> None:
    found = compare_appearance(
        normal(), [Appearance({**LIKE, name: value}, np.ones(20, np.float32))]
    )
    assert len(found.reasons) == 1
    assert said in found.reasons[0]
    assert said in found.warning


def test_an_embedding_far_from_normal_is_said_first() -> None:
    far = np.ones(20, np.float32)
    far[:10] = -1
    found = compare_appearance(normal(), [Appearance({**LIKE, "body": 0.1}, far)])
    assert "times as far from normal as those of any of 8 normal patients" in found.reasons[0]
    assert len(found.reasons) == 2


def test_few_patients_let_more_pass() -> None:
    scan = [Appearance({**LIKE, "field_of_view": 140.0}, np.ones(20, np.float32))]
    assert compare_appearance(normal(8), scan).reasons
    assert not compare_appearance(normal(2), scan).reasons


def test_of_many_reasons_three_are_said_and_the_rest_counted() -> None:
    odd = {**LIKE, "body": 0.05, "middle": 0.9, "bright": 0.95, "dark": 0.8}
    odd |= {"pixel_spacing": 9.0, "field_of_view": 999.0, "slice_spacing": 50.0}
    found = compare_appearance(normal(), [Appearance(odd)])
    assert len(found.reasons) == 5
    assert "; and 2 more. " in found.warning
    assert sum("grey scale" in reason for reason in found.reasons) == 1
    assert found.topics[:2] == ("brightness", "share of body")
    assert len(found.topics) == 5
    assert not found.complete


def test_a_header_keeps_what_normal_scans_look_like() -> None:
    looks = normal()
    assert from_plain(looks.to_dict(), NormalAppearance) == looks
    with pytest.raises(ValueError, match=r"^quantiles\.body\.0: "):
        from_plain({**looks.to_dict(), "quantiles": {"body": ["a"]}}, NormalAppearance)


@pytest.fixture
def fitted(tiny_backbone: Any, normal_slices: Path, tmp_path: Path) -> Any:
    return nsar.fit(normal_slices, out=tmp_path / "m", backbone=tiny_backbone, **OPTIONS)


def scan_of(slices: list[Any], modality: Any = "unknown") -> Scan:
    data = np.stack(slices).astype(np.float32)
    geometry = Geometry.without_spacing(data.shape)
    return Scan(data, geometry, modality, Series("s"), intensity="grey8")


def drawn(kind: str) -> list[Any]:
    rng = np.random.default_rng(5)
    rows, columns = np.mgrid[:48, :40]
    inside = ((rows - 24) ** 2 + (columns - 20) ** 2 < 300).astype(np.float32)
    if kind == "like":
        return [np.clip(inside * (130 + rng.normal(0, 12, inside.shape)), 0, 255) for _ in range(7)]
    small = (rows - 24) ** 2 + (columns - 20) ** 2 < 40
    return [np.where(small, 130.0, 0.0) for _ in range(7)]


def test_a_fit_measures_and_a_scan_is_compared(fitted: Any) -> None:
    looks = fitted.header.looks
    assert looks.patients == 1  # one of the four is held out
    assert {"body", "dark", "middle", "bright"} <= looks.quantiles.keys()
    assert "slice_spacing" not in looks.quantiles  # of pictures nothing is known
    assert len(looks.embedding) == fitted.backbone.channels
    assert domain_shift(fitted, scan_of(drawn("like"))).reasons == ()
    found = domain_shift(fitted, scan_of(drawn("unlike"), "ct"))
    assert found.reasons[0] == "it is CT, the model was trained on MRI"
    assert any("the body fills 6%" in reason for reason in found.reasons)


def test_a_file_without_looks_loads_and_compares_the_modality(fitted: Any, tmp_path: Path) -> None:
    fitted.header = replace(fitted.header, looks=None)
    fitted.save(tmp_path / "old")
    old = nsar.load_model(tmp_path / "old")
    old.backbone = fitted.backbone
    assert old.header.looks is None
    assert "looks" not in old.header.to_dict()
    assert domain_shift(old, scan_of(drawn("unlike"))).reasons == ()
    found = domain_shift(old, scan_of(drawn("like"), "ct"))
    assert found.reasons == ("it is CT, the model was trained on MRI",)
    assert not found.complete


def test_looks_are_added_to_a_model_without_touching_anything_else(
    fitted: Any, normal_slices: Path, tmp_path: Path, tiny_weights: Path, tiny_name: str
) -> None:
    del tiny_weights, tiny_name
    known, looks = fitted.header.training["slice_keys"], fitted.header.looks
    training = {**fitted.header.training, "slice_keys": {"train": [], "valid": known["valid"]}}
    fitted.header = replace(fitted.header, looks=None, training=training)
    fitted.save(tmp_path / "old")
    before = model_file.read(tmp_path / "old" / model_file.MODEL_FILE)
    made = recalibrate(tmp_path / "old", normal_slices, out=tmp_path / "new", looks_only=True)
    after = model_file.read(tmp_path / "new" / model_file.MODEL_FILE)
    assert made.header.looks.patients == 4
    assert looks.quantiles["body"][0] >= made.header.looks.quantiles["body"][0]
    assert replace(after[0], looks=None) == before[0]
    assert after[1].keys() == before[1].keys()
    assert all(torch.equal(after[1][name], before[1][name]) for name in before[1])
    assert after[2] != before[2]


def test_where_memory_runs_short_the_rest_is_still_compared(
    fitted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(fitted.backbone, "compute", short)
    found = domain_shift(fitted, scan_of(drawn("unlike")))
    assert not found.complete
    assert "distance" not in found.measured
    assert any("the body fills 6%" in reason for reason in found.reasons)


@pytest.mark.parametrize("scan", ["ms_patient19", "TCGA_DU_7294_19890104"])
def test_the_released_model_knows_a_scan_without_skull(shared_data: Path, scan: str) -> None:
    model = nsar.load_model("brain-flair-change", device="cpu")
    volume = nsar.read(shared_data / "volumes" / scan / "flair.nii.gz")[0]
    found = domain_shift(model, volume)
    assert found.complete
    assert bool(found.reasons) == (scan == "ms_patient19")
    if found.reasons:
        assert "times as far from normal" in found.warning


def test_the_sample_is_like_what_the_released_model_learned_from() -> None:
    from napari_spatial_ar.imaging.samples import sample_volume

    model = nsar.load_model("brain-flair-change", device="cpu")
    assert domain_shift(model, sample_volume()).reasons == ()
