"""Going through a folder of scans, with real drops, clicks and keys."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import QMimeData, QPointF, Qt, QUrl
from qtpy.QtGui import QDropEvent
from qtpy.QtWidgets import QFileDialog

from napari_spatial_ar.errors import InputError, InUseError, WeightsError
from napari_spatial_ar.gui import model_access, settings
from napari_spatial_ar.gui.layers import KEY
from napari_spatial_ar.gui.review.dock import ReviewDock
from napari_spatial_ar.gui.review.scored_layer import from_slice_outward
from napari_spatial_ar.gui.viewer import slice_in_view
from napari_spatial_ar.gui.worklist import panel as worklist_panel
from napari_spatial_ar.gui.worklist import runner
from napari_spatial_ar.gui.worklist.panel import WorklistPanel, show_worklist
from napari_spatial_ar.gui.worklist.table import COLUMNS
from napari_spatial_ar.imaging.nifti import write_nifti
from napari_spatial_ar.imaging.reading import find_scans
from napari_spatial_ar.review.worklist.store import WorklistStore, scan_key
from tests.page import Page

LEFT = Qt.MouseButton.LeftButton
NAMES = [column.name for column in COLUMNS]
SLICES = 12

Make = Callable[..., ReviewDock]


@pytest.fixture(autouse=True)
def own_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(worklist_panel, "worklist_dir", lambda: tmp_path / "kept")


@pytest.fixture
def folder(tmp_path: Path, lab: Any) -> Path:
    """Three scans, the second the brightest."""
    made = tmp_path / "scans"
    made.mkdir()
    for name, bright in (("a", 60), ("b", 120), ("c", 90)):
        volume = lab.make_volume()
        volume.data[lab.lesion] = bright
        write_nifti(made / f"{name}.nii.gz", volume.data, volume.geometry)
    return made


def drop(widget: Any, path: Path) -> None:
    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(str(path))])
    event = QDropEvent(
        QPointF(9, 9),
        Qt.DropAction.CopyAction,
        mime,
        LEFT,
        Qt.KeyboardModifier.NoModifier,
    )
    widget.dropEvent(event)


def shown(panel: WorklistPanel, column: str) -> list[str]:
    order = panel.table.order
    return [order.index(row, NAMES.index(column)).data() for row in range(order.rowCount())]


def states(panel: WorklistPanel) -> set[str]:
    return {entry.state for entry in panel.rows.entries}


@pytest.fixture
def wait(qtbot: Any) -> Callable[[Callable[[], bool]], None]:
    def until(true: Callable[[], bool]) -> None:
        qtbot.waitUntil(true, timeout=15_000)

    return until


def all_scored(panel: WorklistPanel) -> Callable[[], bool]:
    return lambda: len(panel.rows.entries) == 3 and states(panel) == {"scored"}


def layers_of(dock: ReviewDock, kind: str) -> list[Any]:
    return [x for x in dock.viewer.layers if x.metadata.get(KEY, {}).get("kind") == kind]


def settled(dock: ReviewDock, panel: WorklistPanel) -> Callable[[], bool]:
    return lambda: (
        not panel.controller.busy
        and not dock.running
        and dock.masks.settled
        and len(layers_of(dock, "nll")) == 1
        and not any(opened.saving for opened in panel.controller.opened)
    )


def open_row(qtbot: Any, panel: WorklistPanel, row: int) -> None:
    """Choose a row and press Enter."""
    panel.table.selectRow(row)
    qtbot.keyClick(panel.table, Qt.Key.Key_Return)


def press(made: ReviewDock, qtbot: Any, key: Any) -> None:
    # A window manager would make the window active; the tests' display has none.
    table = made.worklist.table
    made.window().activateWindow()
    table.setFocus()
    qtbot.waitUntil(table.hasFocus)
    qtbot.keyClick(table, key)


def test_a_folder_is_scored_read_and_taken_up_again_after_a_restart(
    dock: Make, folder: Path, models: Any, qtbot: Any, wait: Any
) -> None:
    made = dock(scan=False, window=True)
    qtbot.mouseClick(made.scan.worklist_button, LEFT)
    panel = made.worklist
    drop(panel, folder)
    wait(all_scored(panel))
    # Highest score first, with a picture each.
    assert shown(panel, "description") == ["b.nii.gz", "c.nii.gz", "a.nii.gz"]
    assert shown(panel, "score") == ["2.2", "1.9", "1.6"]
    assert shown(panel, "findings") == ["1", "1", "1"]
    assert set(shown(panel, "reading")) == {"unread"}
    wait(lambda: all(panel.rows.has_picture(entry.key) for entry in panel.rows.entries))
    assert "3 of 3 scored, 0 done, 3 unread" in panel.note.text()
    assert len(models["fake"].asked) == 3 * SLICES

    open_row(qtbot, panel, 0)
    wait(settled(made, panel))
    (layer,), (heatmap,) = layers_of(made, "scan"), layers_of(made, "nll")
    assert layer is made.scan.layer
    assert heatmap.data.max() == pytest.approx(2.2)
    assert len(layers_of(made, "mask")) == 1
    assert len(models["fake"].asked) == 3 * SLICES  # from disk
    assert shown(panel, "reading") == ["seen", "unread", "unread"]
    made.findings.table.selectRow(0)
    made.findings.keep()
    label = made.session.listed.items[0].finding.label
    made.masks.decide(label, comment="looks old")
    qtbot.mouseClick(panel.done_button, LEFT)
    assert shown(panel, "reading") == ["done", "unread", "unread"]

    # The next takes its place.
    qtbot.mouseClick(panel.next_button, LEFT)
    assert panel.controller.busy
    wait(settled(made, panel))
    assert made.scan.layer is not layer
    assert layers_of(made, "scan") == [made.scan.layer]
    assert panel.rows.entry(panel.controller.current).description == "c.nii.gz"

    # A new panel on the same state is the list after a restart.
    made.viewer.window.remove_dock_widget(panel)
    panel.deleteLater()
    made.viewer.layers.clear()
    again = show_worklist(made, None)
    wait(all_scored(again))
    assert shown(again, "reading") == ["done", "seen", "unread"]
    assert shown(again, "score") == ["2.2", "1.9", "1.6"]
    open_row(qtbot, again, 0)
    wait(settled(made, again))
    (item,) = made.session.listed.items
    assert (item.status, item.comment) == ("keep", "looks old")
    assert made.session.counts.total > 0
    assert made.threshold._counts is made.session.counts
    assert len(models["fake"].asked) == 3 * SLICES


def test_one_that_cannot_be_read_says_why_and_the_others_go_on(
    dock: Make, folder: Path, qtbot: Any, wait: Any
) -> None:
    whole = (folder / "a.nii.gz").read_bytes()
    (folder / "a.nii.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "d.nii").write_bytes(b"no scan")
    made = dock(scan=False, window=True)
    made.show_worklist([str(folder)])
    panel = made.worklist
    wait(lambda: len(panel.rows.entries) == 4 and states(panel) == {"scored", "failed"})
    texts = dict(zip(shown(panel, "description"), shown(panel, "state"), strict=True))
    assert texts["b.nii.gz"] == texts["c.nii.gz"] == "scored"
    assert "cut short" in texts["a.nii.gz"] or "damaged" in texts["a.nii.gz"]
    assert texts["d.nii"].startswith("d.nii: ")
    assert str(folder) not in "".join(texts.values())
    assert shown(panel, "description")[:2] == ["b.nii.gz", "c.nii.gz"]  # failed ones last
    panel.table.sortByColumn(NAMES.index("score"), Qt.SortOrder.AscendingOrder)
    assert shown(panel, "description")[:2] == ["c.nii.gz", "b.nii.gz"]  # either way
    assert "2 failed" in panel.note.text()


def test_pause_and_a_new_start_go_on_where_it_was(
    dock: Make, folder: Path, models: Any, qtbot: Any, wait: Any
) -> None:
    model = models["fake"]
    model.gate = threading.Semaphore(5)
    made = dock(scan=False, window=True)
    made.show_worklist([str(folder)])
    panel = made.worklist
    wait(lambda: sum(entry.done for entry in panel.rows.entries) == 5)
    assert "scoring, 5 of 12" in shown(panel, "state")
    qtbot.mouseClick(panel.start_button, LEFT)
    assert panel.start_button.text() == "Resume"
    model.gate.release()
    wait(lambda: sum(entry.done for entry in panel.rows.entries) == 6)
    model.gate.release(100)
    qtbot.mouseClick(panel.cancel_button, LEFT)
    wait(lambda: not panel.runner.running)
    assert states(panel) == {"waiting"}
    begun = sum(entry.done for entry in panel.rows.entries)
    assert begun < SLICES
    assert settings.recall("worklist_paused", False)
    qtbot.mouseClick(panel.start_button, LEFT)
    wait(all_scored(panel))
    assert len(model.asked) == 3 * SLICES


def test_the_scan_in_the_viewer_is_scored_first_from_the_slice_in_view(
    dock: Make, folder: Path, models: Any, qtbot: Any, wait: Any
) -> None:
    model = models["fake"]
    model.gate = threading.Semaphore(2)
    made = dock(scan=False, window=True)
    made.show_worklist([str(folder)])
    panel = made.worklist
    wait(lambda: sum(entry.done for entry in panel.rows.entries) == 2)
    # The very scan that the worker has at hand: it is handed over with what is scored of it.
    at_hand = panel.runner.plan.at_work
    panel.controller.open(at_hand)
    model.gate.release(3)
    wait(lambda: len(model.asked) == 5)
    # From the middle as far as the worker came, then from the slice in view.
    here = slice_in_view(made.viewer, made.scan.layer, made.session.geometry)
    assert model.asked[:3] == [6, 5, 7]
    assert (
        model.asked[3:] == [i for i in from_slice_outward(SLICES, here) if i not in (5, 6, 7)][:2]
    )
    assert panel.runner.plan.at_work == ""
    assert {entry.done for entry in panel.rows.entries if entry.key != at_hand} == {0}
    model.gate.release(100)
    wait(all_scored(panel))
    wait(settled(made, panel))
    assert len(model.asked) == 3 * SLICES
    assert np.isfinite(made.session.score.image_scores).all()


def test_what_concerns_every_scan_is_said_once(
    dock: Make, folder: Path, models: Any, wait: Any, notes: list[str]
) -> None:
    models["fake"].error = WeightsError("the weights are missing")
    made = dock(scan=False, window=True)
    made.show_worklist([str(folder)])
    panel = made.worklist
    wait(lambda: "weights are missing" in panel.note.text() and not panel.runner.running)
    assert states(panel) == {"waiting"}
    assert len(notes) == 1
    assert panel.start_button.text() == "Start"


def test_a_dropped_folder_of_several_scans_offers_the_worklist(
    dock: Make, folder: Path, qtbot: Any, wait: Any
) -> None:
    made = dock(scan=False, window=True)
    drop(made, folder)
    wait(lambda: made.scan.opener.chooser is not None)
    qtbot.mouseClick(made.scan.opener.chooser.worklist_button, LEFT)
    wait(lambda: made.worklist is not None)
    wait(all_scored(made.worklist))
    assert layers_of(made, "scan") == []
    assert made.scan.opener.chooser is None


def test_a_scan_taken_out_by_hand_and_a_closed_list_are_no_end(
    dock: Make, folder: Path, models: Any, qtbot: Any, wait: Any
) -> None:
    made = dock(scan=False, show=True)
    made.show_worklist([str(folder)])
    panel = made.worklist
    wait(all_scored(panel))
    key = panel.table.shown[0].key
    press(made, qtbot, Qt.Key.Key_W)
    wait(settled(made, panel))
    assert panel.runner.plan.held == {key}
    press(made, qtbot, Qt.Key.Key_D)
    assert shown(panel, "reading") == ["done", "unread", "unread"]
    press(made, qtbot, Qt.Key.Key_D)
    assert shown(panel, "reading") == ["seen", "unread", "unread"]
    made.viewer.layers.remove(made.scan.layer)
    wait(lambda: not panel.runner.plan.held)
    assert panel.controller.current == ""
    assert layers_of(made, "nll") == []
    made.viewer.window.remove_dock_widget(panel)  # what its x does
    qtbot.mouseClick(made.scan.worklist_button, LEFT)
    assert made.worklist is panel
    wait(panel.isVisible)
    panel.controller.open(key)
    wait(settled(made, panel))
    assert panel.controller.current == key
    assert len(models["fake"].asked) == 3 * SLICES


def test_another_model_has_its_own_scores(
    dock: Make, folder: Path, models: Any, lab: Any, qtbot: Any, wait: Any
) -> None:
    models["other"] = lab.Model(name="other", calibrated=False)
    made = dock(scan=False, window=True)
    made.show_worklist([str(folder)])
    panel = made.worklist
    wait(all_scored(panel))
    assert len(models["other"].asked) == 0
    made.models.choose("other")
    wait(lambda: len(models["other"].asked) == 3 * SLICES)
    wait(all_scored(panel))
    made.models.choose("fake")
    wait(lambda: panel.runner.model is models["fake"])
    wait(all_scored(panel))
    assert len(models["fake"].asked) == 3 * SLICES


def test_what_failed_says_so_after_a_restart_and_is_tried_again_on_request(
    dock: Make,
    folder: Path,
    tmp_path: Path,
    monkeypatch: Any,
    qtbot: Any,
    wait: Any,
    models: dict[str, Any],
) -> None:
    (folder / "broken.nii.gz").write_bytes((folder / "a.nii.gz").read_bytes()[:200])
    models["fake"].error = InputError("the slice is damaged", path="/data/DOE_JANE.nii")
    made = dock(scan=False, window=True)
    made.show_worklist([str(folder)])
    panel = made.worklist
    assert panel.again_button.isHidden()
    wait(lambda: len(panel.rows.entries) == 4 and states(panel) == {"failed"})
    assert not panel.again_button.isHidden()
    kept = [path.read_text() for path in (tmp_path / "kept").rglob("*.failed.json")]
    assert len(kept) == 4
    assert "DOE" not in "".join(kept)

    def restart() -> WorklistPanel:
        # As of a new session: only what is on disk is known.
        panel.runner.cancel()
        wait(lambda: not panel.runner.running)
        again = WorklistPanel(made)
        qtbot.addWidget(again)
        again.set_paths([str(folder)])
        return again

    models["fake"].error = None
    again = restart()
    wait(lambda: len(again.rows.entries) == 4 and states(again) == {"failed"})
    assert shown(again, "state").count("The slice is damaged.") == 3
    assert models["fake"].asked == []
    shutil.copy(folder / "a.nii.gz", tmp_path / "whole.nii.gz")
    os.replace(tmp_path / "whole.nii.gz", folder / "broken.nii.gz")
    qtbot.mouseClick(again.again_button, LEFT)
    wait(lambda: len(again.rows.entries) == 4 and states(again) == {"scored"})
    assert again.again_button.isHidden()
    again.runner.cancel()
    wait(lambda: not again.runner.running)


def test_a_scan_that_another_window_has_stays_with_it(
    dock: Make, folder: Path, tmp_path: Path, qtbot: Any, wait: Any, models: dict[str, Any]
) -> None:
    made = dock(scan=False, window=True)
    made.show_worklist([str(folder)])
    panel = made.worklist
    wait(all_scored(panel))
    entry = panel.table.shown[0]
    other = WorklistStore(tmp_path / "kept")
    with other.hold(entry.key):
        open_row(qtbot, panel, 0)
        wait(lambda: not panel.controller.busy)
        assert "in another window. Close it there first." in panel.note.text()
        assert not layers_of(made, "scan")
        assert panel.rows.entry(entry.key) == entry
        other.save_reading(entry.key, "done")
    open_row(qtbot, panel, 0)
    wait(settled(made, panel))
    # What was done there is not undone here.
    assert panel.rows.entry(entry.key).reading == "done"
    assert other.record(entry.key, "").reading == "done"
    with pytest.raises(InUseError, match="in another window"):
        other.hold(entry.key).__enter__()
    open_row(qtbot, panel, 1)
    wait(settled(made, panel))
    with other.hold(entry.key):
        pass  # the first one was let go of


def test_a_running_list_waits_for_what_another_window_has(
    dock: Make, folder: Path, tmp_path: Path, wait: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(runner, "_ELSEWHERE_SECONDS", 0.05)
    other = WorklistStore(tmp_path / "kept")
    key = scan_key(find_scans(folder / "b.nii.gz").scans[0])
    made = dock(scan=False, window=True)
    with other.hold(key):
        made.show_worklist([str(folder)])
        panel = made.worklist
        wait(lambda: [entry.state for entry in panel.rows.entries].count("scored") == 2)
        assert panel.rows.entry(key).state == "waiting"
        assert not list((tmp_path / "kept" / key).glob("[!.]*"))
    wait(all_scored(panel))


def test_a_running_list_tries_again_what_it_failed_at(
    dock: Make, folder: Path, wait: Any, monkeypatch: Any, models: dict[str, Any]
) -> None:
    model = models["fake"]
    model.gate = threading.Semaphore(0)
    whole, calls = model.iter_volume, []

    def fails_at_first(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 1:
            raise InputError("the slice is damaged")
        return whole(*arguments)

    monkeypatch.setattr(model, "iter_volume", fails_at_first)
    made = dock(scan=False, window=True)
    made.show_worklist([str(folder)])
    panel = made.worklist
    wait(lambda: states(panel) == {"failed", "scoring", "waiting"})
    panel.try_again()
    model.gate.release(200)
    wait(all_scored(panel))


def test_the_list_is_scored_in_the_way_that_is_settled_for_the_model(
    dock: Make, folder: Path, monkeypatch: Any, wait: Any, models: dict[str, Any]
) -> None:
    settled: list[tuple[Any, int]] = []
    model = models["fake"]
    monkeypatch.setattr(
        model_access, "choose_engine", lambda m: settled.append((m, len(model.asked)))
    )
    made = dock(scan=False, window=True)
    made.show_worklist([str(folder)])
    wait(all_scored(made.worklist))
    assert settled == [(model, 0)]


def test_a_report_of_all_scans_has_what_was_said_of_them(
    dock: Make, folder: Path, tmp_path: Path, monkeypatch: Any, qtbot: Any, wait: Any
) -> None:
    (folder / "DOE_JANE.nii.gz").write_bytes((folder / "a.nii.gz").read_bytes()[:200])
    made = dock(scan=False, window=True)
    made.show_worklist([str(folder)])
    panel = made.worklist
    assert not panel.report_button.isEnabled()
    wait(lambda: len(panel.rows.entries) == 4 and states(panel) == {"scored", "failed"})
    open_row(qtbot, panel, 0)
    wait(settled(made, panel))
    made.masks.decide(made.session.listed.items[0].finding.label, status="keep", comment="old")
    out = tmp_path / "all.html"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *a: (str(out), a[3]))
    qtbot.mouseClick(panel.report_button, LEFT)
    assert panel.report_button.text() == "Cancel report"
    wait(lambda: not panel.reports.busy and out.is_file())
    assert panel.report_button.text() == "Report..."
    page = Page(out.read_text(encoding="utf-8"))
    page.check_alone()
    (head,) = [at for at, row in enumerate(page.rows) if row[:2] == ["No.", "Image"]]
    rows = page.rows[head + 1 : head + 5]
    assert [row[3] for row in rows[:3]] == ["2.2", "1.9", "1.6"]
    assert [row[5] for row in rows[:3]] == ["1 (1 kept)", "1 (1 not read)", "1 (1 not read)"]
    assert [row[-1] for row in rows] == ["seen", "unread", "unread", "unread"]
    assert "cut short" in rows[3][3]
    assert "old" in page.text
    assert not re.search(r"DOE|[abc]\.nii", page.text)


def test_a_long_line_makes_the_worklist_no_taller(dock: Make, tmp_path: Path) -> None:
    made = dock(show=True)
    made.show_worklist()
    panel = made.worklist
    assert panel is not None
    before = panel.minimumSizeHint().height()
    panel._update_status("2 of 4 scored, 1 failed, 1 done, 2 unread, about 3 min left. " * 4)
    assert panel.layout().totalMinimumSize().height() == before
    assert "2 unread, about 3 min left" in panel.note.toolTip()
    # With napari's own docks (layer controls of an image, layer list), menu and status bar.
    assert before <= 125
    window = panel.window()
    window.resize(1366, 768)
    assert window.minimumSizeHint().height() <= 768
    assert window.minimumSizeHint().width() <= 1366
