"""The picture of a scored scan, judged by its pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.series import Series
from napari_spatial_ar.review.drawing import INFERNO, inferno, write_png
from napari_spatial_ar.review.pictures import highest_slices, montage

_MARGIN, _HEAD, _GAP = 16, 62, 10  # the page's layout


def test_inferno_rises_in_brightness() -> None:
    luma = INFERNO @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(luma) > -1e-3).all()
    assert np.allclose(inferno(np.array([0.0, 1.0])) * 255, [[0, 0, 4], [252, 255, 164]], atol=1)


def test_highest_slices_stand_apart_where_they_can() -> None:
    scores = np.array([1, 5, 4.9, 4.8, 2, 3, np.nan])
    assert highest_slices(scores, 3) == [1, 2, 3]
    assert highest_slices(scores, 3, apart=2) == [1, 3, 5]
    assert highest_slices(scores, 9, apart=3) == [1, 2, 3, 5, 4, 0]


def picture_of(geometry: Geometry, lesion: tuple[Any, ...], **settings: Any) -> np.ndarray:
    """Montage of one slice of a dark scan with one bright, high-scoring, masked box."""
    data = np.zeros(geometry.shape, np.float32)
    data += np.linspace(0, 1, data.size, dtype=np.float32).reshape(data.shape)
    nll = np.ones(geometry.shape, np.float32)
    mask = np.zeros(geometry.shape, np.uint8)
    nll[lesion], mask[lesion] = 3, 1
    count = geometry.shape[geometry.slice_axis]
    image_scores = np.full(count, 1.0, np.float32)
    image_scores[0] = 3
    volume = Scan(data, geometry, "mri", Series("MR series 4"))
    page = montage(
        *(volume, nll, image_scores, mask),
        threshold=2.0,
        **{"unit": "nats per dimension", "rows": 1, "panel": 200, "limits": (1, 3), **settings},
    )
    return np.asarray(page).astype(int)


def test_the_lesion_is_outlined_and_hot_where_it_lies_with_the_right_aspect() -> None:
    # Rows of 2 mm, columns of 1 mm: 40 x 40 pixels are a panel of 200 x 100.
    geometry = Geometry((2, 40, 40), np.diag([-1.0, -2.0, 3.0, 1.0]))
    page = picture_of(geometry, (0, slice(5, 15), slice(20, 30)))
    outline = page[_HEAD : _HEAD + 200, _MARGIN + 2 * (100 + _GAP) :][:, :100]
    cyan = (abs(outline - [0, 230, 255]) < 12).all(axis=2)
    rows, columns = np.nonzero(cyan)
    assert rows.min() == pytest.approx(25, abs=2)
    assert rows.max() == pytest.approx(75, abs=2)
    assert columns.min() == pytest.approx(50, abs=2)
    assert columns.max() == pytest.approx(75, abs=2)
    heat = page[_HEAD : _HEAD + 200, _MARGIN + 100 + _GAP :][:, :100]
    assert heat[50, 62, 0] > 180
    assert abs(heat[50, 20, 0] - heat[50, 20, 2]) < 8  # grey where normal


def _has_text(region: np.ndarray) -> bool:
    return bool((region > 170).all(axis=2).any())


@pytest.mark.parametrize("known", [True, False])
def test_sides_are_marked_only_where_they_are_known(known: bool) -> None:
    geometry = Geometry((2, 60, 60), np.diag([-1.0, -1.0, 3.0, 1.0]), spacing_known=known)
    page = picture_of(geometry, (0, slice(5, 15), slice(30, 40)))
    middle = slice(_HEAD + 90, _HEAD + 110)
    assert _has_text(page[middle, _MARGIN + 2 : _MARGIN + 22]) is known
    assert _has_text(page[middle, _MARGIN + 178 : _MARGIN + 198]) is known


def test_research_use_stands_at_the_foot(said: list[str]) -> None:
    geometry = Geometry((2, 40, 40), np.diag([-1.0, -1.0, 3.0, 1.0]))
    page = picture_of(geometry, (0, 5, 5), fpr=0.01, title="brain on MR series 4", unit="log odds")
    assert "For research use, not for diagnosis.   Scores: log odds." in said
    assert "Above 2.00 (1 % of normal tissue)" in said
    assert {"R", "L"} <= set(said)
    assert _has_text(page[-26:, :300])


def test_nothing_scored_is_refused() -> None:
    geometry = Geometry((2, 8, 8), np.eye(4))
    data = np.arange(128, dtype=np.float32).reshape(2, 8, 8)
    volume = Scan(data, geometry, "mri", Series("x"))
    scores = np.full(2, np.nan, np.float32)
    with pytest.raises(InputError, match="no slice of this scan is scored"):
        montage(volume, volume.data, scores, volume.data > 0, threshold=1, unit="nats")


def test_a_picture_is_saved_as_png(tmp_path: Path) -> None:
    write_png(tmp_path / "m.png", Image.new("RGB", (30, 20), (1, 2, 3)))
    with Image.open(tmp_path / "m.png") as saved:
        assert saved.format == "PNG"
        assert saved.size == (30, 20)
