"""The Training dock, with a stand-in for the fit and once with the real one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from qtpy.QtCore import QMimeData, QPoint, QPointF, Qt, QUrl
from qtpy.QtGui import QColor, QDragEnterEvent, QDropEvent
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractSpinBox,
    QApplication,
    QComboBox,
    QDialogButtonBox,
    QFileDialog,
    QLabel,
    QMessageBox,
)
from typer.testing import CliRunner

from napari_spatial_ar.cli import app
from napari_spatial_ar.datasets.selection import Selection
from napari_spatial_ar.datasets.summary import DataSummary
from napari_spatial_ar.errors import InputError
from napari_spatial_ar.gui import model_access
from napari_spatial_ar.gui.jobs import pool
from napari_spatial_ar.gui.layers import volume_layer_kwargs
from napari_spatial_ar.gui.review.dock import ReviewDock
from napari_spatial_ar.gui.training import data_panel
from napari_spatial_ar.gui.training.dock import TrainingDock
from napari_spatial_ar.gui.training.form import TrainingForm
from napari_spatial_ar.gui.widgets.colours import FOLLOWED, NORMAL
from napari_spatial_ar.gui.widgets.forms import select_data
from napari_spatial_ar.gui.widgets.plots import LossPlot, nice_ticks
from napari_spatial_ar.imaging.windows import CT_PRESETS, Window, default_window
from napari_spatial_ar.normative.detectors import DETECTORS
from napari_spatial_ar.normative.fitting.config import DEFAULT_METHOD, FitConfig
from napari_spatial_ar.normative.fitting.outliers import Outlier, Outliers
from napari_spatial_ar.normative.fitting.recipe import read_recipe, write_recipe
from napari_spatial_ar.normative.model import load_model
from napari_spatial_ar.normative.scores import Example
from napari_spatial_ar.review.provenance import RESEARCH_USE


def step(stage: str, done: int, total: int, epoch: int = 0) -> SimpleNamespace:
    losses = tuple(2.0 - 0.1 * e for e in range(epoch))
    return SimpleNamespace(
        stage=stage,
        done=done,
        total=total,
        epoch=epoch,
        epochs=4 if stage == "training" else 0,
        train_nll=losses,
        valid_nll=tuple(v + 0.1 for v in losses),
        best_epoch=epoch - 1,
        images_per_second=1.0,
        seconds_left=None,
        message="",
    )


class Call(NamedTuple):
    config: FitConfig
    out: Path
    overwrite: bool


class Fit:
    """Stands in for ``fit_steps``: 3 slices, 4 epochs; resumes like the real one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls: list[Call] = []
        self.gate = threading.Semaphore(10_000)
        self.epochs_done = 0
        self.error: Exception | None = None
        self.closed = 0

    def __call__(
        self, config: FitConfig, *, out: Path, overwrite: bool
    ) -> Generator[Any, None, Any]:
        self.calls.append(Call(config, out, overwrite))
        return self._steps(out)

    def _steps(self, out: Path) -> Generator[Any, None, Any]:
        try:
            for done in range(1, 4):
                yield step("features", done, 3)
            if self.error is not None:
                raise self.error
            while self.epochs_done < 4:
                self.gate.acquire(timeout=5)
                self.epochs_done += 1
                yield step("training", self.epochs_done * 2, 8, self.epochs_done)
            yield step("saving", 1, 1)
        except GeneratorExit:
            self.closed += 1
            raise
        return SimpleNamespace(name=out.name)


@pytest.fixture
def fit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, models: Any) -> Fit:
    made = Fit(tmp_path)
    monkeypatch.setattr(model_access, "fit_steps", made)
    monkeypatch.setattr(model_access, "user_models_dir", lambda: tmp_path / "models")
    monkeypatch.setattr(model_access, "unfinished_dir", lambda: tmp_path / "unfinished")
    monkeypatch.setattr(
        model_access, "backbone_names", lambda: [("here_vits14", True), ("gone_vits16", False)]
    )
    return made


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    folder = tmp_path / "normal scans"
    folder.mkdir()
    return folder


@pytest.fixture
def click(qtbot: Any) -> Callable[[Any], None]:
    def press(button: Any) -> None:
        assert button.isEnabled()
        qtbot.mouseClick(button, Qt.MouseButton.LeftButton)

    return press


@pytest.fixture
def dock(bare_viewer: Any, fit: Fit) -> TrainingDock:
    return TrainingDock(bare_viewer)


def set_options(dock: TrainingDock, **values: Any) -> None:
    form = dock.form.method
    for name, value in values.items():
        form.pages[form.method.name].editors[name].value = value


def drop(dock: TrainingDock, *paths: Path) -> None:
    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(str(path)) for path in paths])
    left, no_key = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    copy = Qt.DropAction.CopyAction
    QApplication.sendEvent(dock, QDragEnterEvent(QPoint(9, 9), copy, mime, left, no_key))
    QApplication.sendEvent(dock, QDropEvent(QPointF(9, 9), copy, mime, left, no_key))


