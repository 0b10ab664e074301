"""Where DICOM voxels lie, by arithmetic of its own: all axis orders, oblique, and lazily read."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest

from napari_spatial_ar.imaging.dicom.series import find_series
from napari_spatial_ar.imaging.dicom.sources import dicom_sources

Write = Callable[..., list[Path]]
AXES = np.vstack([np.eye(3), -np.eye(3)])
# Row and column directions: any two axes at a right angle, either way. 24 of them.
UPRIGHT = [
    (*(s * np.eye(3)[a]), *(t * np.eye(3)[b]))
    for (a, b), s, t in product(permutations(range(3), 2), (1, -1), (1, -1))
]
# As a spine is angled: turned 20 degrees about the left-right axis, then 10 about the head-foot.
c, s, d, e = (
    *(f(np.radians(20)) for f in (np.cos, np.sin)),
    *(f(np.radians(10)) for f in (np.cos, np.sin)),
)
OBLIQUE = (d, e, 0, -e * c, d * c, s)


@pytest.mark.parametrize("orientation", [*UPRIGHT, OBLIQUE], ids=str)
def test_a_marked_voxel_lies_where_the_header_says(
    write_series: Write, orientation: tuple[float, ...]
) -> None:
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    between = 3.1 * np.cross(row, column)
    origin = np.array([-31.5, 12.25, 40.0])
    voxels = np.zeros((4, 5, 6), dtype=np.uint16)
    voxels[1, 3, 2] = 900
    paths = write_series(
        voxels[::-1],  # written from the last slice to the first
        orientation=orientation,
        positions=[tuple(origin + k * between) for k in (3, 2, 1, 0)],
        spacing=(1.5, 0.5),
    )
    (scan,) = find_series(paths)
    # PS3.3 C.7.6.2.1.1, in LPS: PixelSpacing is (between rows, between columns).
    x, y, z = origin + 1 * between + row * 0.5 * 2 + column * 1.5 * 3
    marked = np.array([-x, -y, z])
    volume = scan.read()
    ((k, j, i),) = np.argwhere(volume.data == 900)
    got = volume.geometry.affine @ [i, j, k, 1]
    np.testing.assert_allclose(got[:3], marked, atol=2e-3)
    assert np.linalg.det(volume.geometry.affine[:3, :3]) != 0
    # The lazily read slice is the same, and upright as napari and the model see it.
    np.testing.assert_array_equal(scan.slice(int(k)), volume.slice(int(k)))
    lazily = scan.read(lazy=True)
    np.testing.assert_array_equal(np.asarray(lazily.data), volume.data)
    sources = dicom_sources(volume)
    assert sources is not None
    assert sources[k] == (paths[2], 0)
    if orientation != OBLIQUE:
        display = volume.geometry.to_display(volume.data)
        at = np.argwhere(display == 900)[0]
        superior, posterior, left = np.array(volume.geometry.display_translate) + at * np.array(
            volume.geometry.display_spacing
        )
        np.testing.assert_allclose((left, posterior, superior), (x, y, z), atol=2e-3)
