"""Patch scores averaged over the slices of a volume, in scoring and calibration alike."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import ndimage
from typer.testing import CliRunner

import napari_spatial_ar as nsar
from napari_spatial_ar.cli import app
from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.json_text import from_plain
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.series import Series
from napari_spatial_ar.imaging.windows import resolve
from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.calibration.acquired import header_shift
from napari_spatial_ar.normative.heatmap import Scoring
from napari_spatial_ar.normative.model_file import read_header
from napari_spatial_ar.normative.scores import ScanScores, SliceScore
from napari_spatial_ar.normative.scoring import score_slices
from napari_spatial_ar.normative.slice_smoothing import averaged, slice_weights, smoothed_slices
from napari_spatial_ar.review.findings import find_findings
from napari_spatial_ar.review.model_card import model_facts
from tests.fake_model import fake_header
from tests.normative.test_model import build

Array = npt.NDArray[np.float32]


def stack(count: int = 7, step: float = 3.0, **more: object) -> Geometry:
    affine = np.diag([-1.0, -1.0, step, 1.0])
    return Geometry((count, 8, 8), affine, **more)  # type: ignore[arg-type]


def uneven(*along: float, sideways: float = 0.0) -> Geometry:
    places = np.array([[sideways * z, 0.0, z] for z in along])
    return stack(len(along), regular=False, slice_positions=places)


def partners(geometry: Geometry | None, sigma: float) -> list[list[int]]:
    return [sorted(near) for near in slice_weights(geometry, sigma)]


def test_weights_fall_with_the_distance_in_mm() -> None:
    found = slice_weights(stack(), 3.0)
    near, far = math.exp(-0.5), math.exp(-2.0)
    assert found[3] == pytest.approx({1: far, 2: near, 3: 1.0, 4: near, 5: far})
    assert found[0] == pytest.approx({0: 1.0, 1: near, 2: far})
    assert slice_weights(stack(step=1.5), 1.5) == found
    thinner = slice_weights(stack(step=1.0), 1.5)
    assert thinner[3] == pytest.approx({n: math.exp(-(((n - 3) / 1.5) ** 2) / 2) for n in range(7)})


def test_weights_are_those_of_the_plane_of_the_slices() -> None:
    geometry = Geometry((5, 6, 7), np.diag([-4.0, -2.0, 3.0, 1.0]))
    assert slice_weights(geometry.along("coronal"), 1.0)[2] == pytest.approx(
        {1: math.exp(-2.0), 2: 1.0, 3: math.exp(-2.0)}
    )
    assert slice_weights(geometry.along("sagittal"), 1.0) == []


def test_uneven_slices_are_weighted_by_their_own_distances() -> None:
    found = slice_weights(uneven(0, 2, 4, 8, 12), 4.0)
    assert found[2] == pytest.approx(
        {i: math.exp(-(((z - 4) / 4) ** 2) / 2) for i, z in enumerate((0, 2, 4, 8, 12))}
    )
    # Their order in the file does not matter.
    assert partners(uneven(4, 0, 12, 2, 8), 2.0) == [
        [0, 1, 3, 4],
        [0, 1, 3],
        [2, 4],
        [0, 1, 3],
        [0, 2, 4],
    ]


def test_nothing_is_averaged_across_a_gap() -> None:
    assert partners(uneven(0, 2, 4, 10, 12, 14), 5.0) == [[0, 1, 2]] * 3 + [[3, 4, 5]] * 3
    # Of another series at the same places.
    assert partners(uneven(0, 0, 3, 3), 3.0) == []


@pytest.mark.parametrize(
    "geometry",
    [
        None,
        stack(1),
        stack(spacing_known=False),
        Geometry.without_spacing((7, 8, 8)),
        stack(regular=False),
        uneven(0, 3, 6, sideways=0.8),
    ],
    ids=["image", "one", "unknown", "images", "irregular", "shifted"],
)
def test_slices_without_known_distances_stay_alone(geometry: Geometry | None) -> None:
    assert slice_weights(geometry, 5.0) == []


def test_slices_tilted_a_little_are_a_stack() -> None:
    assert partners(uneven(0, 3, 6, sideways=0.3), 3.0) == [[0, 1, 2]] * 3
    assert slice_weights(stack(), 0.0) == []


def score(seed: int, holes: Sequence[tuple[int, int]] = ()) -> SliceScore:
    rng = np.random.default_rng(seed)
    grid = rng.normal(size=(4, 5)).astype(np.float32)
    for hole in holes:
        grid[hole] = np.nan
    heat = np.nan_to_num(grid).repeat(2, axis=0).repeat(2, axis=1)
    return SliceScore(heat, grid, float(rng.normal()), {"nll": 2 * grid})


def test_scores_are_weighted_means_over_what_is_there() -> None:
    scores = {0: score(0), 1: score(1, [(0, 0), (1, 1)]), 2: score(2, [(0, 0), (2, 2)])}
    scores[3] = SliceScore.empty((8, 10))
    weights = {0: 0.5, 1: 1.0, 2: 0.25, 3: 0.5, 4: 0.5}
    found = averaged(1, scores, weights)
    a, b, c = (scores[i].grid for i in range(3))
    assert a is not None and b is not None and c is not None and found.grid is not None  # noqa: PT018
    assert found.grid[0, 1] == pytest.approx((0.5 * a[0, 1] + b[0, 1] + 0.25 * c[0, 1]) / 1.75)
    assert found.grid[2, 2] == pytest.approx((0.5 * a[2, 2] + b[2, 2]) / 1.5)
    assert np.argwhere(np.isnan(found.grid)).tolist() == [[0, 0], [1, 1]]
    images = [scores[i].image_score for i in range(3)]
    assert found.image_score == pytest.approx(np.dot([0.5, 1, 0.25], images) / 1.75)
    np.testing.assert_allclose(found.parts["nll"], 2 * found.grid, rtol=1e-6)
    assert found.nll is scores[1].nll
    assert averaged(3, scores, weights) is scores[3]
    assert averaged(0, {0: scores[0]}, {0: 1.0, 1: 0.6}) is scores[0]


@pytest.mark.parametrize(
    "order", [[0, 1, 2, 3, 4, 5, 6], [3, 4, 2, 5, 1, 6, 0], [6], [1, 5], [2, 2]]
)
def test_any_order_gives_the_same_scores_each_computed_once(order: list[int]) -> None:
    scores = {index: score(index) for index in range(7)}
    weights = slice_weights(stack(), 3.0)
    asked: list[int] = []

    def alone(needed: Iterable[int]) -> Iterator[tuple[int, SliceScore]]:
        for index in needed:
            asked.append(index)
            yield index, scores[index]

    seen = []
    for index, found in smoothed_slices(order, weights, alone, averaged):
        expected = averaged(index, scores, weights[index])
        np.testing.assert_array_equal(found.grid, expected.grid)
        assert found.image_score == expected.image_score
        seen.append(index)
        if len(seen) == 1:
            assert set(asked) == set(weights[index])  # it does not wait for others
    assert seen == order
    assert len(asked) == len(set(asked))
    assert set(asked) == {other for index in order for other in weights[index]}


def scan(count: int = 6, seed: int = 0, step: float = 3.0) -> Scan:
    noise = np.random.default_rng(seed).uniform(0, 255, (count, 50, 70))
    data = np.rint(ndimage.gaussian_filter(noise, (0, 2, 2)) * 1.5).astype(np.float32)
    data[1] = 0
    affine = np.diag([-1.0, -1.0, step, 1.0])
    return Scan(data, Geometry(data.shape, affine), "mri", Series("MR"), intensity="grey8")


@pytest.mark.parametrize("tile", [0, 32])
def test_a_volume_is_smoothed_whatever_part_of_it_is_scored(
    tiny_backbone: Backbone, tile: int
) -> None:
    plain = build(tiny_backbone)
    if tile:
        shown = replace(plain.header.preprocessing, tile=tile)
        plain = build(tiny_backbone, preprocessing=shown)
    volume, header = scan(), plain.header
    model = build(tiny_backbone, preprocessing=header.preprocessing, scoring=Scoring(3, 0.1, 3.0))
    alone = build(tiny_backbone, preprocessing=header.preprocessing, scoring=Scoring(3, 0.1))
    raw = dict(alone.iter_volume(volume))
    weights = slice_weights(volume.geometry, 3.0)
    whole = model.score_volume(volume)
    for index in range(6):
        grid = averaged(index, raw, weights[index]).grid
        assert grid is not None
        if index == 1:
            assert not whole.nll[1].any()
            continue
        expected = Scoring(3, 0.1)(torch.from_numpy(grid), (50, 70), 24.0)
        np.testing.assert_array_equal(whole.slice_score(index).nll, expected.nll)
        assert whole.image_scores[index] == np.float32(expected.image_score)
    assert math.isnan(whole.image_scores[1])
    assert not np.array_equal(whole.nll, alone.score_volume(volume).nll)
    part = model.score_volume(volume, [4, 0])
    np.testing.assert_array_equal(part.nll[[0, 4]], whole.nll[[0, 4]])
    assert part.visited.tolist() == [True, False, False, False, True, False]
    # The rest of an interrupted scan, and a search for an engine in between.
    kept = ScanScores.empty(volume.geometry)
    steps = score_slices(model, volume, scores=kept)
    next(steps)
    steps.close()
    assert kept.visited.tolist() == [True, False, False, False, False, False]
    found = dict(score_slices(model, volume, stored=kept, speed_up=lambda: None))
    for index, one in found.items():
        np.testing.assert_array_equal(one.nll, whole.slice_score(index).nll)


def test_off_it_changes_nothing_and_is_not_stored(tiny_backbone: Backbone, tmp_path: Path) -> None:
    model = build(tiny_backbone)
    volume = scan()
    ends = resolve(model.header.preprocessing.window, volume)
    found = model.score_volume(volume)
    for index in (0, 2):
        alone = model.score_slice(volume.slice(index), window=ends)
        np.testing.assert_array_equal(found.nll[index], alone.nll)
    assert model.header.to_dict()["scoring"] == {"smoothing": 3, "top_share": 0.0}
    assert model.header.format_version == 1
    new = build(tiny_backbone, scoring=Scoring(3, 0.0, 4.5))
    assert new.header.format_version == 4
    new.save(tmp_path)
    assert read_header(tmp_path / "model.safetensors")[0] == new.header
    assert from_plain(new.header.scoring.to_dict(), Scoring) == Scoring(3, 0.0, 4.5)
    assert "over slices, by a Gaussian of SD 4.5 mm" in model_facts(new)["Heatmap"]
    assert "over slices" not in model_facts(model)["Heatmap"]
    single = volume.slice(2)
    np.testing.assert_array_equal(new.score_slice(single).nll, model.score_slice(single).nll)


def test_a_scan_that_cannot_be_averaged_is_outside_the_training_domain() -> None:
    header = fake_header(scoring=Scoring(smoothing_z=3.0))
    known = scan()
    unknown = replace(known, geometry=Geometry.without_spacing(known.geometry.shape))
    assert header_shift(header, known).reasons == ()
    (reason,) = header_shift(header, unknown).reasons
    assert reason.startswith("the distances of its slices are unknown")
    assert header_shift(fake_header(), unknown).reasons == ()


def save(folder: Path, volume: Scan) -> None:
    folder.mkdir(parents=True)
    image = nib.Nifti1Image(volume.data.transpose(2, 1, 0), volume.geometry.affine)  # type: ignore[no-untyped-call]
    nib.save(image, folder / "scan.nii")


def test_calibration_averages_as_scoring_does(
    tmp_path: Path, tiny_backbone: Backbone, tiny_weights: Path, normal_slices: Path
) -> None:
    for number in range(4):
        save(tmp_path / "healthy" / f"patient{number}", scan(seed=number, step=2.0 + number % 2))
    save(tmp_path / "other" / "patient9", scan(seed=9, step=2.5))
    with pytest.raises(InputError, match="are in no volume with a known spacing"):
        nsar.fit(normal_slices, out=tmp_path / "no", backbone=tiny_backbone, smoothing_z=3.0)
    model = nsar.fit(
        tmp_path / "healthy",
        out=tmp_path / "m",
        backbone=tiny_backbone,
        device="cpu",
        method="patch-gaussian",
        size=(64, 64),
        smoothing_z=3.0,
        calibration_folds=3,
    )
    assert model.header.scoring == Scoring(3, 0.01, 3.0)
    assert model.calibration.slices == 20
    other = str(tmp_path / "other")
    for sigma in (None, 0.0, 5.0):
        out = tmp_path / f"calibrated {sigma}"
        more = [] if sigma is None else ["--smoothing-z", f"{sigma}"]
        words = ["calibrate", str(tmp_path / "m"), other, "--out", str(out), "--device", "cpu"]
        result = CliRunner().invoke(app, [*words, *more])
        assert result.exit_code == 0, result.output
        new = nsar.load_model(out, weights=tiny_weights, device="cpu")
        assert new.header.scoring.smoothing_z == (3.0 if sigma is None else sigma)
        found = new.score_volume(nsar.read(tmp_path / "other" / "patient9" / "scan.nii")[0])
        # Embeddings for calibration are stored in float16.
        expected = np.sort(found.image_scores[found.scored])
        np.testing.assert_allclose(new.calibration.image_scores, expected, atol=2e-3)
        assert new.calibration.peaks is not None
        assert new.calibration.peaks.scores[0][0] == pytest.approx(found.nll.max(), abs=2e-3)
        regions = new.calibration.regions
        assert regions is not None
        assert regions.thresholds[-1] == pytest.approx(found.nll.max(), abs=2e-3)
    refused = ["calibrate", str(tmp_path / "m"), str(normal_slices), "--out", str(tmp_path / "n")]
    result = CliRunner().invoke(app, [*refused, "--device", "cpu"])
    assert result.exit_code == 1
    assert "12 of the 12 normal slices to calibrate on are in no volume" in result.stderr


def test_a_lesion_over_several_slices_is_one_finding() -> None:
    geometry = stack()
    nll = np.zeros(geometry.shape, np.float32)
    for index, (row, column) in enumerate([(2, 2), (3, 3), (4, 3), (5, 4)], start=1):
        nll[index, row, column] = index  # each touches the next by an edge or a corner
    nll[6, 1, 1] = 9  # alone
    nll[1, 2, 6] = 3  # beside it in the same slice, not touching
    found = find_findings(nll > 0.5, nll, geometry)
    assert [(f.first_slice, f.last_slice, f.voxels) for f in found] == [
        (6, 6, 1),
        (1, 4, 4),
        (1, 1, 1),
    ]
    assert found[1].volume_ml == pytest.approx(4 * 3 / 1000)
    assert found[1].peak_slice == 4
    nll[3] = 0  # nothing flagged in between
    found = find_findings(nll > 0.5, nll, geometry)
    assert sorted((f.first_slice, f.last_slice) for f in found) == [(1, 1), (1, 2), (4, 4), (6, 6)]