def test_a_dropped_folder_is_fitted_with_the_settings_of_the_form(
    dock: TrainingDock, fit: Fit, scans: Path, click: Any, qtbot: Any, tmp_path: Path
) -> None:
    drop(dock, scans)
    dock.form.modality.setCurrentText("CT")
    select_data(dock.form.method.box, "spatial-ar")
    set_options(dock, dilation=1, context="bidirectional", epochs=4)
    dock.form.seed.setValue(5)
    with qtbot.waitSignal(model_access.model_events.changed, timeout=5000):
        click(dock.start_button)
        assert not dock.start_button.isEnabled()
        assert not dock.form.isEnabled()
    qtbot.waitUntil(lambda: not dock.running)
    config = FitConfig(
        folders=[str(scans)],
        modality="ct",
        backbone="here_vits14",
        seed=5,
        method="spatial-ar",
        options={"dilation": 1, "context": "bidirectional", "epochs": 4},
    )
    out = tmp_path / "models" / "ct-here_vits14-spatial-ar"
    assert fit.calls == [(config, out, False)]
    assert dock.plot.valid == pytest.approx([2.1, 2.0, 1.9, 1.8])
    assert dock.plot.best_epoch == 3
    assert dock.note.text() == "The model ct-here_vits14-spatial-ar is ready in the Review dock."
    assert dock.start_button.isEnabled()


def test_options_that_are_a_text_or_a_tick(
    dock: TrainingDock, fit: Fit, scans: Path, click: Any, qtbot: Any
) -> None:
    drop(dock, scans)
    select_data(dock.form.method.box, "spatial-ar")
    editors = dock.form.method.pages["spatial-ar"].editors
    assert (editors["dilations"].value, editors["whiten"].value) == ("", False)
    assert editors["whiten"].native.text() == "", "the name stands beside it once"
    assert "principal components" in editors["whiten"].tooltip
    set_options(dock, dilations="1-2-4-2-1", whiten=True)
    with qtbot.waitSignal(model_access.model_events.changed, timeout=5000):
        click(dock.start_button)
    qtbot.waitUntil(lambda: not dock.running)
    assert fit.calls[0].config.chosen_options == {"dilations": "1-2-4-2-1", "whiten": True}
    again = TrainingForm()
    qtbot.addWidget(again)
    kept = again.method.pages["spatial-ar"].editors
    assert (kept["dilations"].value, kept["whiten"].value) == ("1-2-4-2-1", True)


def test_the_window_that_the_model_sees_is_chosen_and_remembered(
    dock: TrainingDock, fit: Fit, scans: Path, click: Any, qtbot: Any
) -> None:
    form = dock.form
    form.normals.folder.setText(str(scans))
    assert form.window.box.currentText() == "Usual (0.5..99.5 %)"
    assert form.config().window == default_window("mri")
    select_data(form.modality, "ct")
    assert form.window.box.currentText() == "Usual (-160..240 HU)"
    select_data(form.window.box, "lung")
    assert form.config().window == CT_PRESETS["lung"]
    select_data(form.window.box, "fixed")
    assert form.window.low.suffix() == " HU"
    form.window.low.setValue(-20)
    form.window.high.setValue(70)
    click(dock.start_button)
    qtbot.waitUntil(lambda: not dock.running, timeout=5000)
    assert fit.calls[-1].config.window == Window("fixed", -20, 70)
    again = TrainingForm()
    qtbot.addWidget(again)
    select_data(again.modality, "ct")
    assert (again.window.low.value(), again.window.high.value()) == (-20, 70)
    # Another modality has its own.
    select_data(again.modality, "mri")
    assert again.window.window() is None


def test_a_window_that_is_none_is_one_sentence(
    dock: TrainingDock, fit: Fit, scans: Path, click: Any, notes: list[str]
) -> None:
    dock.form.normals.folder.setText(str(scans))
    select_data(dock.form.window.box, "percentile")
    dock.form.window.low.setValue(60)
    dock.form.window.high.setValue(40)
    click(dock.start_button)
    assert fit.calls == []
    assert len(notes) == 1
    assert "window" in notes[0]


# ---------------------------------------------------------------------- methods


def test_every_method_can_be_chosen_and_the_default_is_that_of_a_fit(dock: TrainingDock) -> None:
    box = dock.form.method.box
    names = [box.itemData(i) for i in range(box.count())]
    assert sorted(names) == sorted(DETECTORS)
    assert names[0] == box.currentData() == DEFAULT_METHOD
    for name, method in DETECTORS.items():
        assert select_data(box, name)
        assert method.title == box.currentText()
        assert method.cost in dock.form.method.note.text()
        assert method.unit in dock.form.method.note.text()
        tip = box.itemData(box.currentIndex(), Qt.ItemDataRole.ToolTipRole)
        assert method.reference in " ".join(tip.split())
        shown = {key for key, page in dock.form.method.pages.items() if not page.isHidden()}
        assert shown == {name}
        assert dock.loss.isHidden() == (not name.startswith("spatial-ar"))
        page = dock.form.method.pages[name]
        assert {key: editor.value for key, editor in page.editors.items()} == method.options()


def test_options_are_passed_on_where_they_differ_and_remembered(
    dock: TrainingDock, fit: Fit, scans: Path, click: Any, qtbot: Any
) -> None:
    dock.form.normals.folder.setText(str(scans))
    select_data(dock.form.method.box, "patch-gaussian")
    set_options(dock, position="patch", cells=7)
    assert dock.form.name.text() == "mri-here_vits14-patch-gaussian"
    click(dock.start_button)
    qtbot.waitUntil(lambda: not dock.running, timeout=5000)
    config = fit.calls[-1].config
    assert config.method == "patch-gaussian"
    assert config.chosen_options == {"position": "patch", "cells": 7}
    again = TrainingForm()
    qtbot.addWidget(again)
    assert again.method.method.name == "patch-gaussian"
    page = again.method.pages["patch-gaussian"]
    assert (page.editors["position"].value, page.editors["cells"].value) == ("patch", 7)
    page.defaults_button.click()
    assert again.method.arguments()["options"] == {}


