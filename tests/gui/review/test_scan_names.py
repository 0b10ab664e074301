"""Scans and results are told apart in the window, by no more of a path than that takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from napari.components import ViewerModel
from qtpy.QtCore import Qt

from napari_spatial_ar.gui.layers import KEY, kind_of, volume_layer_kwargs
from napari_spatial_ar.gui.review.dock import ReviewDock
from napari_spatial_ar.gui.review.scan_panel import name_scans, parts_that_differ

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
    assert first.name == "MR series 4"  # alone, it needs no number
    made.score("volume")
    finish(made)
    second = made.viewer.add_image(**at(lab.make_volume(), "/d/roe/flair.nii"))
    # On the screen alone, in the dock's list, stands what of their paths tells them apart.
    assert names(made) == ["MR series 4 (1): doe", "MR series 4 (2): roe"]
    result = "departure: fake, MR series 4 (1)"
    assert [layer.name for layer in layers if kind_of(layer) == "nll"] == [result]
    # What the user calls a layer stays.
    second.name = "mine"
    third = made.viewer.add_image(**at(lab.make_volume(), "/d/poe/flair.nii"))
    assert names(made) == ["MR series 4 (1): doe", "mine: roe", "MR series 4 (3): poe"]
    layers.remove(first)
    assert names(made) == ["mine: roe", "MR series 4 (3): poe"]  # a number is a scan's own
    layers.remove(second)
    assert names(made) == ["MR series 4"]
    assert third.name == "MR series 4"


@pytest.mark.parametrize("count", [1, 2, 3])
def test_no_layer_is_named_after_a_path(dock: Make, lab: Any, finish: Any, count: int) -> None:
    """napari's *Save selected layers* proposes a layer's name as that of the file."""
    made = dock(scan=False)
    for patient in ("doe", "roe", "poe")[:count]:
        files = f"/clinic/{patient}/{patient}.nii", f"/clinic/{patient}/{patient}_b.nii"
        made.viewer.add_image(**at(lab.make_volume(), *files[: 1 + (count > 2)]))
        made.score("volume")
        finish(made)
    said = " ".join(layer.name for layer in made.viewer.layers)
    assert not [part for part in ("doe", "roe", "poe", "clinic", ".nii", "/") if part in said]
    assert len({layer.name for layer in made.viewer.layers}) == 3 * count


def test_the_tooltip_of_a_scan_says_where_it_is(dock: Make, lab: Any) -> None:
    made = dock(scan=False)
    made.viewer.add_image(**at(lab.make_volume(), "/d/doe/flair.nii"))
    made.viewer.add_image(**at(lab.make_volume(), "/d/roe/1.dcm", "/d/roe/2.dcm"))
    tips = [made.scan.box.itemData(n, Qt.ItemDataRole.ToolTipRole) for n in range(2)]
    assert tips == [str(Path("/d/doe/flair.nii")), str(Path("/d/roe"))]
    assert made.scan.box.toolTip().splitlines()[-1] == tips[1]


def test_a_series_in_many_files_goes_by_its_folder(dock: Make, lab: Any) -> None:
    made = dock(scan=False)
    for patient in ("doe", "roe"):
        files = [f"/d/{patient}/{number}.dcm" for number in range(3)]
        made.viewer.add_image(**at(lab.make_volume(), *files))
    assert names(made) == ["MR series 4 (1): doe", "MR series 4 (2): roe"]


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
    assert [layer.name for layer in viewer.layers] == ["MR series 4 (1)", "MR series 4 (2)"]
