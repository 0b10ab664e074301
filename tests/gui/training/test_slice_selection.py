"""Choosing slices in the Training dock: live counts, pictures of both ends, remembered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from qtpy.QtCore import Qt

from napari_spatial_ar.datasets.selection import Selection
from napari_spatial_ar.errors import InputError
from napari_spatial_ar.gui.training.data_panel import SeriesTicks
from napari_spatial_ar.gui.training.form import TrainingForm
from napari_spatial_ar.gui.widgets.forms import select_data

SHAPE = (20, 24, 30)


@pytest.fixture
def patients(tmp_path: Path) -> Path:
    """Three axial volumes and a coronal one, brighter from slice to slice."""
    folder = tmp_path / "normal"
    for number in range(4):
        voxels = np.random.default_rng(number).uniform(40, 60, SHAPE)
        spacing = (1, 1, 2) if number < 3 else (1, 2, 1)
        voxels += 6 * np.arange(SHAPE[2])
        path = folder / f"p{number}" / "scan.nii"
        path.parent.mkdir(parents=True)
        nib.save(nib.Nifti1Image(voxels.astype(np.int16), np.diag([*spacing, 1])), path)
    return folder


@pytest.fixture
def form(qtbot: Any) -> TrainingForm:
    made = TrainingForm()
    qtbot.addWidget(made)
    return made


def look(form: TrainingForm, folder: Path, qtbot: Any) -> None:
    form.normals.set_folders([str(folder)])
    wait(form, qtbot)


def wait(form: TrainingForm, qtbot: Any) -> None:
    qtbot.waitUntil(lambda: form.normals.summary is not None, timeout=10_000)


def test_the_count_follows_the_slider_without_another_look(
    form: TrainingForm, patients: Path, qtbot: Any
) -> None:
    look(form, patients, qtbot)
    chosen = form.selection
    assert chosen.count.text().startswith("114 slices used; excluded: 0 outside")
    looks: list[object] = []
    form.normals.survey_requested.connect(looks.append)
    chosen.range.setValue((20, 50))
    # Middles of 30 slices and of 24: 9 and 7 of them, the coronal ones counted from anterior.
    assert (
        chosen.count.text() == "34 slices used; excluded: 80 outside the range, 0 with little body"
    )
    assert "Excluded: 80 slices, outside the range of slices chosen." in form.normals.note.text()
    assert chosen.range_text.text() == "20 to 50 %"
    assert not looks
    chosen.calibration.setValue(25)
    assert "calibration on 9 slices" in form.normals.note.text().lower()
    chosen.range.setValue((60, 60))
    assert chosen.range.value() == (60, 61)


def test_the_first_and_last_slice_are_shown(form: TrainingForm, patients: Path, qtbot: Any) -> None:
    look(form, patients, qtbot)
    form.selection.range.setValue((10, 90))
    qtbot.waitUntil(lambda: not form.selection.ends[1].isHidden(), timeout=10_000)
    first, last = (label.pixmap().toImage() for label in form.selection.ends)
    assert first.pixelColor(36, 36).lightness() + 60 < last.pixelColor(36, 36).lightness()
    form.normals.folder.clear()
    assert form.selection.ends[0].isHidden()
    assert form.selection.count.isHidden()


def test_another_plane_is_looked_at_again(form: TrainingForm, patients: Path, qtbot: Any) -> None:
    look(form, patients, qtbot)
    assert "other plane than most, which are axial: coronal (1)" in form.normals.note.text()
    select_data(form.selection.plane, "sagittal")
    assert form.normals.surveying
    form.selection.body.setValue(5)
    wait(form, qtbot)
    assert form.normals.summary is not None
    assert form.normals.summary.selection == Selection("sagittal", min_body=0.05)
    assert form.normals.summary.total.slices == 4 * SHAPE[0]
    assert form.config().selection == Selection("sagittal", min_body=0.05)


def test_what_was_used_last_is_remembered(form: TrainingForm, patients: Path, qtbot: Any) -> None:
    form.selection.set_values(Selection("axial", (0.2, 0.8), 0.3), 0.15)
    form.selection.arguments()
    other = TrainingForm()
    qtbot.addWidget(other)
    assert other.selection.selection() == Selection("axial", (0.2, 0.8), 0.3)
    assert other.selection.calibration_fraction == 0.15


def test_other_planes_are_left_out_with_one_click(
    form: TrainingForm, patients: Path, qtbot: Any
) -> None:
    look(form, patients, qtbot)
    assert form.normals.summary is not None
    dialog = SeriesTicks(form.normals.summary)
    qtbot.addWidget(dialog)
    dialog.show()
    assert dialog.plane_button.text() == "Only axial"
    qtbot.mouseClick(dialog.plane_button, Qt.MouseButton.LeftButton)
    (coronal,) = (s.key for s in form.normals.summary.survey.series if s.plane == "coronal")
    assert dialog.excluded == {coronal}
    assert dialog.count.text().startswith("90 slices of 3 patients")
    other = SeriesTicks(form.normals.summary.without({coronal}))
    qtbot.addWidget(other)
    assert not other.plane_button.isHidden(), "it may be ticked again"


def test_the_review_dock_takes_the_plane_of_the_model(dock: Any, models: Any, finish: Any) -> None:
    models["fake"].plane = "coronal"
    review = dock()
    assert review.plane_box.currentData() == "coronal"
    review.score("slice")
    finish(review)
    assert review.session.geometry.plane == "coronal"


def test_folds_step_over_one_and_travel_in_the_recipe(form: TrainingForm) -> None:
    folds = form.selection.folds
    assert folds.text() == "none"
    assert form.selection.arguments()["calibration_folds"] == 0
    folds.stepUp()
    assert form.selection.arguments()["calibration_folds"] == folds.value() == 2
    folds.stepUp()
    saved = form.recipe()
    assert saved.calibration_folds == 3
    folds.setValue(2)
    folds.stepDown()
    assert folds.value() == 0
    form.set_recipe(saved)
    assert folds.value() == 3
    form.selection.calibration.setValue(20)
    with pytest.raises(InputError, match="cannot be combined"):
        form.recipe()