def test_small_numbers_keep_their_digits(dock: TrainingDock) -> None:
    select_data(dock.form.method.box, "dinomaly")
    set_options(dock, learning_rate=0.00025)
    assert dock.form.method.arguments()["options"] == {"learning_rate": 0.00025}


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("memory-bank", {"coreset": 0.5}),
        ("patch-gaussian", {"position": "patch", "cells": 4}),
        ("dpmm", {"components": 8, "passes": 2}),
        ("himatch-ad", {"references": 2, "clusters": 4}),
        ("synthetic-change", {"slices": 8, "steps": 60, "components": 16, "hidden": 8}),
    ],
)
def test_a_model_of_each_quick_method_scores_in_its_own_unit(
    method: str,
    options: dict[str, Any],
    bare_viewer: Any,
    tiny_weights: Path,
    tiny_name: str,
    normal_slices: Path,
    lab: Any,
    click: Any,
    qtbot: Any,
) -> None:
    review, training = ReviewDock(bare_viewer), TrainingDock(bare_viewer)
    form = training.form
    form.normals.folder.setText(str(normal_slices))
    assert select_data(form.backbone, tiny_name)
    assert select_data(form.method.box, method)
    set_options(training, **options)
    form.name.setText(f"quick-{method}")
    click(training.start_button)
    qtbot.waitUntil(lambda: not training.running, timeout=60_000)
    assert "ready" in training.note.text()
    assert review.models.choose(f"quick-{method}")
    qtbot.waitUntil(lambda: review.models.model is not None, timeout=20_000)
    assert review.models.model.header.training["options"] == options
    unit = DETECTORS[method].unit
    assert review.threshold.heading.text() == f"Threshold ({unit})"
    assert unit in review.threshold.slider.toolTip()
    bare_viewer.add_image(**volume_layer_kwargs(lab.make_volume()))
    click(review.slice_button)
    qtbot.waitUntil(lambda: not review.running and review.masks.settled, timeout=20_000)
    assert review.session.score.scored.sum() == 1
    assert np.isfinite(review.session.score.nll).all()
    assert "of normal tissue" in review.threshold.meaning.text()


# ---------------------------------------------------------------------- what is in the folders


def disc(folder: Path, patient: int, number: int) -> None:
    """Picture of a patient, unlike any other."""
    folder.mkdir(exist_ok=True)
    rows, columns = np.mgrid[:32, :32] - 16
    grey = np.random.default_rng([patient, number]).uniform(60, 200, (32, 32))
    picture = np.where(rows**2 + columns**2 < 120, grey, 0).astype(np.uint8)
    Picture.fromarray(picture).save(folder / f"doe{patient}_{number}.png")


