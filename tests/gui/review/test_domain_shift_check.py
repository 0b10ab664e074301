"""The model that fits a scan is chosen, and a scan outside its training domain is marked."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask.array as da
import pytest
from dask.callbacks import Callback
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.gui import model_access
from napari_spatial_ar.gui.layers import volume_layer_kwargs
from napari_spatial_ar.gui.review.dock import ReviewDock
from napari_spatial_ar.gui.worklist.table import COLUMNS, WorklistModel
from napari_spatial_ar.imaging.acquisition import Acquisition
from napari_spatial_ar.imaging.windows import Window, resolve
from napari_spatial_ar.normative.calibration import appearance
from napari_spatial_ar.normative.calibration.acquired import Acquired
from napari_spatial_ar.normative.calibration.domain_shift import DomainShift
from napari_spatial_ar.normative.model_file import ModelHeader
from napari_spatial_ar.normative.preprocessing import Preprocessing
from napari_spatial_ar.review.worklist.entries import Entry, Summary
from tests.fake_model import FakeModel, fake_header
from tests.gui.conftest import FakeInfo

Make = Callable[..., ReviewDock]


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch, models: Any) -> list[Any]:
    """Scans that are compared; those of the modality "ct" are found unlike."""
    asked: list[Any] = []

    def steps(model: Any, volume: Any) -> Generator[None, None, DomainShift]:
        yield
        asked.append(volume)
        differs = volume.modality == "ct"
        reasons, topics = (("it is CT",), ("modality",)) if differs else ((), ())
        return DomainShift(reasons, {"body": 0.5}, True, topics)

    monkeypatch.setattr(appearance, "domain_shift_steps", steps)
    return asked


def warning(made: ReviewDock) -> str:
    return made.shift_note.text() if made.shift_note.isVisibleTo(made) else ""


def test_a_scan_unlike_the_models_is_marked_beside_the_model(
    dock: Make, lab: Any, looks: list[Any], qtbot: Any, finish: Any
) -> None:
    made = dock(replace(lab.make_volume(), modality="ct"))
    qtbot.waitUntil(lambda: "modality" in warning(made), timeout=5000)
    assert warning(made) == "\u26a0 Outside the training domain: modality."
    ct = made.scan.layer
    like = made.viewer.add_image(**volume_layer_kwargs(lab.make_volume()))
    made.scan.list.choose(like)
    assert warning(made) == ""
    qtbot.waitUntil(lambda: len(looks) == 2, timeout=5000)
    made.scan.list.choose(ct)  # known already
    assert warning(made) != ""
    made.score("slice")
    finish(made)
    assert warning(made) != ""
    assert len(looks) == 2
    made.viewer.layers.remove(ct)
    made.viewer.layers.remove(like)
    assert warning(made) == ""


def test_the_window_of_a_large_scan_is_known_before_it_is_scored(
    dock: Make, lab: Any, models: Any, looks: list[Any], qtbot: Any
) -> None:
    volume = lab.make_volume()
    lazy = replace(volume, voxels=da.from_array(volume.data, chunks=(1, -1, -1)))
    shown = Preprocessing(Window("percentile", 1, 99))
    models["fake"].header = fake_header(preprocessing=shown)
    dock(lazy)
    qtbot.waitUntil(lambda: len(looks) == 1, timeout=5000)
    (compared,) = looks
    assert compared.lazy
    with Callback(start=pytest.fail):
        resolve(Window("percentile", 1, 99), compared)


def test_more_flagged_than_calibration_promises_is_a_warning(
    dock: Make, lab: Any, models: Any, qtbot: Any, finish: Any
) -> None:
    volume = lab.make_volume()
    made = dock(replace(volume, voxels=volume.data + 40))
    made.score("slice")
    finish(made)
    assert warning(made) == ""  # a slice says little of a scan
    made.score("volume")
    finish(made)
    assert warning(made) == "\u26a0 More is flagged than is likely to be abnormal."
    said = made.shift_note.reasons.text()
    assert said.startswith("100% of the tissue of the whole scan is above the threshold")


def test_the_warning_takes_two_lines_until_it_is_asked_why(
    dock: Make, lab: Any, looks: list[Any], models: Any, qtbot: Any, monkeypatch: Any
) -> None:
    reasons = (
        "it is CT, the model was trained on MRI",
        "its patches are 3.3 times as far from normal as those of any of 12 normal patients",
        "half of its tissue is below 75% of the grey scale (20% to 35% in 12 normal patients)",
        "the body fills 1% of a slice (31% to 68% in 12 normal patients)",
    )
    topics = ("modality", "appearance", "brightness", "field of view", "slice spacing")

    def steps(model: Any, volume: Any) -> Generator[None, None, DomainShift]:
        yield
        return DomainShift(reasons, {}, True, topics)

    monkeypatch.setattr(appearance, "domain_shift_steps", steps)
    made = dock(show=True)
    note = made.shift_note
    qtbot.waitUntil(note.isVisible, timeout=5000)
    line = note.fontMetrics().lineSpacing()
    qtbot.waitUntil(lambda: note.height() < 3 * line + 6, timeout=5000)
    assert not note.reasons.isVisible()
    note.why.setFocus()
    qtbot.keyClick(note.why, Qt.Key.Key_Space)
    assert note.reasons.isVisible()
    assert all(reason in note.reasons.text() for reason in reasons[:3])
    note.set_text(note.line.text(), "Something else.")
    assert not note.reasons.isVisible()  # what is new is folded away
    note.set_text("", "")
    assert not note.isVisible()


def test_the_export_records_what_is_unlike(
    dock: Make,
    lab: Any,
    looks: list[Any],
    qtbot: Any,
    finish: Any,
    notes: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    made = dock(replace(lab.make_volume(), modality="ct"))
    qtbot.waitUntil(lambda: "modality" in warning(made), timeout=5000)
    made.score("slice")
    finish(made)
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path / "out"))
    made.exporter.everything(made.session)
    found: list[Path] = []

    def written() -> bool:
        found[:] = tmp_path.glob("out/*/provenance.json")
        return bool(found) and bool(notes)

    qtbot.waitUntil(written, timeout=10_000)
    assert len(notes) == 1  # the dock says it already
    assert '"it is CT"' in found[0].read_text()


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch, models: Any, tmp_path: Path) -> None:
    """A model of MRI, and two of CT."""
    kinds = {"head": "mri", "liver": "ct", "lung": "ct"}
    made = type(models["fake"])
    models.clear()
    models.update({name: made(name=name, modality=kind) for name, kind in kinds.items()})
    infos = [FakeInfo(name, tmp_path / name, kind) for name, kind in kinds.items()]
    monkeypatch.setattr(model_access, "list_models", lambda: infos)


def test_the_model_of_the_scans_modality_is_chosen(
    dock: Make, lab: Any, three: None, qtbot: Any
) -> None:
    made = dock(lab.make_volume())
    mri = made.scan.layer
    assert made.model_box.currentText() == "head"
    ct = made.viewer.add_image(**volume_layer_kwargs(replace(lab.make_volume(), modality="ct")))
    made.scan.list.choose(ct)
    assert made.model_box.currentText() == "liver"
    # What a person picks is what such scans get from now on.
    made.model_box.setCurrentIndex(2)
    made.model_box.activated.emit(2)
    made.scan.list.choose(mri)
    assert made.model_box.currentText() == "head"
    made.scan.list.choose(ct)
    assert made.model_box.currentText() == "lung"
    qtbot.waitUntil(lambda: made.models.model is not None, timeout=5000)


def test_a_scan_of_unknown_modality_leaves_the_model(
    dock: Make, lab: Any, three: None, qtbot: Any
) -> None:
    made = dock(replace(lab.make_volume(), modality="ct"))
    assert made.model_box.currentText() == "liver"
    made.scan.list.choose(
        made.viewer.add_image(**volume_layer_kwargs(replace(lab.make_volume(), modality="unknown")))
    )
    assert made.model_box.currentText() == "liver"
    qtbot.waitUntil(lambda: made.models.model is not None, timeout=5000)


def axial_header(**sequences: int) -> ModelHeader:
    """Header of a model of axial scans."""
    return fake_header(acquired=Acquired(plane={"axial": 9}, sequence=sequences))


def of_sequence(volume: Any, sequence: str) -> Any:
    return replace(volume, series=replace(volume.series, acquired=Acquisition(sequence)))


def test_what_headers_say_does_not_fit_is_there_before_score(
    dock: Make, lab: Any, models: Any, qtbot: Any, finish: Any, monkeypatch: Any
) -> None:
    def unreadable(*_: Any) -> Any:
        yield
        raise InputError("is damaged")  # the voxels are not needed for it

    monkeypatch.setattr(appearance, "domain_shift_steps", unreadable)
    models["fake"].header = axial_header(FLAIR=9)
    made = dock(of_sequence(lab.make_volume("PIL"), "T1"))
    assert not made.session
    assert warning(made) == (
        "\u26a0 Outside the training domain: T1 instead of FLAIR, sagittal instead of axial slices."
    )
    assert not made.findings.shift_note.isVisibleTo(made)  # there is no list yet
    made.plane_box.setCurrentIndex(made.plane_box.findText("Axial slices"))
    assert warning(made) == "\u26a0 Outside the training domain: T1 instead of FLAIR."
    made.score("volume")
    finish(made)
    # Where regions are listed, it stands with them.
    assert made.findings.model.items
    assert made.findings.shift_note.text() == warning(made)
    assert made.findings.shift_note.isVisibleTo(made)
    found = made.domain_shift.of(made.session)
    assert found.reasons == ("it is T1, the model was trained on FLAIR",)
    flair = made.viewer.add_image(**volume_layer_kwargs(of_sequence(lab.make_volume(), "FLAIR")))
    made.scan.list.choose(flair)
    assert warning(made) == ""
    assert not made.findings.shift_note.isVisibleTo(made)


def test_a_row_of_the_worklist_is_marked_beside_its_flagged_regions(lab: Any, qtbot: Any) -> None:
    rows = WorklistModel()
    for key in ("T1", "FLAIR"):
        entry = Entry(key, "MR series 4", state="scored", summary=Summary(findings=3))
        rows.add(entry, of_sequence(lab.make_volume(), key))
    flagged = [column.name for column in COLUMNS].index("findings")

    def said(role: Any = Qt.ItemDataRole.DisplayRole) -> list[str]:
        return [rows.data(rows.index(row, flagged), role) for row in range(2)]

    assert said() == ["3", "3"]  # there is no model yet
    with qtbot.waitSignal(rows.dataChanged):
        rows.set_model(FakeModel(header=axial_header(FLAIR=9)))
    assert said() == ["\u26a0 3", "3"]
    t1, flair = said(Qt.ItemDataRole.ToolTipRole)
    assert t1.startswith("Outside the training domain: T1 instead of FLAIR.")
    assert "Unlike" not in flair
    rows.set_model(FakeModel(header=axial_header(T1=9)))
    assert said() == ["3", "\u26a0 3"]


def test_the_model_of_the_scans_sequence_is_chosen(
    dock: Make, lab: Any, models: Any, qtbot: Any, monkeypatch: Any, tmp_path: Path
) -> None:
    made = type(models["fake"])
    models.clear()
    headers = {
        "flair": axial_header(FLAIR=9),
        "t1": axial_header(T1=9),
        "other t1": axial_header(T1=3),
    }
    models.update({name: made(name=name, header=header) for name, header in headers.items()})
    infos = [FakeInfo(name, tmp_path / name, "mri", header=h) for name, h in headers.items()]
    monkeypatch.setattr(model_access, "list_models", lambda: infos)
    review = dock(of_sequence(lab.make_volume(), "T1"))
    t1 = review.scan.layer
    assert review.model_box.currentText() == "t1"
    flair = review.viewer.add_image(**volume_layer_kwargs(of_sequence(lab.make_volume(), "FLAIR")))
    review.scan.list.choose(flair)
    assert review.model_box.currentText() == "flair"
    # What a person picks for such scans stays, though it does not fit.
    review.model_box.setCurrentIndex(2)
    review.model_box.activated.emit(2)
    review.scan.list.choose(t1)
    assert review.model_box.currentText() == "other t1"  # picked, and it fits as well as any
    review.scan.list.choose(flair)
    assert review.model_box.currentText() == "other t1"
    qtbot.waitUntil(lambda: review.models.model is not None, timeout=5000)


def test_scores_are_found_again_when_their_model_is_loaded_again(
    dock: Make, lab: Any, models: Any, finish: Any, qtbot: Any
) -> None:
    models["fake"].sha256 = "ab"
    made = dock()
    made.score("slice")
    finish(made)
    session = made.session
    again = lab.Model()
    again.sha256 = "ab"
    models["fake"] = again
    made.models.refresh()
    qtbot.waitUntil(lambda: made.models.model is again, timeout=5000)
    assert made.session is session
    models["fake"] = lab.Model()
    models["fake"].sha256 = "cd"
    made.models.refresh()
    qtbot.waitUntil(lambda: made.models.model is models["fake"], timeout=5000)
    assert made.session is None
