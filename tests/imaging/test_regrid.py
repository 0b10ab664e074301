"""Axis orders: the voxel stays where it is in the patient (nibabel as the oracle)."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.regrid import distance_between, onto_grid

#: Every order and direction of three axes.
ORDERS = [
    np.array([list(pair) for pair in zip(axes, signs, strict=True)], dtype=float)
    for axes in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


def oblique(degrees: float) -> np.ndarray:
    """Affine turned about two axes, with three different spacings."""
    a, b = np.radians([degrees, 0.7 * degrees])
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ np.diag([-0.7, -1.1, 3.0])
    affine[:3, 3] = (31.25, -12.5, 77.0)
    return affine


@pytest.mark.parametrize("degrees", [0.0, 20.0, 44.0])
def test_every_axis_order_comes_back_voxel_for_voxel(degrees: float) -> None:
    voxels = np.random.default_rng(0).permutation(5 * 6 * 7).reshape(7, 6, 5)
    image = nib.Nifti1Image(voxels.astype(np.int32), oblique(degrees))
    geometry = Geometry(voxels.T.shape, image.affine)
    assert len(ORDERS) == 48
    for order in ORDERS:
        turned = image.as_reoriented(order)
        found = onto_grid(np.asarray(turned.dataobj).T, turned.affine, geometry)
        np.testing.assert_array_equal(found, voxels.T)


def test_equal_sides_do_not_hide_a_wrong_place() -> None:
    geometry = Geometry((4, 4, 4), np.diag([-1.0, -1.0, 1.0, 1.0]))
    moved = np.diag([1.0, -1.0, 1.0, 1.0])
    assert distance_between((4, 4, 4), moved, geometry) == pytest.approx(3)
    with pytest.raises(InputError, match="up to 3 mm off"):
        onto_grid(np.zeros((4, 4, 4)), moved, geometry)


def test_what_is_off_is_said_and_not_resampled() -> None:
    geometry = Geometry((4, 5, 6), oblique(20))
    shifted = geometry.affine.copy()
    shifted[0, 3] += 0.5
    with pytest.raises(InputError, match=r"up to 0\.5 mm off"):
        onto_grid(np.zeros((4, 5, 6)), shifted, geometry)
    with pytest.raises(InputError, match="4 x 5 x 5 voxels"):
        onto_grid(np.zeros((4, 5, 5)), geometry.affine, geometry)
    close = geometry.affine.copy()
    close[0, 3] += 5e-3
    assert onto_grid(np.zeros((4, 5, 6)), close, geometry).shape == (4, 5, 6)
    turned = geometry.affine @ np.array(
        [[0.7, 0.7, 0, 0], [-0.7, 0.7, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    )
    with pytest.raises(InputError, match=r"mm off|same grid"):
        onto_grid(np.zeros((4, 5, 6)), turned, geometry)