@pytest.fixture
def patients(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders with the pictures of three patients, two each."""
    first, second = tmp_path / "first site", tmp_path / "second site"
    for folder, patient in ((first, 0), (first, 1), (second, 2)):
        disc(folder, patient, 1)
        disc(folder, patient, 2)
    return first, second


def test_dropped_folders_are_looked_through_before_a_fit(
    dock: TrainingDock, fit: Fit, patients: tuple[Path, Path], click: Any, qtbot: Any
) -> None:
    panel = dock.form.normals
    drop(dock, *patients)
    assert panel.surveying
    assert panel.survey_button.text() == "Stop"
    qtbot.waitUntil(lambda: panel.summary is not None, timeout=10_000)
    assert not panel.surveying
    text = panel.note.text()
    assert text.startswith("6 slices of 3 patients in 3 series.")
    assert "Only 1 patient is held out" in text
    assert "doe" not in text
    shown = [tile for tile in panel.sheet.tiles if not tile.isHidden()]
    assert len(shown) == 3
    assert all(tile.pixmap().width() == 72 and "doe" not in tile.toolTip() for tile in shown)
    click(dock.start_button)
    qtbot.waitUntil(lambda: not dock.running, timeout=5000)
    assert fit.calls[-1].config.folders == tuple(map(str, patients))


def test_a_series_that_is_not_ticked_is_not_learned_from(
    dock: TrainingDock, fit: Fit, patients: tuple[Path, Path], click: Any, qtbot: Any
) -> None:
    panel = dock.form.normals
    drop(dock, *patients)
    qtbot.waitUntil(lambda: panel.summary is not None, timeout=10_000)
    click(panel.series_button)
    dialog = panel.dialog
    ok = dialog.buttons.button(QDialogButtonBox.StandardButton.Ok)
    click(dialog.none_button)
    assert not ok.isEnabled()
    click(dialog.all_button)
    dialog.table.topLevelItem(1).setCheckState(0, Qt.CheckState.Unchecked)
    assert dialog.count.text().startswith("4 slices of 2 patients")
    click(ok)
    key = panel.summary.survey.series[1].key
    assert panel.excluded == {key}
    assert "Excluded: 2 slices, excluded by you." in panel.note.text()
    assert sum(not tile.isHidden() for tile in panel.sheet.tiles) == 2
    click(dock.start_button)
    qtbot.waitUntil(lambda: not dock.running, timeout=5000)
    assert fit.calls[-1].config.exclude == (key,)
    # What was taken out of one folder has nothing to do with the next.
    panel.folder.setText(str(patients[0]))
    assert panel.excluded == frozenset()
    assert panel.sheet.isHidden()


def test_what_was_taken_out_stays_so_after_another_look(
    dock: TrainingDock, patients: tuple[Path, Path], qtbot: Any
) -> None:
    panel = dock.form.normals
    drop(dock, *patients)
    qtbot.waitUntil(lambda: panel.summary is not None, timeout=10_000)
    key = panel.summary.survey.series[0].key
    panel.exclude(frozenset([key]))
    select_data(dock.form.modality, "ct")
    assert panel.summary is None
    qtbot.waitUntil(lambda: panel.summary is not None, timeout=10_000)
    assert panel.excluded == panel.summary.excluded == {key}


def test_after_a_fit_the_most_surprising_scans_are_shown_and_left_out(
    dock: TrainingDock, fit: Fit, scans: Path, click: Any, qtbot: Any, monkeypatch: Any
) -> None:
    asked = []

    def outlier_steps(model: Path, folders: list[str]) -> Generator[Any, None, Any]:
        asked.append((model, folders))
        yield step("calibration", 1, 2)
        image = np.eye(20, dtype=np.float32)
        example = Example(image, image, 0.5)
        one = Outlier("a" * 64, "3 pictures", "0a1b2c3d", 3, 0, 0.5, example)
        return Outliers((one,), scans=2)

    monkeypatch.setattr(model_access, "outlier_steps", outlier_steps)
    dock.form.normals.folder.setText(str(scans))
    assert not dock.outliers_button.isEnabled()
    click(dock.start_button)
    qtbot.waitUntil(lambda: not dock.running, timeout=5000)
    click(dock.outliers_button)
    assert dock.running
    assert not dock.outliers_button.isEnabled()
    qtbot.waitUntil(lambda: not dock.running, timeout=5000)
    assert asked == [(dock.form.target, [str(scans)])]
    dock.dialog.table.topLevelItem(0).setCheckState(0, Qt.CheckState.Checked)
    click(dock.dialog.again_button)
    qtbot.waitUntil(lambda: len(fit.calls) == 2 and not dock.running, timeout=5000)
    assert fit.calls[0].config.exclude == ()
    assert fit.calls[1].config.exclude == ("a" * 64,)
    # Of other folders nothing is known.
    dock.form.normals.folder.setText(str(scans.parent))
    assert not dock.outliers_button.isEnabled()


def test_another_modality_or_window_is_looked_at_again(
    dock: TrainingDock, patients: tuple[Path, Path], qtbot: Any, monkeypatch: Any
) -> None:
    asked = []
    original = data_panel.survey

    def noted(folders: list[str], **settings: Any) -> Any:
        asked.append({key: settings[key] for key in ("modality", "window")})
        return original(folders, **settings)

    monkeypatch.setattr(data_panel, "survey", noted)
    panel = dock.form.normals
    select_data(dock.form.window.box, "percentile")
    assert not panel.surveying
    drop(dock, *patients)
    qtbot.waitUntil(lambda: panel.summary is not None, timeout=10_000)
    assert asked == [{"modality": "mri", "window": Window("percentile", 0.5, 99.5)}]
    select_data(dock.form.modality, "ct")
    qtbot.waitUntil(lambda: panel.summary is not None, timeout=10_000)
    assert asked[-1] == {"modality": "ct", "window": None}
    select_data(dock.form.window.box, "lung")
    qtbot.waitUntil(lambda: panel.summary is not None, timeout=10_000)
    assert asked[-1] == {"modality": "ct", "window": CT_PRESETS["lung"]}


def test_looking_can_be_stopped_and_a_bad_folder_is_one_sentence(
    dock: TrainingDock, scans: Path, patients: tuple[Path, Path], click: Any, qtbot: Any
) -> None:
    panel = dock.form.normals
    drop(dock, *patients)
    click(panel.survey_button)
    assert panel.note.text() == "Stopped."
    assert not panel.surveying
    qtbot.waitUntil(lambda: pool().activeThreadCount() == 0, timeout=5000)
    assert panel.summary is None
    drop(dock, scans)
    qtbot.waitUntil(lambda: not panel.surveying, timeout=5000)
    assert panel.note.text() == f"{scans}: the folder is empty. Choose a folder of scans."
    panel.folder.setText(str(scans / "nowhere"))
    click(panel.survey_button)
    assert "no such folder" in panel.note.text()


def test_the_summary_splits_as_a_fit_does_by_default() -> None:
    config = FitConfig()
    assert config.valid_fraction == DataSummary.valid_fraction
    assert config.seed == DataSummary.seed
    assert config.calibration_fraction == DataSummary.calibration_fraction
    assert config.selection == Selection()


# ---------------------------------------------------------------------- recipes


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The file that every dialog gives."""
    path = tmp_path / "saved" / "recipe.toml"
    for name in ("getSaveFileName", "getOpenFileName"):
        monkeypatch.setattr(QFileDialog, name, lambda *a: (str(path), ""))
    return path


def test_a_saved_recipe_sets_another_form_the_same(
    dock: TrainingDock, patients: tuple[Path, Path], chosen: Path, click: Any, qtbot: Any
) -> None:
    form = dock.form
    drop(dock, *patients)
    qtbot.waitUntil(lambda: form.normals.summary is not None, timeout=10_000)
    click(form.normals.series_button)
    form.normals.dialog.table.topLevelItem(1).setCheckState(0, Qt.CheckState.Unchecked)
    form.normals.dialog.accept()
    select_data(form.modality, "ct")
    select_data(form.window.box, "fixed")
    form.window.low.setValue(-20.5)
    form.window.high.setValue(70)
    select_data(form.method.box, "dinomaly")
    set_options(dock, learning_rate=0.00025)
    form.seed.setValue(5)
    form.selection.set_values(Selection("as-acquired", (0.07, 0.93), 0.03), 0.3)
    click(form.recipes.save_button)
    config = form.config()
    assert read_recipe(chosen).folders == tuple(map(str, patients))
    other = TrainingForm()
    qtbot.addWidget(other)
    select_data(other.modality, "oct")
    other.method.set_method("spatial-ar", {})
    other.method.pages["dinomaly"].set_defaults()
    other.window.set_window(Window("percentile", 1, 99))
    other.seed.setValue(0)
    other.selection.set_values(Selection("coronal"), 0.0)
    other.normals.folder.clear()
    click(other.recipes.load_button)
    assert other.config() == config
    assert len(config.exclude) == 1
    qtbot.waitUntil(lambda: other.normals.summary is not None, timeout=10_000)
    assert other.normals.summary.excluded == set(config.exclude)
    assert other.recipes.drop_button.isHidden()


def test_what_the_form_has_no_field_for_is_shown_and_passed_on(
    dock: TrainingDock, patients: tuple[Path, Path], chosen: Path, click: Any, qtbot: Any
) -> None:
    form = dock.form
    recipe = FitConfig(
        folders=tuple(map(str, patients)),
        backbone="here_vits14",
        size=(896, 448),
        valid_fraction=0.5,
        patient_pattern="(doe).*",
    )
    write_recipe(chosen, recipe)
    click(form.recipes.load_button)
    said = "From the recipe: patient pattern (doe).*, size 896 x 448, valid fraction 0.5"
    assert form.recipes.note.text() == said
    others = {"patient_pattern": "(doe).*", "size": (896, 448), "valid_fraction": 0.5}
    assert others.items() <= form.config().settings().items()
    qtbot.waitUntil(lambda: form.normals.summary is not None, timeout=10_000)
    assert form.normals.summary.valid_fraction == 0.5
    assert "6 slices of 1 patient" in form.normals.note.text()
    assert form.recipe() == recipe
    click(form.recipes.drop_button)
    assert not form.recipes.note.text()
    assert form.config().differs(recipe) == list(others)
    qtbot.waitUntil(lambda: form.normals.summary is not None, timeout=10_000)
    assert "6 slices of 3 patients" in form.normals.note.text()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"window": Window("percentile", 0.25, 99)}, "no field for the recipe's window"),
        ({"window": Window("full8")}, "the recipe's window"),
        ({"backbone": "unlisted"}, "the recipe's backbone"),
        ({"slice_range": (0.125, 1.0)}, "the recipe's slice_range"),
        ({"method": "change-novelty", "options": {"weight": 0.123456789}}, "the recipe's options"),
    ],
)
def test_a_recipe_that_the_form_cannot_hold_changes_nothing(
    dock: TrainingDock,
    chosen: Path,
    click: Any,
    notes: list[str],
    settings: dict[str, Any],
    words: str,
) -> None:
    before = dock.form.recipe()
    write_recipe(chosen, FitConfig(**{"backbone": "here_vits14", "seed": 9, **settings}))
    click(dock.form.recipes.load_button)
    assert len(notes) == 1
    assert words in notes[0]
    assert dock.form.recipe() == before


