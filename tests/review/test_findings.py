"""Masks and findings against shapes whose measures are known."""

from __future__ import annotations

import csv
import io
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.review.findings import (
    find_findings,
    findings_to_csv,
    label_components,
    write_findings_csv,
    write_findings_json,
)
from napari_spatial_ar.review.masks import MaskSettings, make_mask
from napari_spatial_ar.review.provenance import RESEARCH_USE


def grid(
    shape: tuple[int, int, int] = (6, 10, 12),
    spacing: tuple[float, float, float] = (0.5, 2.0, 3.0),
    **settings: object,
) -> Geometry:
    """LPS axes (i to the left, j to posterior), spacing along i, j, k, off the origin."""
    x, y, z = spacing
    affine = np.diag([-x, -y, z, 1.0])
    affine[:3, 3] = 100.0, 50.0, -20.0
    return Geometry(shape, affine, **settings)  # type: ignore[arg-type]


def scores(geometry: Geometry, value: float = 1.0) -> np.ndarray:
    return np.full(geometry.shape, value, np.float32)


def test_a_voxel_is_masked_only_above_the_threshold() -> None:
    geometry = grid()
    nll = scores(geometry)
    nll[0, 0, 0], nll[0, 0, 5] = 1.5, 1.5001
    mask = make_mask(nll, 1.5, geometry=geometry)
    assert mask.dtype == np.uint8
    assert np.argwhere(mask).tolist() == [[0, 0, 5]]


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_slices_that_are_not_scored_are_never_masked(slice_axis: int) -> None:
    geometry = Geometry((4, 5, 6), np.eye(4), slice_axis=slice_axis)
    count = geometry.shape[slice_axis]
    scored = np.zeros(count, bool)
    scored[1] = True
    mask = make_mask(scores(geometry, 9.0), -1.0, geometry=geometry, scored=scored)
    assert np.moveaxis(mask, slice_axis, 0).reshape(count, -1).any(axis=1).tolist() == [
        i == 1 for i in range(count)
    ]


def test_small_regions_go_by_volume_and_diagonal_neighbours_count_as_one() -> None:
    geometry = grid()  # 3 mm3 a voxel
    nll = scores(geometry)
    nll[0, 0, 0] = nll[1, 1, 1] = nll[2, 2, 2] = 5  # one diagonal region: 9 mm3
    nll[5, 8, 8] = 5  # 3 mm3
    kept = make_mask(nll, 2, settings=MaskSettings(min_size_mm3=9), geometry=geometry)
    assert np.argwhere(kept).tolist() == [[0, 0, 0], [1, 1, 1], [2, 2, 2]]
    assert make_mask(nll, 2, settings=MaskSettings(min_size_mm3=9.1), geometry=geometry).sum() == 0
    assert make_mask(nll, 2, settings=MaskSettings(min_voxels=2), geometry=geometry).sum() == 3


def test_mm3_without_a_known_spacing_is_refused() -> None:
    geometry = Geometry.without_spacing((2, 3, 4))
    with pytest.raises(InputError, match="voxels instead"):
        make_mask(scores(geometry), 0, settings=MaskSettings(min_size_mm3=1), geometry=geometry)


def test_scores_on_another_grid_are_refused() -> None:
    with pytest.raises(InputError, match="not on the grid"):
        make_mask(np.ones((2, 2, 2), np.float32), 0, geometry=grid())


def test_measures_of_a_box() -> None:
    geometry = grid()
    nll = scores(geometry)
    nll[2:4, 1:5, 3:9] = 3.0  # 2 slices, 4 rows of 2 mm, 6 columns of 0.5 mm
    nll[3, 2, 4] = 4.0
    (finding,) = find_findings(make_mask(nll, 2, geometry=geometry), nll, geometry)
    assert finding.voxels == 48
    assert finding.volume_ml == pytest.approx(48 * 3 / 1000)
    assert (finding.first_slice, finding.last_slice, finding.peak_slice) == (2, 3, 3)
    assert finding.centroid_zyx == pytest.approx((2.5, 2.5, 5.5))
    assert finding.centroid_ras_mm == pytest.approx((100 - 5.5 * 0.5, 50 - 2.5 * 2, -20 + 2.5 * 3))
    assert finding.largest_area_mm2 == pytest.approx(24)
    # From the middle of an edge pixel's side to its opposite: (3.5, 5) or (4, 5) steps apart.
    assert finding.longest_diameter_mm == pytest.approx(np.hypot(4 * 2.0, 5 * 0.5))
    assert finding.longest_diameter_px == pytest.approx(np.hypot(3, 6))
    assert finding.peak_score == pytest.approx(4.0)
    assert finding.mean_score == pytest.approx((47 * 3 + 4) / 48)


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_measures_agree_with_scipy_on_random_shapes(slice_axis: int) -> None:
    rng = np.random.default_rng(slice_axis)
    geometry = Geometry((6, 9, 11), np.eye(4), slice_axis=slice_axis)
    nll = rng.normal(size=geometry.shape).astype(np.float32)
    mask = ndimage.uniform_filter(rng.random(geometry.shape), 3) > 0.52
    labels = label_components(mask)
    found = find_findings(mask, nll, geometry)
    assert len(found) == labels.max() > 1
    for finding in found:
        inside = labels == finding.label
        across = np.flatnonzero(np.moveaxis(inside, slice_axis, 0).any(axis=(1, 2)))
        assert finding.voxels == inside.sum()
        assert finding.centroid_zyx == pytest.approx(ndimage.center_of_mass(inside))
        assert (finding.first_slice, finding.last_slice) == (across[0], across[-1])
        peak = ndimage.maximum_position(nll, labels, finding.label)
        assert finding.peak_slice == peak[slice_axis]
        assert finding.peak_score == pytest.approx(float(nll[peak]))
        assert finding.mean_score == pytest.approx(
            ndimage.mean(nll, labels, finding.label), abs=1e-6
        )


