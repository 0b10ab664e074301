"""The picture and the table of a fit's most surprising scans."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.normative.fitting.outliers import Outlier, Outliers
from napari_spatial_ar.normative.scores import Example
from napari_spatial_ar.review.outliers import COLUMNS, contact_sheet, write_outliers


def suspects(count: int) -> Outliers:
    image = np.full((40, 32), 0.5, np.float32)
    heat = np.full((40, 32), 0.1, np.float32)
    heat[10:20, 10:20] = 0.9
    return Outliers(
        tuple(
            Outlier(
                key=f"{number:064x}",
                label="12 pictures",
                patient="0a1b2c3d",
                slices=12,
                place=number,
                score=0.9 - number / 100,
                example=Example(image, heat, 0.9),
            )
            for number in range(count)
        ),
        scans=30,
    )


def test_the_table_and_the_picture_are_written_once(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_outliers(suspects(4), out)
    with (out / "suspects.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4"]
    assert rows[1]["key"] == f"{1:064x}"
    assert (rows[1]["score"], rows[1]["slice"], rows[1]["slices"]) == ("0.89", "1", "12")
    with Image.open(out / "suspects.png") as picture:
        assert picture.size == contact_sheet(suspects(4)).size
    with pytest.raises(InputError, match="already exist"):
        write_outliers(suspects(1), out)
    write_outliers(suspects(1), out, overwrite=True)
    assert len((out / "suspects.csv").read_text(encoding="utf-8").splitlines()) == 2


@pytest.mark.parametrize("count", [1, 3, 4])
def test_each_suspect_has_its_slice_and_its_heatmap_in_the_picture(count: int) -> None:
    sheet = np.asarray(contact_sheet(suspects(count))).astype(int)
    # Only heatmaps are coloured: red differs from blue.
    coloured = np.abs(sheet[..., 0] - sheet[..., 2]) > 60
    _, spots = ndimage.label(ndimage.binary_closing(coloured, iterations=3))
    assert spots == count
    grey = (sheet == 128).all(axis=2).sum()
    assert grey > 0.9 * count * 170 * 136