def test_a_file_that_is_no_recipe_is_one_sentence(
    dock: TrainingDock, chosen: Path, click: Any, notes: list[str]
) -> None:
    chosen.parent.mkdir()
    chosen.write_text("schema = 1\nsede = 1")
    click(dock.form.recipes.load_button)
    assert notes[0].startswith(f"{chosen}: 'sede' is not a setting of a fit: choose from")


def test_the_fit_of_the_dock_and_of_its_recipe_give_the_same_model(
    bare_viewer: Any,
    tiny_weights: Path,
    tiny_name: str,
    normal_slices: Path,
    chosen: Path,
    click: Any,
    qtbot: Any,
    tmp_path: Path,
) -> None:
    training = TrainingDock(bare_viewer)
    form = training.form
    form.normals.folder.setText(str(normal_slices))
    assert select_data(form.backbone, tiny_name)
    select_data(form.method.box, "spatial-ar")
    set_options(training, epochs=2, dilation=1)
    form.seed.setValue(4)
    form.selection.set_values(Selection(min_body=0.2), 0.25)
    form.name.setText("by-dock")
    click(form.recipes.save_button)
    click(training.start_button)
    qtbot.waitUntil(lambda: not training.running, timeout=60_000)
    assert "ready" in training.note.text()
    out = tmp_path / "by-recipe"
    result = CliRunner().invoke(app, ["fit", "--recipe", str(chosen), "--out", str(out)])
    assert result.exit_code == 0, result.output
    by_dock, by_recipe = load_model("by-dock"), load_model(out)
    for name, tensor in by_dock.detector.tensors().items():
        assert torch.equal(tensor, by_recipe.detector.tensors()[name]), name
    assert by_dock.sha256 == by_recipe.sha256
    assert by_dock.header.training["calibration_subjects"] == 1


# ---------------------------------------------------------------------- stops and errors


def test_cancel_keeps_what_is_done_and_start_goes_on(
    dock: TrainingDock, fit: Fit, scans: Path, click: Any, qtbot: Any
) -> None:
    dock.form.normals.folder.setText(str(scans))
    fit.gate = threading.Semaphore(2)
    click(dock.start_button)
    qtbot.waitUntil(lambda: len(dock.plot.valid) == 2, timeout=5000)
    click(dock.cancel_button)
    fit.gate.release()
    qtbot.waitUntil(lambda: not dock.running, timeout=5000)
    assert fit.closed == 1
    assert fit.epochs_done == 3
    assert dock.note.text().startswith("Stopped. Start resumes from here")
    fit.gate.release(10)
    click(dock.start_button)
    qtbot.waitUntil(lambda: not dock.running, timeout=5000)
    assert fit.calls[0] == fit.calls[1]
    assert len(dock.plot.valid) == 4


