"""Outlines against the definition of inside."""

from __future__ import annotations

import numpy as np
import pytest

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.review.regions import ellipse_outline, outlined_voxels

SHAPE = (6, 30, 20)
CORNERS = np.array([[3.4, 2.2], [25.3, 4.1], [14.7, 9.3], [20.1, 17.6], [5.2, 15.8]])


def is_inside(point: np.ndarray, corners: np.ndarray) -> bool:
    """Whether a ray to the right crosses the outline an odd number of times."""
    crossings = 0
    for (r0, c0), (r1, c1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if (r0 > point[0]) != (r1 > point[0]):
            crossings += point[1] < c0 + (point[0] - r0) / (r1 - r0) * (c1 - c0)
    return crossings % 2 == 1


@pytest.mark.parametrize("across", [0, 1, 2])
def test_a_polygon_holds_in_the_slice_it_is_drawn_in(across: int) -> None:
    corners = (
        CORNERS * [0.15, 1] if across == 1 else CORNERS * [0.2, 1.5] if across == 2 else CORNERS
    )
    mask = outlined_voxels(SHAPE, [np.insert(corners, across, 3.1, axis=1)])
    planes = np.moveaxis(mask, across, 0)
    expected = np.zeros(planes.shape[1:], bool)
    for point in np.ndindex(expected.shape):
        expected[point] = is_inside(np.array(point), corners)
    assert np.array_equal(planes[3], expected)
    assert planes.sum() == expected.sum() > 10


def test_outlines_of_two_axes_hold_in_all_slices_and_add_up() -> None:
    box = np.array([[0.5, 0.5], [0.5, 3.5], [3.5, 3.5], [3.5, 0.5]])
    mask = outlined_voxels(SHAPE, [box, box + 10])
    assert mask.sum() == 6 * 2 * 9
    assert mask[:, 1:4, 1:4].all()


def test_an_ellipse_is_round() -> None:
    corners = np.array([[2.0, 5.0, 3.0], [2.0, 5.0, 13.0], [2.0, 25.0, 13.0], [2.0, 25.0, 3.0]])
    mask = outlined_voxels(SHAPE, [ellipse_outline(corners)])
    rows, columns = np.mgrid[:30, :20]
    distance = ((rows - 15) / 10) ** 2 + ((columns - 8) / 5) ** 2
    assert mask[2][distance < 0.97].all()
    assert not mask[2][distance > 1.01].any()


def test_what_is_no_region_is_refused() -> None:
    with pytest.raises(InputError, match="no closed outline"):
        outlined_voxels(SHAPE, [])
    oblique = np.array([[0.0, 0, 0], [0, 9, 0], [5, 9, 9], [5, 0, 9]])
    with pytest.raises(InputError, match="across slices"):
        outlined_voxels(SHAPE, [oblique])
    assert not outlined_voxels(SHAPE, [np.insert(CORNERS, 0, 9.0, axis=1)]).any()  # off the scan
