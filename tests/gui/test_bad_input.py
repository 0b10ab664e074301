"""What users choose, type and drop that cannot be used, and settings that were damaged."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import QSettings
from qtpy.QtWidgets import QFileDialog, QMessageBox

from napari_spatial_ar.gui import settings
from napari_spatial_ar.gui.review.dock import ReviewDock
from napari_spatial_ar.gui.training.dock import TrainingDock
from napari_spatial_ar.gui.training.form import TrainingForm
from napari_spatial_ar.gui.worklist.panel import last_listed
from napari_spatial_ar.paths import LONGEST_NAME, unfinished_dir

Make = Callable[..., ReviewDock]

# Longer than any file system takes.
TOO_LONG = "x" * 300


@pytest.fixture
def scored(dock: Make, finish: Any) -> ReviewDock:
    made = dock()
    made.score("volume")
    finish(made)
    return made


# ---------------------------------------------------------------------- opening


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
@pytest.mark.parametrize("kind", ["pipe", "too long"])
def test_what_is_no_file_to_read_is_told_and_the_dock_is_ready_again(
    dock: Make, qtbot: Any, notes: list[str], tmp_path: Path, kind: str
) -> None:
    path = tmp_path / ("scan.nii" if kind == "pipe" else TOO_LONG)
    if kind == "pipe":
        os.mkfifo(path)
    made = dock(scan=False)
    made.scan.opener.open([str(path)])
    qtbot.waitUntil(lambda: bool(notes), timeout=5000)
    assert len(notes) == 1
    assert str(path) in notes[0]
    assert made.scan.open_button.isEnabled()
    assert made.scan.note.text() == "Nothing was opened."


@pytest.mark.parametrize("name", [b"cut\xff.nii.gz", b"cut\nshort.nii.gz"])
def test_a_damaged_file_whose_name_is_no_text_is_told(
    dock: Make, qtbot: Any, notes: list[str], tmp_path: Path, name: bytes
) -> None:
    path = os.path.join(os.fsencode(tmp_path), name)
    try:
        with open(path, "wb") as file:
            file.write(b"\x1f\x8b\x08")
    except OSError:
        pytest.skip("this file system has no such names")
    made = dock(scan=False)
    made.scan.opener.open([os.fsdecode(path)])
    qtbot.waitUntil(lambda: bool(notes), timeout=5000)
    assert "cut short" in notes[0]
    assert "\n" not in notes[0]
    notes[0].encode()  # as a terminal does, to which napari prints it


# ---------------------------------------------------------------------- exporting


def test_names_that_are_too_long_are_told_and_the_next_export_works(
    scored: ReviewDock, qtbot: Any, notes: list[str], tmp_path: Path, monkeypatch: Any
) -> None:
    bad = str(tmp_path / TOO_LONG)
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (bad, ""))
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: bad)
    scored.export.all_button.click()
    qtbot.waitUntil(lambda: len(notes) == 1, timeout=5000)
    scored.export.mask_button.click()
    qtbot.waitUntil(lambda: len(notes) == 2, timeout=5000)
    scored.export.report_button.click()
    qtbot.waitUntil(lambda: len(notes) == 3 and not scored.exporter.reports.busy, timeout=10_000)
    assert all("its name is too long. Choose a shorter one." in note for note in notes)
    # The folder is remembered, and must not be in the way.
    settings.remember_folder("export", bad)
    assert settings.last_folder("export") == str(Path.home())
    target = str(tmp_path / "mask.nii.gz")
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (target, ""))
    scored.export.mask_button.click()
    qtbot.waitUntil(lambda: len(notes) == 4, timeout=5000)
    assert Path(target).is_file()


# ---------------------------------------------------------------------- training


def test_a_folder_that_no_file_system_takes_is_told(
    make_napari_viewer: Any, notes: list[str]
) -> None:
    made = TrainingDock(make_napari_viewer())
    made.form.normals.folder.setText(TOO_LONG)
    assert "there is no such folder" in (made.start() or made.note.text())
    assert len(notes) == 1
    assert not made.running


def test_a_model_name_that_no_file_system_takes_is_told_before_the_fit(
    make_napari_viewer: Any, notes: list[str], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(QMessageBox, "question", lambda *_: pytest.fail("nothing to replace"))
    made = TrainingDock(make_napari_viewer())
    made.form.normals.folder.setText(str(tmp_path))
    made.form.name.setText(TOO_LONG)
    made.start()
    assert not made.running
    assert notes == [f"the model's name has 300 characters. Use at most {LONGEST_NAME}."]
    assert list(unfinished_dir().glob("*.toml")) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("schema = 1\nseed = 99999999999\n", "no field for the recipe's seed"),
        ("a = " + "[" * 20_000, "it is nested too deeply"),
    ],
)
def test_a_recipe_that_cannot_be_shown_is_told(
    qtbot: Any, notes: list[str], tmp_path: Path, monkeypatch: Any, text: str, told: str
) -> None:
    form = TrainingForm()
    qtbot.addWidget(form)
    before = form.recipe()
    path = tmp_path / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (str(path), ""))
    form.recipes.load_button.click()
    assert len(notes) == 1
    assert told in notes[0]
    assert form.recipe() == before


# ---------------------------------------------------------------------- layers


def test_layers_of_values_too_large_for_scores_are_told(dock: Make, notes: list[str]) -> None:
    made = dock(scan=False)
    made.viewer.add_image(1e300 * np.random.default_rng(0).random((3, 9, 9)), name="odd")
    made.score("volume")
    assert notes == ["the layer 'odd' contains values that are not numbers."]
    assert not made.running


# ---------------------------------------------------------------------- settings

_PICKLED = r"@Variant(\0\0\0\x7f\0\0\0\xePyQt_PyObject\0\0\0\0\x1ax)"


@pytest.mark.parametrize(
    "junk", ["nan", "inf", "-1e999", "text", "-5", "a, b", "@Rect(1 2 3 4)", _PICKLED, TOO_LONG]
)
def test_damaged_settings_count_as_none(
    dock: Make, finish: Any, notes: list[str], junk: str
) -> None:
    keys = {
        "General": ["fpr", "min_size_mm3", "threshold_unit", "model", "worklist", "training_low"],
        "heatmap": ["opacity", "colours"],
        "mask": ["smoothing_mm", "min_area_mm2", "fill_holes"],
        "folder": ["open", "export"],
    }
    store = settings._store()
    assert store.format() == QSettings.Format.IniFormat
    path = Path(store.fileName())
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for group, names in keys.items():
        lines += [f"[{group}]", *(f"{key}={junk}" for key in names)]
    path.write_text("\n".join(lines), encoding="utf-8")
    made = dock()
    made.score("slice")
    finish(made)
    assert 0.05 <= made.display_panel.display.opacity <= 1
    assert made.session is not None
    assert made.session.mask is not None
    assert settings.last_folder("export") == str(Path.home())
    assert settings.recall("training_low", 3) in (3, -5)
    assert last_listed() == []
    assert notes == []