def test_bad_settings_and_errors_are_one_sentence(
    dock: TrainingDock, fit: Fit, scans: Path, click: Any, qtbot: Any, notes: list[str]
) -> None:
    dock.form.normals.folder.setText("")
    click(dock.start_button)
    dock.form.normals.folder.setText(str(scans / "nowhere"))
    click(dock.start_button)
    dock.form.normals.folder.setText(str(scans))
    dock.form.name.setText("../up")
    click(dock.start_button)
    assert ["no folder" in notes[0], "no such folder" in notes[1], "name" in notes[2]] == [True] * 3
    assert fit.calls == []
    dock.form.name.setText("fine")
    fit.error = InputError("there is no image in it", path=scans)
    click(dock.start_button)
    qtbot.waitUntil(lambda: not dock.running, timeout=5000)
    assert len(notes) == 4
    assert notes[3] == dock.note.text() == f"{scans}: there is no image in it."


def test_an_existing_model_is_replaced_only_when_asked(
    dock: TrainingDock, fit: Fit, scans: Path, click: Any, qtbot: Any, monkeypatch: Any
) -> None:
    dock.form.normals.folder.setText(str(scans))
    dock.form.target.mkdir(parents=True)
    (dock.form.target / "model.safetensors").write_bytes(b"")
    replies = [QMessageBox.StandardButton.No, QMessageBox.StandardButton.Yes]
    monkeypatch.setattr(QMessageBox, "question", lambda *a: replies.pop(0))
    click(dock.start_button)
    assert fit.calls == []
    click(dock.start_button)
    qtbot.waitUntil(lambda: not dock.running, timeout=5000)
    assert fit.calls[0].overwrite


def test_backbones_show_which_weights_are_here(dock: TrainingDock, monkeypatch: Any) -> None:
    box = dock.form.backbone
    assert [box.itemText(i) for i in range(box.count())] == ["here_vits14  \u2713", "gone_vits16"]
    monkeypatch.setattr(model_access, "weights_hint", lambda name: f"no {name}")
    box.setCurrentIndex(1)
    assert dock.form.backbone_note.text() == "no gone_vits16"
    grey = [box.itemData(i, Qt.ItemDataRole.ForegroundRole) for i in range(2)]
    assert grey[0] is None
    assert grey[1] is not None
    assert "gone_vits16" in box.itemData(1, Qt.ItemDataRole.ToolTipRole)
    monkeypatch.setattr(model_access, "weights_hint", lambda name: "")
    monkeypatch.setattr(
        model_access, "backbone_names", lambda: [("gone_vits16", True), ("mine", True)]
    )
    model_access.weights_news.changed.emit("gone_vits16")
    assert [box.itemText(i) for i in range(box.count())] == ["gone_vits16  \u2713", "mine  \u2713"]
    assert box.currentData() == "gone_vits16"
    assert dock.form.backbone_note.text() == ""
    dock.form.weights.got.emit("mine")  # by the buttons below the list
    assert box.currentData() == "mine"
    assert dock.form.name.text() == "mri-mine"


def test_the_research_line_and_tooltips_are_there(dock: TrainingDock) -> None:
    assert RESEARCH_USE in [label.text() for label in dock.findChildren(QLabel)]
    controls = [dock.form.normals.folder, dock.form.name, dock.progress, dock.plot]
    for kind in (QAbstractButton, QComboBox, QAbstractSpinBox):
        controls += dock.findChildren(kind)
    assert [c for c in controls if not c.toolTip()] == []


def test_closing_while_fitting_leaves_no_thread(
    dock: TrainingDock, fit: Fit, scans: Path, click: Any, qtbot: Any
) -> None:
    dock.form.normals.folder.setText(str(scans))
    fit.gate = threading.Semaphore(1)
    click(dock.start_button)
    qtbot.waitUntil(lambda: fit.epochs_done == 1, timeout=5000)
    dock.close()
    dock.deleteLater()
    qtbot.wait(50)
    fit.gate.release(10)
    qtbot.waitUntil(lambda: pool().activeThreadCount() == 0, timeout=5000)
    assert fit.epochs_done < 4
    assert fit.closed == 1


# ---------------------------------------------------------------------- pauses and estimates


def test_a_paused_fit_waits_and_goes_on(
    dock: TrainingDock, fit: Fit, scans: Path, click: Any, qtbot: Any
) -> None:
    assert not dock.pause_button.isEnabled()
    dock.form.normals.folder.setText(str(scans))
    fit.gate = threading.Semaphore(1)
    click(dock.start_button)
    qtbot.waitUntil(lambda: len(dock.plot.valid) == 1, timeout=5000)
    click(dock.pause_button)
    assert dock.paused
    assert dock.pause_button.text() == "Resume"
    fit.gate.release(10)
    qtbot.wait(500)
    assert fit.epochs_done <= 2, "but for the step at hand it waits"
    assert dock.note.text().startswith("Paused")
    assert dock.running
    click(dock.pause_button)
    qtbot.waitUntil(lambda: not dock.running, timeout=5000)
    assert len(dock.plot.valid) == 4
    assert "ready" in dock.note.text()
    assert (dock.pause_button.text(), dock.pause_button.isEnabled()) == ("Pause", False)


