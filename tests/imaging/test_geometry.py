"""Geometry against nibabel, over every way a scan can be stored."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.nifti import read_nifti, write_nifti

SHAPE = (5, 6, 7)  # (Z, Y, X)
MARK = (1, 4, 2)


def axis_aligned() -> list[np.ndarray]:
    affines = []
    for order, signs in product(permutations(range(3)), product((1, -1), repeat=3)):
        affine = np.eye(4)
        affine[:3, :3] = np.eye(3)[:, order] * np.array(signs) * (0.7, 1.1, 2.5)
        affine[:3, 3] = (12.5, -33.0, 71.25)
        affines.append(affine)
    return affines


def oblique(affine: np.ndarray) -> np.ndarray:
    """Turn an affine by 20, -15 and 10 degrees."""
    turned = affine.copy()
    for axis, degrees in enumerate((20, -15, 10)):
        angle = np.radians(degrees)
        a, b = (i for i in range(3) if i != axis)
        rotation = np.eye(3)
        rotation[a, a] = rotation[b, b] = np.cos(angle)
        rotation[a, b], rotation[b, a] = -np.sin(angle), np.sin(angle)
        turned[:3, :3] = rotation @ turned[:3, :3]
    return turned


def code(affine: np.ndarray) -> str:
    return "".join(nib.aff2axcodes(affine))


ALIGNED = axis_aligned()
EVERY = [pytest.param(a, id=code(a)) for a in ALIGNED] + [
    pytest.param(oblique(a), id=f"oblique-{code(a)}") for a in ALIGNED
]


def marked(shape: tuple[int, ...] = SHAPE, place: tuple[int, ...] = MARK) -> np.ndarray:
    array = np.zeros(shape, dtype=np.uint8)
    array[place] = 1
    return array


def place_of_mark(array: np.ndarray) -> np.ndarray:
    (place,) = np.argwhere(array)
    return place


def coordinates(geometry: Geometry) -> np.ndarray:
    """RAS mm of every voxel: (3, Z, Y, X)."""
    z, y, x = np.indices(geometry.shape)
    ones = np.ones_like(x)
    return np.einsum("ab,bzyx->azyx", geometry.affine, np.stack([x, y, z, ones]))[:3]


@pytest.mark.parametrize("affine", EVERY)
def test_a_mark_keeps_its_patient_coordinate_through_the_screen_and_a_file(
    affine: np.ndarray, tmp_path: Path
) -> None:
    expected = affine @ (*MARK[::-1], 1)
    source = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(marked().T, affine), source)
    geometry = read_nifti(source).geometry

    drawn = np.zeros(geometry.display_shape, dtype=np.uint8)
    drawn[tuple(place_of_mark(geometry.to_display(marked())))] = 1
    write_nifti(tmp_path / "mask.nii.gz", geometry.from_display(drawn), geometry, like=source)

    mask = nib.load(tmp_path / "mask.nii.gz")
    found = mask.affine @ (*place_of_mark(np.asarray(mask.dataobj)), 1)
    assert np.abs(found - expected).max() < 0.01


@pytest.mark.parametrize("affine", EVERY)
def test_display_and_back_is_the_same_voxels_in_place(affine: np.ndarray) -> None:
    geometry = Geometry(SHAPE, affine)
    array = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    display = geometry.to_display(array)
    assert display.shape == geometry.display_shape
    assert np.shares_memory(display, array)
    np.testing.assert_array_equal(geometry.from_display(display), array)


@pytest.mark.parametrize("affine", EVERY)
def test_display_axes_grow_to_superior_posterior_left(affine: np.ndarray) -> None:
    geometry = Geometry(SHAPE, affine)
    right, anterior, superior = coordinates(geometry)
    assert (np.diff(geometry.to_display(superior), axis=0) > 0).all()
    assert (np.diff(geometry.to_display(anterior), axis=1) < 0).all()
    assert (np.diff(geometry.to_display(right), axis=2) < 0).all()


@pytest.mark.parametrize("affine", ALIGNED, ids=code)
def test_scale_and_translate_put_a_voxel_where_it_is_in_the_patient(affine: np.ndarray) -> None:
    geometry = Geometry(SHAPE, affine)
    right, anterior, superior, _ = affine @ (*MARK[::-1], 1)
    place = place_of_mark(geometry.to_display(marked()))
    world = np.array(geometry.display_spacing) * place + geometry.display_translate
    np.testing.assert_allclose(world, (superior, -anterior, -right), atol=1e-9)


@pytest.mark.parametrize("affine", ALIGNED, ids=code)
def test_an_oblique_volume_is_drawn_about_its_true_centre(affine: np.ndarray) -> None:
    geometry = Geometry(SHAPE, oblique(affine))
    right, anterior, superior = coordinates(geometry).reshape(3, -1).mean(axis=1)
    middle = (np.array(geometry.display_shape) - 1) / 2
    world = np.array(geometry.display_spacing) * middle + geometry.display_translate
    np.testing.assert_allclose(world, (superior, -anterior, -right), atol=1e-9)


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
@pytest.mark.parametrize("affine", EVERY)
def test_slices_are_upright_and_in_file_order(affine: np.ndarray, slice_axis: int) -> None:
    geometry = Geometry(SHAPE, affine, slice_axis)
    right, anterior, superior = (geometry.to_slices(c) for c in coordinates(geometry))
    down, across = {
        "axial": (-anterior, -right),
        "coronal": (-superior, -right),
        "sagittal": (-superior, -anterior),
    }[geometry.plane]
    assert (np.diff(down, axis=1) > 0).all()
    assert (np.diff(across, axis=2) > 0).all()
    numbers = geometry.to_slices(np.indices(SHAPE)[slice_axis])
    for index, numbers_of_slice in enumerate(numbers):
        assert (numbers_of_slice == index).all()


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
@pytest.mark.parametrize("affine", ALIGNED, ids=code)
def test_a_slice_is_found_where_it_is_drawn(affine: np.ndarray, slice_axis: int) -> None:
    geometry = Geometry(SHAPE, affine, slice_axis)
    drawn = place_of_mark(geometry.to_display(marked()))[geometry.display_slice_axis]
    assert geometry.slice_position(MARK[slice_axis]) == drawn


@pytest.mark.parametrize("affine", EVERY)
def test_orientation_and_spacing_agree_with_nibabel(affine: np.ndarray) -> None:
    geometry = Geometry(SHAPE, affine)
    assert geometry.orientation == code(affine)
    np.testing.assert_allclose(geometry.spacing, nib.affines.voxel_sizes(affine)[::-1])
    assert geometry.voxel_volume == pytest.approx(0.7 * 1.1 * 2.5)


def test_trailing_axes_are_carried_along() -> None:
    geometry = Geometry(SHAPE, ALIGNED[3])
    colours = np.random.default_rng(0).random((*SHAPE, 4))
    display = geometry.to_display(colours)
    assert display.shape == (*geometry.display_shape, 4)
    np.testing.assert_array_equal(geometry.from_display(display), colours)


def test_pictures_are_drawn_as_they_are() -> None:
    geometry = Geometry.without_spacing((3, 4, 5))
    array = np.arange(60).reshape(3, 4, 5)
    np.testing.assert_array_equal(geometry.to_slices(array), array)
    np.testing.assert_array_equal(geometry.to_display(array), array)
    assert not geometry.spacing_known


@pytest.mark.parametrize(
    ("affine", "match"),
    [
        (np.full((4, 4), np.nan), "finite"),
        (np.eye(3), "4 x 4"),
        (np.diag([1.0, 1.0, 0.0, 1.0]), "singular"),
    ],
)
def test_an_affine_that_places_nothing_is_refused(affine: np.ndarray, match: str) -> None:
    with pytest.raises(InputError, match=match):
        Geometry(SHAPE, affine)


def test_an_array_on_another_grid_is_refused() -> None:
    geometry = Geometry(SHAPE, ALIGNED[0])
    with pytest.raises(InputError, match="not on the grid"):
        geometry.to_slices(np.zeros((2, 2, 2)))
    with pytest.raises(InputError, match="not on the display grid"):
        geometry.from_display(np.zeros((2, 2, 2)))


def test_the_affine_cannot_be_changed_from_outside() -> None:
    affine = np.eye(4)
    geometry = Geometry(SHAPE, affine)
    affine[0, 0] = 9
    assert geometry.affine[0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        geometry.affine[0, 0] = 9


def test_a_grid_says_what_it_is() -> None:
    affine = np.diag([-0.5, -1.0, 3.25, 1.0])
    assert repr(Geometry((5, 30, 20), affine)) == (
        "Geometry(5 x 30 x 20 voxels (Z, Y, X), 3.25 x 1 x 0.5 mm, axial slices)"
    )
    assert "1 x 1 x 1 pixels" in repr(Geometry.without_spacing((1, 4, 4)))
    assert "irregular" in repr(Geometry((5, 30, 20), affine, regular=False))
    assert "sheared" in repr(Geometry((5, 30, 20), affine, regular=False, sheared=True))