def test_a_region_as_large_as_the_scan_takes_little_memory() -> None:
    geometry = Geometry((40, 150, 150), np.eye(4))
    nll, labels = scores(geometry), np.ones(geometry.shape, np.int32)
    tracemalloc.start()
    (finding,) = find_findings(labels, nll, geometry, labels=labels)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert finding.voxels == nll.size
    assert peak < 4 * nll.size  # a list of its voxels alone is 24 bytes each


def rotation(degrees: float) -> np.ndarray:
    """Rotation about an axis that is no axis of the patient."""
    axis = np.array([1.0, 2.0, -0.5]) / np.linalg.norm([1.0, 2.0, -0.5])
    cross = np.cross(np.eye(3), axis)
    angle = np.deg2rad(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


@pytest.mark.parametrize("tilt", [0.0, 33.0])
@pytest.mark.parametrize("slice_axis", [0, 1, 2])
@pytest.mark.parametrize("turn", [0.0, 30.0, 90.0, 140.0])
def test_both_diameters_of_an_ellipse(turn: float, slice_axis: int, tilt: float) -> None:
    """Axes of 40 and 18 mm, in slices with pixels of 0.5 x 0.8 mm, oblique to the patient too."""
    spacing = np.insert([0.5, 0.8], slice_axis, 4.0)  # along (Z, Y, X)
    shape = tuple(int(n) for n in np.insert([120, 80], slice_axis, 3))
    affine = np.eye(4)
    affine[:3, :3] = rotation(tilt) @ np.diag(spacing[::-1])
    geometry = Geometry(shape, affine, slice_axis=slice_axis)
    rows, columns = np.indices((120, 80)) * np.array([0.5, 0.8])[:, None, None]
    along, across = np.deg2rad([turn, turn + 90])
    y, x = rows - 30, columns - 32
    long = (y * np.cos(along) + x * np.sin(along)) / 20
    short = (y * np.cos(across) + x * np.sin(across)) / 9
    planes = np.zeros((3, 120, 80), bool)
    planes[1] = long**2 + short**2 <= 1
    planes[2] = (long * 2) ** 2 + (short / 1.2) ** 2 <= 1  # rounder, with a shorter diameter
    mask = np.moveaxis(planes, 0, slice_axis)
    (finding,) = find_findings(mask, scores(geometry), geometry)
    assert finding.longest_diameter_mm == pytest.approx(40, abs=0.9)
    assert finding.perpendicular_diameter_mm == pytest.approx(18, abs=0.8)


def test_one_pixel_measures_its_sides() -> None:
    geometry = grid((1, 5, 5))
    mask = np.zeros(geometry.shape, bool)
    mask[0, 2, 2] = True
    (finding,) = find_findings(mask, scores(geometry), geometry)
    assert (finding.longest_diameter_mm, finding.perpendicular_diameter_mm) == (2.0, 0.5)


def test_the_longest_diameter_is_measured_in_the_acquired_slices() -> None:
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    nll = np.zeros((9, 9, 9), np.float32)
    nll[1:8, 4, 4] = 1  # seven voxels along Z
    lengths = {}
    for slice_axis in (0, 1):
        geometry = Geometry(nll.shape, affine, slice_axis=slice_axis)
        (finding,) = find_findings(nll > 0, nll, geometry)
        lengths[slice_axis] = finding.longest_diameter_mm
    assert lengths == pytest.approx({0: 1.0, 1: 7.0})


def test_diameter_agrees_with_scikit_image_on_random_shapes() -> None:
    from skimage.measure import regionprops

    rng = np.random.default_rng(3)
    geometry = Geometry((1, 40, 40), np.eye(4))
    for _ in range(10):
        picture = np.zeros((40, 40), bool)
        for y, x, size in rng.integers(4, 30, (5, 3)):
            picture[y : y + size // 3, x : x + size // 4 + 1] = True
        labels = label_components(picture[None])[0]
        expected = {p.label: p.feret_diameter_max for p in regionprops(labels)}
        found = find_findings(picture[None], picture[None].astype(np.float32), geometry)
        assert {f.label: f.longest_diameter_mm for f in found} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("column", "side"), [(0, "right"), (11, "left"), (5, "midline"), (6, "midline")]
)
def test_side_is_the_patients_and_counts_from_the_volumes_middle(column: int, side: str) -> None:
    geometry = grid(spacing=(2.0, 2.0, 3.0))  # all voxels lie at RAS x > 0
    nll = scores(geometry, 0)
    nll[0, 0, column] = 1
    (finding,) = find_findings(nll > 0, nll, geometry)
    assert finding.side == side


def test_sides_are_not_named_without_geometry() -> None:
    geometry = Geometry.without_spacing((2, 9, 40))
    nll = scores(geometry, 0)
    nll[0, 0, 0:3] = 1
    (finding,) = find_findings(nll > 0, nll, geometry)
    assert finding.side == "unknown"
    assert finding.centroid_ras_mm is finding.volume_ml is finding.longest_diameter_mm is None
    assert finding.longest_diameter_px == pytest.approx(3)


def test_nothing_is_measured_in_mm_where_the_geometry_is_not_regular() -> None:
    geometry = grid(regular=False)
    nll = scores(geometry, 0)
    nll[0:2, 0, 0:4] = 1
    (finding,) = find_findings(nll > 0, nll, geometry)
    assert finding.volume_ml is None
    assert finding.centroid_ras_mm is None
    assert finding.longest_diameter_mm is finding.largest_area_mm2 is None
    assert finding.perpendicular_diameter_mm is None
    assert finding.longest_diameter_px == pytest.approx(4)


def test_a_sheared_grid_is_measured_through_its_affine() -> None:
    """A tilted gantry: slices 4 mm apart, each shifted by 2 mm along its rows' axis."""
    affine = np.array([[-2.0, 0, 0, 10], [0, -1.5, 2, 20], [0, 0, 4, 30], [0, 0, 0, 1]])
    geometry = Geometry((6, 9, 40), affine, regular=False, sheared=True)
    nll = scores(geometry, 0)
    nll[1:3, 2, 3:8] = 1
    (finding,) = find_findings(nll > 0, nll, geometry)
    assert finding.volume_ml == pytest.approx(10 * 2 * 1.5 * 4 / 1000)
    assert finding.longest_diameter_mm == pytest.approx(5 * 2, abs=2.1)
    assert finding.largest_area_mm2 == pytest.approx(5 * 3)
    assert finding.centroid_ras_mm == pytest.approx((-2 * 5 + 10, -3 + 3 + 20, 6 + 30))
    settings = MaskSettings(min_size_mm3=100)
    settings.check_fits(geometry)
    kept = make_mask(nll, 0.5, settings, geometry=geometry)
    assert kept.sum() == 10  # 120 mm3; straight slices 4.47 mm apart would have 134
    assert not make_mask(nll, 0.5, MaskSettings(min_size_mm3=125), geometry=geometry).any()


def test_findings_are_ranked_by_peak() -> None:
    geometry = grid()
    nll = scores(geometry, 0)
    nll[0, 0:3, 0:3] = 2
    nll[4, 8, 8] = 3
    first, second = find_findings(nll > 0, nll, geometry)
    assert (first.rank, first.peak_score, first.label) == (1, 3, 2)
    assert (second.rank, second.peak_score, second.label) == (2, 2, 1)


@pytest.mark.parametrize(
    ("unit", "earlier"),
    [("nats per dimension", {"peak_nll", "mean_nll"}), ("SD of normal tissue", set())],
)
def test_tables_say_the_same_and_stand_alone(tmp_path: Path, unit: str, earlier: set[str]) -> None:
    geometry = grid()
    nll = scores(geometry, 0)
    nll[1, 2, 3] = 2.5
    found = find_findings(nll > 0, nll, geometry)
    write_findings_csv(tmp_path / "f.csv", found, unit=unit)
    write_findings_json(tmp_path / "f.json", found, unit=unit)
    (row,) = csv.DictReader(io.StringIO((tmp_path / "f.csv").read_text()))
    document = json.loads((tmp_path / "f.json").read_text())
    (entry,) = document["findings"]
    assert document["research_use"] == RESEARCH_USE
    assert float(row["peak_score"]) == entry["peak_score"] == 2.5
    assert row["unit"] == entry["unit"] == document["unit"] == document["units"]["score"] == unit
    # The earlier names stay only where they are true.
    for names in (row.keys(), entry.keys()):
        assert {name for name in names if "nll" in name} == earlier
    for name in earlier:
        assert float(row[name]) == entry[name] == 2.5
    assert ("nll" in document["units"]) is bool(earlier)
    assert float(row["centroid_x_mm"]) == pytest.approx(entry["centroid_ras_mm"][0])
    assert row["first_slice"] == "1"


def test_no_findings_give_a_table_with_a_head_only() -> None:
    assert len(findings_to_csv([], unit="nats per dimension").splitlines()) == 1