def test_a_paused_fit_can_be_cancelled_and_started_again(
    dock: TrainingDock, fit: Fit, scans: Path, click: Any, qtbot: Any
) -> None:
    dock.form.normals.folder.setText(str(scans))
    fit.gate = threading.Semaphore(1)
    click(dock.start_button)
    qtbot.waitUntil(lambda: len(dock.plot.valid) == 1, timeout=5000)
    click(dock.pause_button)
    fit.gate.release(10)
    click(dock.cancel_button)
    qtbot.waitUntil(lambda: not dock.running, timeout=5000)
    assert fit.closed == 1
    assert dock.note.text().startswith("Stopped.")
    assert not dock.paused
    click(dock.start_button)
    qtbot.waitUntil(lambda: not dock.running, timeout=5000)
    assert "ready" in dock.note.text()


def test_closing_while_paused_leaves_no_thread(
    dock: TrainingDock, fit: Fit, scans: Path, click: Any, qtbot: Any
) -> None:
    dock.form.normals.folder.setText(str(scans))
    fit.gate = threading.Semaphore(1)
    click(dock.start_button)
    qtbot.waitUntil(lambda: fit.epochs_done == 1, timeout=5000)
    click(dock.pause_button)
    fit.gate.release(10)
    dock.close()
    dock.deleteLater()
    qtbot.waitUntil(lambda: pool().activeThreadCount() == 0, timeout=5000)
    assert fit.closed == 1


def test_how_long_it_takes_is_said_before_the_start(
    bare_viewer: Any,
    tiny_weights: Path,
    tiny_name: str,
    normal_slices: Path,
    click: Any,
    qtbot: Any,
) -> None:
    dock = TrainingDock(bare_viewer)
    dock.form.normals.folder.setText(str(normal_slices))
    assert select_data(dock.form.backbone, tiny_name)
    select_data(dock.form.method.box, "memory-bank")
    dock.form.name.setText("not-made")
    click(dock.estimate_button)
    assert not dock.start_button.isEnabled()
    qtbot.waitUntil(lambda: not dock.running, timeout=60_000)
    assert " slices to embed" in dock.note.text()
    assert dock.note.text().startswith("About ")
    assert "Not counted: reading the folders" in dock.note.text()
    assert not dock.form.target.exists()
    assert dock.start_button.isEnabled()
    assert not dock.unfinished.name


# ---------------------------------------------------------------------- after a restart


@pytest.fixture
def restarted(dock: TrainingDock, fit: Fit, qtbot: Any) -> Callable[[], TrainingDock]:
    """Make the dock of the next session."""

    def make() -> TrainingDock:
        made = TrainingDock(dock.viewer)
        qtbot.addWidget(made)
        return made

    return make


@pytest.fixture
def interrupted(dock: TrainingDock, fit: Fit, scans: Path, click: Any, qtbot: Any) -> TrainingDock:
    """A dock with a fit that was stopped after its first epoch."""
    dock.form.normals.folder.setText(str(scans))
    select_data(dock.form.modality, "ct")
    select_data(dock.form.method.box, "spatial-ar")
    set_options(dock, epochs=4, patience=2)
    dock.form.seed.setValue(7)
    dock.form.name.setText("by-night")
    fit.gate = threading.Semaphore(1)
    click(dock.start_button)
    qtbot.waitUntil(lambda: len(dock.plot.valid) == 1, timeout=5000)
    dock.cancel()
    fit.gate.release(10)
    qtbot.waitUntil(lambda: not dock.running, timeout=5000)
    set_options(dock, epochs=40, patience=0)
    return dock


def test_an_unfinished_fit_is_offered_after_a_restart_and_then_forgotten(
    interrupted: TrainingDock, restarted: Any, fit: Fit, click: Any, qtbot: Any
) -> None:
    assert interrupted.unfinished.isHidden(), "Start goes on here"
    again = restarted()
    assert not again.unfinished.isHidden()
    assert again.unfinished.note.text() == "The fit of by-night was not finished."
    select_data(again.form.method.box, "memory-bank")
    again.form.seed.setValue(0)
    again.form.normals.folder.clear()
    click(again.unfinished.resume_button)
    assert again.unfinished.isHidden()
    qtbot.waitUntil(lambda: not again.running, timeout=5000)
    assert "The model by-night is ready" in again.note.text()
    assert fit.calls[1] == fit.calls[0]
    assert restarted().unfinished.isHidden()


def test_a_discarded_fit_is_not_offered_again(
    interrupted: TrainingDock, restarted: Any, fit: Fit, click: Any
) -> None:
    again = restarted()
    click(again.unfinished.discard_button)
    assert again.unfinished.isHidden()
    assert not again.running
    assert restarted().unfinished.isHidden()


def test_what_is_wrong_with_an_unfinished_fit_is_one_sentence(
    interrupted: TrainingDock,
    restarted: Any,
    scans: Path,
    fit: Fit,
    click: Any,
    qtbot: Any,
    notes: list[str],
) -> None:
    again, (kept,) = restarted(), model_access.unfinished_dir().iterdir()
    whole = kept.read_text()
    kept.write_text("schema = 1\nsede = ")
    click(again.unfinished.resume_button)
    assert "it is no recipe" in notes[-1]
    kept.write_text(whole)
    scans.rename(scans.with_name("elsewhere"))
    click(again.unfinished.resume_button)
    assert notes[-1] == f"{scans}: there is no such folder. Choose another one."
    assert not again.running
    kept.unlink()
    click(again.unfinished.resume_button)
    assert notes[-1].startswith(f"{kept}: the recipe cannot be read")
    assert len(notes) == 3
    assert len(fit.calls) == 1
    # It stands there until it is discarded.
    click(again.unfinished.discard_button)
    assert again.unfinished.isHidden()


