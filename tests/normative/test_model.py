"""Scoring, the model file, and a fit from end to end on a tiny backbone."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from skimage.exposure import equalize_adapthist
from torch.nn import functional

import napari_spatial_ar as nsar
from napari_spatial_ar.datasets.selection import Selection
from napari_spatial_ar.errors import Cancelled, InputError, ModelFileError, WeightsError
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.json_text import from_plain
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.series import Series
from napari_spatial_ar.imaging.windows import Window
from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.calibration.calibration import Calibration
from napari_spatial_ar.normative.detectors import MemoryBank, SpatialARDetector
from napari_spatial_ar.normative.detectors.ar_network import SpatialAR
from napari_spatial_ar.normative.heatmap import Scoring
from napari_spatial_ar.normative.importing import import_model
from napari_spatial_ar.normative.library import list_models
from napari_spatial_ar.normative.model import NormativeModel
from napari_spatial_ar.normative.model_file import BackboneRef, ModelHeader, read_header
from napari_spatial_ar.normative.preprocessing import Preprocessing
from napari_spatial_ar.paths import user_models_dir
from tests.tiny import TINY

CALIBRATION = Calibration((0.1, 0.01), (1.0, 2.0), (1.5, 1.7), slices=2, patients=1)


def build(frozen: Backbone, **changes: Any) -> NormativeModel:
    torch.manual_seed(0)
    detector = SpatialARDetector(SpatialAR(24, hidden=8, dilation=1))
    header = ModelHeader(
        method=detector.name,
        parameters=detector.parameters(),
        modality="mri",
        backbone=BackboneRef(TINY, (), frozen.sha256),
        preprocessing=Preprocessing(Window("percentile", 0, 100), size=(64, 64)),
        scoring=Scoring(smoothing=3),
        training={"images": 12, "subjects": 4},
        calibration=CALIBRATION,
    )
    return NormativeModel(
        "tiny", replace(header, **changes), detector, backbone=frozen, device="cpu"
    )


def picture(seed: int = 0, shape: tuple[int, int] = (50, 70)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, shape).astype(np.uint8)


def volume(data: np.ndarray, affine: np.ndarray | None = None, **more: Any) -> Scan:
    affine = np.diag([-1.0, -1.0, 3.0, 1.0]) if affine is None else affine
    more = {"modality": "mri", "intensity": "grey8", **more}
    geometry = Geometry(data.shape, affine, slice_axis=more.pop("slice_axis", 0))
    return Scan(data.astype(np.float32), geometry, series=Series("MR series 1"), **more)


def test_slice_score_is_what_the_design_says(tiny_backbone: Backbone) -> None:
    model = build(tiny_backbone)
    image = picture()
    score = model.score_slice(image)
    inputs = model.header.preprocessing((image / np.float32(255)).astype(np.float32))[None]
    grid = model.detector.network.nll(tiny_backbone.embed(inputs))  # type: ignore[attr-defined]
    torch.testing.assert_close(torch.from_numpy(score.grid), grid[0])
    smooth = functional.avg_pool2d(grid, 3, 1, 1, count_include_pad=False) / 24
    heatmap = functional.interpolate(smooth[None], (50, 70), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(score.nll, heatmap[0, 0], rtol=1e-6)
    assert score.nll.dtype == np.float32
    assert score.image_score == pytest.approx(float(smooth.max()))
    assert score.nll.min() > 0.5 * math.log(2 * math.pi)


def test_preprocessing_resizes_and_normalises() -> None:
    preprocessing = Preprocessing(Window("full8"), size=(32, 48))
    flat = preprocessing(np.full((10, 20), 0.5, np.float32))
    assert flat.shape == (3, 32, 48)
    expected = (0.5 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(flat[:, 7, 9], expected)
    assert (
        from_plain(json.loads(json.dumps(preprocessing.to_dict())), Preprocessing) == preprocessing
    )


def test_whole_numbers_up_to_255_count_as_grey(tiny_backbone: Backbone) -> None:
    model = build(tiny_backbone)
    image = picture()
    as_float = model.score_slice(image.astype(np.float32))
    np.testing.assert_array_equal(as_float.nll, model.score_slice(image).nll)
    shifted = model.score_slice(image.astype(np.float32) * 7.5 - 100)  # percentile window 0..100
    windowed = model.score_slice(image, window=(float(image.min()), float(image.max())))
    np.testing.assert_allclose(shifted.nll, windowed.nll, rtol=1e-3)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.full((40, 40), 3.0), "same value, 3"),
        (np.full((40, 40), np.nan), "not finite"),
        (np.where(np.eye(40) > 0, np.inf, 1.0), "not finite"),
        (np.eye(8), "smaller than one patch of 16 x 16"),
        (np.zeros((3, 40, 40)), "two axes"),
    ],
)
def test_images_that_cannot_be_scored(
    tiny_backbone: Backbone, image: np.ndarray, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        build(tiny_backbone).score_slice(image)


def test_volume_scores_lie_where_their_slices_lie(tiny_backbone: Backbone) -> None:
    """A sagittal scan, stored with its slices last: each slice is scored upright, put back."""
    model = build(tiny_backbone)
    data = np.random.default_rng(1).integers(1, 255, (30, 40, 5))
    affine = np.array([[3.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    scan = volume(data, affine, slice_axis=2)
    result = model.score_volume(scan)
    assert result.nll.shape == data.shape
    upright = data[::-1, ::-1, 3].astype(np.uint8)  # rows to inferior, columns to posterior
    np.testing.assert_allclose(
        result.nll[:, :, 3], model.score_slice(upright).nll[::-1, ::-1], rtol=1e-5
    )


def test_volume_in_the_order_asked_with_progress_and_empty_slices(tiny_backbone: Backbone) -> None:
    model = build(tiny_backbone)
    data = np.random.default_rng(1).integers(1, 255, (4, 30, 40))
    data[2] = 0
    scan = volume(data)
    assert [index for index, _ in model.iter_volume(scan, [3, 1])] == [3, 1]
    seen: list[tuple[int, int]] = []
    result = model.score_volume(scan, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert result.scored.tolist() == [True, True, False, True]
    assert (result.nll[2] == 0).all()
    assert np.isnan(result.image_scores[2])
    part = model.score_volume(scan, slices=[1])
    np.testing.assert_array_equal(part.nll[1], result.nll[1])
    assert (part.nll[[0, 2, 3]] == 0).all()
    with pytest.raises(InputError, match="no slice 4"):
        model.score_volume(scan, slices=[4])

    def stop(done: int, total: int) -> None:
        raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        model.score_volume(scan, progress=stop)


def test_thresholds(tiny_backbone: Backbone) -> None:
    model = build(tiny_backbone)
    assert model.threshold_for_fpr(0.01) == 2.0
    assert model.threshold_for_fpr(math.sqrt(0.1 * 0.01)) == pytest.approx(1.5)
    assert model.fpr_for_threshold(1.5) == pytest.approx(math.sqrt(0.1 * 0.01))
    with pytest.raises(InputError, match="was not calibrated"):
        model.threshold_for_fpr(0.001)
    with pytest.raises(InputError, match="has no calibration"):
        build(tiny_backbone, calibration=None).threshold_for_fpr(0.01)


def test_saved_model_scores_the_same(
    tiny_backbone: Backbone, tiny_weights: Path, tmp_path: Path
) -> None:
    model = build(tiny_backbone)
    model.save(tmp_path / "m")
    loaded = nsar.load_model(tmp_path / "m", device="cpu")
    assert loaded.header == model.header
    assert loaded.sha256 == model.sha256
    np.testing.assert_array_equal(
        loaded.score_slice(picture()).nll, model.score_slice(picture()).nll
    )


def test_model_header_holds_what_the_design_lists(tiny_backbone: Backbone, tmp_path: Path) -> None:
    path = build(tiny_backbone).save(tmp_path)
    (size,) = struct.unpack("<Q", path.read_bytes()[:8])
    metadata = json.loads(path.read_bytes()[8 : 8 + size])["__metadata__"]
    header = json.loads(metadata["napari-spatial-ar"])["header"]
    assert header.keys() >= {"format_version", "method", "parameters", "backbone"}
    assert header.keys() >= {"preprocessing", "training", "calibration"}
    assert header["backbone"] == {"name": TINY, "layers": [], "sha256": tiny_backbone.sha256}


def test_clahe_equalises_the_slice_before_it_is_resized() -> None:
    rng = np.random.default_rng(0)
    unit = (0.4 + 0.1 * rng.random((60, 90))).astype(np.float32)
    plain = Preprocessing(Window("full8"), size=(32, 48))
    equal = replace(plain, clahe=0.03)
    assert from_plain(json.loads(json.dumps(equal.to_dict())), Preprocessing) == equal
    assert not torch.equal(equal(unit), plain(unit))
    expected = equalize_adapthist(unit, clip_limit=0.03).astype(np.float32)
    assert torch.equal(equal(unit), plain(expected))
    assert not torch.equal(equal(unit), replace(plain, clahe=0.3)(unit))
    flat = np.full((60, 90), 0.5, np.float32)
    assert torch.equal(equal(flat), plain(flat))
    for clip in (-0.01, 1.5, float("nan")):
        with pytest.raises(InputError, match="clip limit of CLAHE must be"):
            replace(plain, clahe=clip)


def test_any_flipped_byte_is_noticed(tiny_backbone: Backbone, tmp_path: Path) -> None:
    path = build(tiny_backbone).save(tmp_path)
    whole = path.read_bytes()
    (size,) = struct.unpack("<Q", whole[:8])
    places = [*range(0, 8 + size, 97), *range(8 + size, len(whole), 1511), len(whole) - 1]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 0x04
        path.write_bytes(damaged)
        with pytest.raises(ModelFileError):
            nsar.load_model(path)
    path.write_bytes(whole[:-10])
    with pytest.raises(ModelFileError, match="not a valid safetensors file"):
        nsar.load_model(path)


def test_other_version_other_file_no_file(tiny_backbone: Backbone, tmp_path: Path) -> None:
    path = build(tiny_backbone, format_version=99).save(tmp_path)
    with pytest.raises(ModelFileError, match="format version is 99"):
        nsar.load_model(path)
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ModelFileError, match="no napari-spatial-ar model"):
        nsar.load_model(path)
    with pytest.raises(ModelFileError, match="no model 'absent'"):
        nsar.load_model("absent")


def test_what_version_1_cannot_say_is_written_as_version_2(
    tiny_backbone: Backbone, tmp_path: Path
) -> None:
    mean = BackboneRef(TINY, (1, 2), "", "mean")
    clahe = Preprocessing(Window("full8"), clahe=0.02)
    tiles = Preprocessing(Window("full8"), tile=224)
    cases: list[tuple[dict[str, Any], int]] = [
        ({}, 1),
        ({"backbone": mean}, 2),
        ({"preprocessing": clahe}, 2),
        ({"preprocessing": tiles}, 2),
        ({"selection": Selection("coronal", (0.2, 0.8))}, 3),
    ]
    for changes, version in cases:
        model = build(tiny_backbone, **changes)
        header, _ = read_header(model.save(tmp_path))
        assert header == model.header
        assert header.format_version == version
        assert header.to_dict()["format_version"] == version
        assert ("selection" in header.to_dict()) == ("selection" in changes)
        assert ("fuse" in header.to_dict()["backbone"]) == ("backbone" in changes)
        added = header.to_dict()["preprocessing"].keys() & {"clahe", "tile"}
        assert len(added) == ("preprocessing" in changes)


def test_the_released_model_loads() -> None:
    model = nsar.load_model("brain-flair-focus", device="cpu")
    assert model.header.format_version == 1
    assert model.header.backbone.fuse == "concat"


def test_method_of_a_later_version(tiny_backbone: Backbone, tmp_path: Path) -> None:
    build(tiny_backbone, method="oracle").save(tmp_path)
    with pytest.raises(ModelFileError, match="method 'oracle' is not known"):
        nsar.load_model(tmp_path)


def test_model_of_other_weights_is_refused(
    tiny_backbone: Backbone, tiny_weights: Path, tmp_path: Path
) -> None:
    build(tiny_backbone, backbone=BackboneRef(TINY, (), "0" * 64)).save(tmp_path)
    model = nsar.load_model(tmp_path, device="cpu")
    with pytest.raises(WeightsError, match="trained on other weights"):
        model.score_slice(picture())


def test_models_are_listed_by_name_and_imported(tiny_backbone: Backbone, tmp_path: Path) -> None:
    build(tiny_backbone).save(tmp_path / "first")
    path = import_model(tmp_path / "first", "second")
    try:
        assert path == user_models_dir() / "second" / "model.safetensors"
        info = next(m for m in list_models() if m.name == "second")
        assert (info.modality, info.backbone, info.method) == ("mri", TINY, "spatial-ar")
        assert info.summary == "12 slices of 4 patients"
        assert nsar.load_model("second", device="cpu").name == "second"
        with pytest.raises(InputError, match="already exists"):
            import_model(tmp_path / "first", "second")
        with pytest.raises(InputError, match="is not a valid name"):
            import_model(tmp_path / "first", "../escape")
        path.write_bytes(b"damaged")
        assert "second" not in {m.name for m in list_models()}
    finally:
        path.unlink()


def test_memory_bank_against_plain_cosine_distances() -> None:
    generator = torch.Generator().manual_seed(0)
    normal = [torch.randn(2, 6, 3, 4, generator=generator) for _ in range(3)]
    bank = MemoryBank.fit(normal)
    query = torch.randn(2, 6, 3, 4, generator=generator)
    rows = torch.cat([g.permute(0, 2, 3, 1).reshape(-1, 6) for g in normal])
    points = query.permute(0, 2, 3, 1).reshape(-1, 1, 6)
    expected = (1 - functional.cosine_similarity(points, rows[None], dim=-1)).min(dim=1).values
    torch.testing.assert_close(bank.score(query).flatten(), expected, atol=5e-3, rtol=0)
    assert bank.score(normal[1])[0].max() < 1e-3
    again = MemoryBank.from_tensors({}, bank.tensors())
    torch.testing.assert_close(again.score(query), bank.score(query))


def test_real_scan_and_nifti_agree_on_place(tiny_backbone: Backbone, tmp_path: Path) -> None:
    """Read, score, and find the same voxel with nibabel alone."""
    rng = np.random.default_rng(2)
    data = rng.integers(1, 200, (40, 36, 4)).astype(np.uint8)  # i, j, k
    affine = np.array([[0.0, -1, 0, 5], [1, 0, 0, -7], [0, 0, 3, 9], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(data, affine), tmp_path / "scan.nii.gz")
    scan = nsar.read(tmp_path / "scan.nii.gz")[0]
    result = build(tiny_backbone).score_volume(scan)
    assert result.nll.shape == (4, 36, 40)
    assert (result.nll > 0).all()
    np.testing.assert_array_equal(scan.data, data.T)
    np.testing.assert_allclose(result.geometry.affine, affine)


def test_a_model_says_what_it_is(tiny_backbone: Backbone) -> None:
    assert repr(build(tiny_backbone)) == (
        f"NormativeModel('tiny', mri, spatial-ar of {TINY}, "
        "trained on 12 slices of 4 patients, on cpu)"
    )
