"""The layouts of BMAD's own sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_spatial_ar.datasets.bmad_layout import bmad_folder
from napari_spatial_ar.datasets.folders import bmad_items, find_slices

# Folders of training pictures, of validation, of test pictures and of their labels.
LAYOUTS = {
    "this project": ("train/good", "valid/good/img", "test/Ungood/img", "test/Ungood/label"),
    "brain": ("train/good/img", "valid/good/img", "test/Ungood/img", "test/Ungood/label"),
    "liver": ("train/good", "valid/img/good", "test/img/ungood", "test/label/ungood"),
    "RESC": ("train/good", "val/good/img", "test/ungood/img", "test/ungood/label"),
    "capitals": ("Train/good", "Val/img/good", "Test/img/Ungood", "Test/label/Ungood"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_found(tmp_path: Path, name: str) -> None:
    picture = np.full((40, 40), 0, np.uint8)
    picture[5:35, 5:35] = 150
    for number, folder in enumerate(LAYOUTS[name]):
        (tmp_path / folder).mkdir(parents=True)
        picture[number, 0] = 1  # no two are alike
        Image.fromarray(picture).save(tmp_path / folder / f"{min(number, 2):05}_60.png")
    slices = find_slices(tmp_path)
    assert [ref.path.parent for ref in slices.train] == [tmp_path / LAYOUTS[name][0]]
    assert [ref.path.parent for ref in slices.valid] == [tmp_path / LAYOUTS[name][1]]
    (item,) = bmad_items(tmp_path, "test")
    assert (item.abnormal, item.label) == (True, tmp_path / LAYOUTS[name][3] / "00002_60.png")
    (item,) = bmad_items(tmp_path, "valid")
    assert (item.abnormal, item.label) == (False, None)
    (item,) = bmad_items(tmp_path, "train")
    assert item.image == slices.train[0].path


def test_what_is_not_there(tmp_path: Path) -> None:
    assert bmad_folder(tmp_path / "absent", "test", "good") is None
    (tmp_path / "test" / "good").mkdir(parents=True)
    assert bmad_folder(tmp_path, "test", "good") is None
    assert bmad_folder(tmp_path, "train", "good", "label") is None