def test_a_fit_that_cannot_be_remembered_starts_all_the_same(
    dock: TrainingDock, fit: Fit, scans: Path, click: Any, qtbot: Any, notes: list[str]
) -> None:
    model_access.unfinished_dir().write_text("a file where the folder would be")
    dock.form.normals.folder.setText(str(scans))
    click(dock.start_button)
    qtbot.waitUntil(lambda: not dock.running, timeout=5000)
    assert "ready" in dock.note.text()
    assert "will not be offered again" in notes[0]


# ---------------------------------------------------------------------- the plot


@pytest.mark.parametrize(
    ("low", "high", "count", "ticks"),
    [(0, 40, 5, [0, 10, 20, 30, 40]), (1.17, 1.46, 4, [1.2, 1.3, 1.4]), (2, 2, 4, [2])],
)
def test_ticks_are_round(low: float, high: float, count: int, ticks: list[float]) -> None:
    assert nice_ticks(low, high, count) == pytest.approx(ticks)


def colours(plot: LossPlot) -> np.ndarray:
    image = plot.grab().toImage()
    return np.array(
        [
            [image.pixelColor(x, y).getRgb()[:3] for x in range(image.width())]
            for y in range(image.height())
        ]
    )


def test_the_plot_draws_falling_lines_and_an_empty_one(qtbot: Any) -> None:
    plot = LossPlot()
    qtbot.addWidget(plot)
    plot.resize(260, 150)
    orange, blue = NORMAL.on(plot), FOLLOWED.on(plot)

    def drawn(colour: QColor) -> np.ndarray:
        return np.argwhere((abs(colours(plot) - colour.getRgb()[:3]) < 12).all(axis=2))

    assert len(drawn(orange)) == 0
    plot.show_losses([2.0, 1.5, 1.2], [2.1, 1.7, 1.6], 2, 3)
    for colour in (orange, blue):
        line = drawn(colour)
        line = line[line[:, 0] > 24]  # below the names
        left, right = line[line[:, 1].argmin()], line[line[:, 1].argmax()]
        assert left[0] < right[0]  # falls from left to right
        assert right[1] - left[1] > 100
    assert drawn(blue)[:, 0].max() > drawn(orange)[:, 0].max()  # training ends lower


# ---------------------------------------------------------------------- the real thing


def test_a_model_fitted_here_scores_a_scan_there(
    make_napari_viewer: Any,
    shared_data: Path,
    tmp_path: Path,
    click: Any,
    qtbot: Any,
) -> None:
    """Real backbone, real network, real slices: from a folder to findings with clicks only."""
    folder = tmp_path / "normal"
    folder.mkdir()
    source = sorted((shared_data / "bench" / "brain_flair" / "train" / "good").iterdir())
    for path in source[:: len(source) // 6][:6]:
        with Picture.open(path) as picture:
            picture.save(folder / path.name)
    viewer = make_napari_viewer()
    review, training = ReviewDock(viewer), TrainingDock(viewer)
    viewer.window.add_dock_widget(review, name="Review")
    viewer.window.add_dock_widget(training, name="Training")
    assert training.form.backbone.currentData() == "dinov2_vits14_focus"
    assert "comes with the package" in training.form.backbone_note.text()
    training.form.normals.folder.setText(str(folder))
    select_data(training.form.method.box, "spatial-ar")
    set_options(training, epochs=2)
    training.form.name.setText("clicked")
    click(training.start_button)
    qtbot.waitUntil(lambda: not training.running, timeout=120_000)
    assert "ready" in training.note.text()
    assert len(training.plot.valid) == 2
    click(training.outliers_button)
    qtbot.waitUntil(lambda: not training.running, timeout=120_000)
    assert training.dialog.table.topLevelItemCount() == 6
    training.dialog.reject()
    assert review.models.choose("clicked")
    qtbot.waitUntil(lambda: review.models.model is not None, timeout=60_000)
    from napari_spatial_ar.imaging.samples import sample_volume

    layer = viewer.add_image(**volume_layer_kwargs(sample_volume()))
    click(review.slice_button)
    qtbot.waitUntil(lambda: not review.running and review.masks.settled, timeout=60_000)
    session = review.session
    assert session.layer is layer
    (index,) = np.flatnonzero(session.score.scored)
    scores = session.geometry.to_slices(session.score.nll)[index]
    assert (scores > 0.5 * np.log(2 * np.pi) - 1e-3).all()  # no Gaussian density is higher
    assert session.heatmap in viewer.layers
    assert "of normal tissue" in review.threshold.meaning.text()


def test_the_two_docks_share_one_place_as_tabs(
    make_napari_viewer: Any, fit: Fit, qtbot: Any
) -> None:
    viewer = make_napari_viewer(show=True)
    review, training = ReviewDock(viewer), TrainingDock(viewer)
    viewer.window.add_dock_widget(review, name="Review")
    qtbot.wait(50)
    viewer.window.add_dock_widget(training, name="Training")
    main = review.window()
    qtbot.waitUntil(lambda: main.tabifiedDockWidgets(training.frame()) == [review.frame()])
    qtbot.waitUntil(lambda: review.visibleRegion().isEmpty())
