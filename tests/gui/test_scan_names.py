"""Scans and results are told apart in the window, by no more of a path than that takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from napari.components import ViewerModel

from napari_spatial_ar.gui.layers import KEY, kind_of, volume_layer_kwargs
from napari_spatial_ar.gui.review_dock import ReviewDock
from napari_spatial_ar.gui.scan_names import name_scans, parts_that_differ

Make = Callable[..., ReviewDock]


@pytest.mark.parametrize(
    ("paths", "parts"),
    [
        (["/d/one/flair.nii.gz", "/d/two/flair.nii.gz"], ["one", "two"]),
        (["/d/one/a.nii.gz", "/d/two/b.nii.gz"], ["a", "b"]),
        (["/d/one/ses-1/anat/t1.nii", "/d/one/ses-2/anat/t1.nii"], ["ses-1", "ses-2"]),
        # No single part tells all of them apart.
        (["/d/a/1/f.nii", "/d/a/2/f.nii", "/d/b/1/f.nii"], ["a/1", "a/2", "b/1"]),
        (["/d/a/f.nii", "/d/a/f.nii.gz"], ["f.nii", "f.nii.gz"]),
        (["/d/f.nii", "/d/sub/f.nii"], ["d", "sub"]),
        (["/d/f.nii", "/d/f.nii"], ["", ""]),
        (["/d/f.nii"], ["f"]),
        (["/d/.nii", "/d/x.nii"], [".nii", "x"]),
    ],
)
def test_the_shortest_part_of_the_path_is_shown(paths: list[str], parts: list[str]) -> None:
    assert parts_that_differ([Path(path) for path in paths]) == parts


def at(volume: Any, *files: str) -> Any:
    series = replace(volume.series, files=tuple(Path(file) for file in files))
    return volume_layer_kwargs(replace(volume, series=series))


def names(made: ReviewDock) -> list[str]:
    box = made.scan.box
    return [box.itemText(index) for index in range(box.count())]


def test_two_scans_of_one_name_are_told_apart_while_both_are_open(
    dock: Make, lab: Any, finish: Any
) -> None:
    made = dock(scan=False)
    layers = made.viewer.layers
    first = made.viewer.add_image(**at(lab.make_volume(), "/d/doe/flair.nii"))
    assert first.name == "MR series 4"  # alone, it needs nothing of its path
    made.score("volume")
    finish(made)
    second = made.viewer.add_image(**at(lab.make_volume(), "/d/roe/flair.nii"))
    assert names(made) == ["doe: MR series 4", "roe: MR series 4"]
    assert [layer.name for layer in layers if kind_of(layer) == "nll"] == ["departure: fake, doe"]
    # What the user calls a layer stays.
    second.name = "mine"
    third = made.viewer.add_image(**at(lab.make_volume(), "/d/poe/flair.nii"))
    assert names(made) == ["doe: MR series 4", "mine", "poe: MR series 4"]
    layers.remove(second)
    layers.remove(third)
    assert names(made) == ["MR series 4"]
    assert [layer.name for layer in layers if kind_of(layer) == "mask"] == ["mask: fake"]


def test_a_series_in_many_files_goes_by_its_folder(dock: Make, lab: Any) -> None:
    made = dock(scan=False)
    for patient in ("doe", "roe"):
        files = [f"/d/{patient}/{number}.dcm" for number in range(3)]
        made.viewer.add_image(**at(lab.make_volume(), *files))
    assert names(made) == ["doe: MR series 4", "roe: MR series 4"]


def test_results_of_two_models_carry_their_names(
    dock: Make, lab: Any, models: Any, finish: Any, qtbot: Any
) -> None:
    models["other"] = lab.Model(name="other")
    made = dock()
    for name in ("fake", "other"):
        made.models.choose(name)
        qtbot.waitUntil(lambda: made.models.model is not None, timeout=5000)
        made.score("volume")
        finish(made)
    results = [layer for layer in made.viewer.layers if kind_of(layer) in ("nll", "mask")]
    assert {layer.name for layer in results} == {
        f"{what}: {name}" for name in ("fake", "other") for what in ("departure", "mask")
    }
    assert {layer.metadata[KEY]["model"] for layer in results} == {"fake", "other"}


def test_scans_in_no_file_are_told_apart_by_number(lab: Any) -> None:
    viewer = ViewerModel()
    name_scans(viewer)
    for _ in range(2):
        viewer.add_image(**volume_layer_kwargs(lab.make_volume()))
    first, second = (layer.name for layer in viewer.layers)
    assert second == f"{first} [1]"
