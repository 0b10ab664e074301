"""The worklist below the canvas: its folder, buttons, keys and report."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator, Sequence
from functools import partial
from pathlib import Path

from qtpy.QtCore import QObject, Signal
from qtpy.QtGui import QDragEnterEvent, QDropEvent
from qtpy.QtWidgets import QProgressBar, QSizePolicy, QVBoxLayout, QWidget

from napari_spatial_ar.gui import settings
from napari_spatial_ar.gui.archive.asking import ArchiveQuery
from napari_spatial_ar.gui.jobs import Task, TaskHost, Work, report
from napari_spatial_ar.gui.open_scan import ask_for_scan, dropped_paths
from napari_spatial_ar.gui.review.context import ReviewContext
from napari_spatial_ar.gui.review.export_panel import ReportMaker, ask_for_report
from napari_spatial_ar.gui.shortcuts import bind
from napari_spatial_ar.gui.widgets.forms import Note, NoWheel, button, row
from napari_spatial_ar.gui.widgets.tooltips import as_tooltip, tooltip
from napari_spatial_ar.gui.worklist.controller import WorklistController
from napari_spatial_ar.gui.worklist.listing import Listed, Thumbnail, list_steps, thumbnail_steps
from napari_spatial_ar.gui.worklist.querying import query_steps
from napari_spatial_ar.gui.worklist.runner import WorklistRunner
from napari_spatial_ar.gui.worklist.table import WorklistModel, WorklistTable
from napari_spatial_ar.imaging.reading import Found
from napari_spatial_ar.paths import worklist_dir
from napari_spatial_ar.review.report.data import REPORT_FILE, FolderReport
from napari_spatial_ar.review.report.folder import worklist_steps
from napari_spatial_ar.review.report.html import folder_page
from napari_spatial_ar.review.worklist.entries import Entry, next_unread, overview
from napari_spatial_ar.review.worklist.scoring import MaskRule
from napari_spatial_ar.review.worklist.store import WorklistStore
from napari_spatial_ar.steps import mapped, run_until_stopped

__all__ = [
    "KEYS",
    "FolderLister",
    "WorklistPanel",
    "last_listed",
    "show_worklist",
]


def last_listed() -> list[str]:
    """Files and folders that were listed last; none if they no longer exist."""
    paths = str(settings.recall("worklist", "")).split("\n")
    return paths if all(path and os.path.exists(path) for path in paths) else []


class FolderLister(QObject):
    """Fills the rows of a worklist.

    Parameters
    ----------
    rows : WorklistModel
        The rows.
    tasks : TaskHost
        Searches for scans.
    """

    #: A line for the user.
    message = Signal(str)
    #: All scans are listed.
    listed = Signal()
    #: `Entry`: one more scan of a query was retrieved.
    arrived = Signal(object)

    def __init__(self, rows: WorklistModel, tasks: TaskHost, parent: QObject):
        super().__init__(parent)
        self._rows = rows
        self._tasks = tasks
        self._task: Task | None = None
        self._query = False

    @property
    def listing(self) -> bool:
        """Whether a search for scans is in progress."""
        return self._task is not None

    def list_folder(self, paths: Sequence[str], found: Found | None = None) -> None:
        """List the contents of files and folders, replacing the list."""
        first = Path(paths[0])
        settings.remember_folder("open", first if os.path.isdir(first) else first.parent)
        settings.remember("worklist", "\n".join(paths))
        self._start(partial(list_steps, paths=list(paths), found=found), query=False)

    def list_query(self, work: Work) -> None:
        """List what a query finds in an archive, replacing the list; see `query_steps`.

        The query is not stored: it may name a patient.
        """
        settings.remember("worklist", "")
        self._start(work, query=True)

    def _start(self, work: Work, *, query: bool) -> None:
        task = self._tasks.start(work)
        task.progressed.connect(partial(self._take, task))
        task.returned.connect(partial(self._on_listed, task))
        task.failed.connect(partial(self._on_failed, task))
        self._task, self._query = task, query
        self._rows.clear()

    def draw(self, entries: Sequence[Entry]) -> None:
        """Draw thumbnails of scans, in this order."""
        known = self._rows.scans
        scans = [(entry.key, known[entry.key]) for entry in entries if entry.key in known]
        task = self._tasks.start(partial(thumbnail_steps, scans=scans))
        task.progressed.connect(self._take_picture)

    def _take(self, task: Task, step: Listed | str) -> None:
        if task is not self._task:
            return
        if isinstance(step, Listed):
            self._rows.add(step.entry, step.scan)
            if self._query:
                self.arrived.emit(step.entry)
        else:
            self.message.emit(step)

    def _take_picture(self, made: Thumbnail) -> None:
        self._rows.put_picture(*made)

    def _on_listed(self, task: Task, passed_over: int) -> None:
        if task is self._task:
            self._task = None
            more = f"{passed_over} localizers and derived series are excluded."
            if passed_over or not self._query:
                self.message.emit(more if passed_over else "")
            if not self._query:
                self.listed.emit()

    def _on_failed(self, task: Task, error: Exception) -> None:
        if task is self._task:
            self._task = None
            self.message.emit(report(error, "Searching for scans"))


def _page_steps(
    stop: threading.Event, steps: Generator[int, None, FolderReport], scans: int
) -> Generator[str, None, str | None]:
    lines = mapped(steps, lambda done: f"Report: {done} of {scans} scans...")
    made = yield from run_until_stopped(stop, lines, news=str)
    return None if made is None else folder_page(made)


#: Key: its action, in the list, in the Review dock and on the viewer's canvas.
KEYS = {"W": "next_unread", "D": "toggle_done"}


_INVITATION = "Drop a folder of scans here, or choose one."


class WorklistPanel(QWidget):
    """Table of scans with their scores, and the progress of scoring and reading.

    Parameters
    ----------
    dock : ReviewContext
        Where scans are reviewed, with the model that scores them.
    """

    def __init__(self, dock: ReviewContext):
        super().__init__()
        self._dock = dock
        self._message = ""
        self._query: ArchiveQuery | None = None
        self.tasks = TaskHost(self)
        self.rows = WorklistModel(self)
        self.table = WorklistTable(self.rows)
        self.folder = FolderLister(self.rows, self.tasks, self)
        self._store = store = WorklistStore(worklist_dir())
        self.runner = WorklistRunner(self.rows, self.tasks, store, self)
        self.controller = WorklistController(dock, self.rows, self.runner, self.tasks, store, self)
        self._build()
        self.reports = ReportMaker(self.report_button, self.tasks)
        self._connect()
        self._follow_threshold()
        self.runner.set_model(dock.models.whole)
        self._show()

    def _build(self) -> None:
        self.folder_button = button("Folder...", tooltip("worklist.folder"))
        self.archive_button = button("Archive...", tooltip("worklist.archive"))
        self.refresh_button = button("Refresh", tooltip("worklist.refresh"))
        self.refresh_button.hide()
        self.start_button = button("Start", tooltip("worklist.start"))
        self.cancel_button = button("Cancel", tooltip("worklist.cancel"))
        self.again_button = button("Retry", tooltip("worklist.retry"))
        self.next_button = button("Next unread", tooltip("worklist.next_unread"))
        self.done_button = button("Done", tooltip("worklist.done"))
        self.report_button = button(
            "Report...",
            tooltip("worklist.report"),
        )
        self.progress = QProgressBar()
        self.progress.setTextVisible(False)
        self.progress.setToolTip(tooltip("worklist.progress"))
        self.progress.setMaximumWidth(160)
        self.note = Note(_INVITATION)
        # As high as the row: if it were higher, the window would outgrow a small screen.
        self.note.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Ignored)
        top = row(self.folder_button, self.archive_button, self.refresh_button)
        for widget in (self.start_button, self.cancel_button, self.progress):
            top.addWidget(widget)
        top.addWidget(self.note, 1)
        top.addWidget(self.again_button)
        top.addWidget(self.next_button)
        top.addWidget(self.done_button)
        top.addWidget(self.report_button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(8, 4, 8, 4)
        layout.addLayout(top)
        layout.addWidget(self.table, 1)
        NoWheel(self)
        self.setAcceptDrops(True)

    def _connect(self) -> None:
        dock = self._dock
        self.folder_button.clicked.connect(self.choose_folder)
        self.archive_button.clicked.connect(lambda: dock.scan.opener.ask_archive(self.window()))
        self.refresh_button.clicked.connect(self.refresh)
        self.start_button.clicked.connect(self.start_or_pause)
        self.cancel_button.clicked.connect(self.cancel)
        self.again_button.clicked.connect(self.try_again)
        self.next_button.clicked.connect(self.next_unread)
        self.done_button.clicked.connect(self.toggle_done)
        self.table.opened.connect(self.controller.open)
        self.table.chosen.connect(self._on_chosen)
        self.rows.changed.connect(self._show)
        self.runner.changed.connect(self._show)
        self.folder.listed.connect(self._on_listed)
        self.folder.arrived.connect(self._on_arrived)
        self.report_button.clicked.connect(self.report)
        self.reports.changed.connect(self._show)
        for speaker in (self.folder, self.controller, self.reports):
            speaker.message.connect(self._update_status)
        self.runner.stopped.connect(self._update_status)
        self.controller.shown.connect(self.table.choose)
        dock.models.loaded.connect(self.runner.set_model)
        dock.threshold.threshold_changed.connect(self._follow_threshold)
        dock.threshold.settings_changed.connect(self._follow_threshold)
        dock.scorer.progressed.connect(self._on_dock_scores)
        for key, name in KEYS.items():
            bind(dock.viewer, [self, dock], key, getattr(self, name), while_visible=self)

    # ------------------------------------------------------------------ the folder

    def choose_folder(self) -> None:
        """Ask for a folder."""
        paths = ask_for_scan(self, folder=True)
        if paths:
            self.set_paths(paths)

    def set_paths(
        self, paths: Sequence[str], found: Found | None = None, *, again: bool = False
    ) -> None:
        """List the scans of files and folders, then score them.

        Parameters
        ----------
        paths : sequence of str
            Files and folders.
        found : Found, optional
            Their contents, if known already.
        again : bool
            Whether to leave the scoring paused if it was paused last.
        """
        if not again:
            settings.remember("worklist_paused", False)
        self._set_aside()
        self._query = None
        self.folder.list_folder(paths, found)

    def set_query(self, query: ArchiveQuery) -> None:
        """List the scans that a query finds in an archive, and score each once it is here."""
        settings.remember("worklist_paused", False)
        self._set_aside()
        self._query = query
        info = self._dock.models.info
        work = partial(
            query_steps,
            query=query,
            modality="" if info is None else info.modality,
            store=self._store,
            model=lambda: self.runner.model,
        )
        self.folder.list_query(work)
        self.runner.wanted = True
        self.runner.load_states()

    def refresh(self) -> None:
        """Ask the archive again."""
        if self._query is not None:
            self.set_query(self._query)

    def _set_aside(self) -> None:
        self.tasks.stop_all()
        self.controller.stop()
        self.runner.cancel()

    def _on_arrived(self, entry: Entry) -> None:
        self.folder.draw([entry])
        self.runner.refresh()

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        """Accept files and folders."""
        if dropped_paths(event.mimeData()):
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        """List what was dropped."""
        event.acceptProposedAction()
        self.set_paths(dropped_paths(event.mimeData()))

    def _on_listed(self) -> None:
        self.runner.wanted = not settings.recall("worklist_paused", False)
        self.runner.load_states()
        self.folder.draw(self.table.shown)
        self.table.setFocus()

    # ------------------------------------------------------------------ scoring

    def start_or_pause(self) -> None:
        """Start, pause or resume, and store which."""
        pause = self.runner.wanted
        settings.remember("worklist_paused", pause)
        if pause:
            self.runner.pause()
        else:
            self.runner.start()

    def cancel(self) -> None:
        """Stop scoring."""
        settings.remember("worklist_paused", True)
        self.runner.cancel()

    def try_again(self) -> None:
        """Read and score failed scans again."""
        settings.remember("worklist_paused", False)
        self.runner.try_again()
        if all(entry.key in self.rows.scans for entry in self.rows.entries):
            return
        # Files without a scan are read again.
        if self._query is not None:
            self.refresh()
        elif paths := last_listed():
            self.set_paths(paths)

    def _follow_threshold(self, *_: object) -> None:
        threshold = self._dock.threshold
        known = threshold.threshold if threshold.slider.isEnabled() else None
        self.runner.set_rule(MaskRule(known, threshold.settings))
        self.report_button.setEnabled(self.reports.busy or self._reportable)

    def _on_dock_scores(self, *_: object) -> None:
        self.runner.set_busy(True)

    # ------------------------------------------------------------------ reading

    def next_unread(self) -> None:
        """Open the next unread scan after the open one, in the order shown."""
        key = next_unread(self.table.shown, self.controller.current)
        if key is None:
            self._update_status(
                "Every scan of the list has been read." if self.rows.entries else ""
            )
        else:
            self.table.choose(key)
            self.controller.open(key)

    def toggle_done(self) -> None:
        """Mark the chosen scan as done, or undo it."""
        if self.table.current:
            self.controller.toggle_done(self.table.current)

    def _on_chosen(self, key: str) -> None:
        self.runner.open_key = key
        self.runner.refresh()

    # ------------------------------------------------------------------ report

    @property
    def _reportable(self) -> bool:
        """Whether there is anything to report."""
        scored = any(entry.state == "scored" for entry in self.rows.entries)
        return (
            scored and self.runner.plan.rule.threshold is not None and self.runner.model is not None
        )

    def report(self) -> None:
        """Ask where to, and write a report of what is on disk; or cancel the one being made."""
        if self.reports.busy:
            self.reports.cancel()
            return
        file = ask_for_report(self.window(), REPORT_FILE)
        model = self.runner.model
        if file is None or model is None or not self._reportable:
            return
        self.controller.keep_all_marks()
        listed = [(entry, self.rows.scans.get(entry.key)) for entry in self.rows.entries]
        steps = worklist_steps(
            listed,
            model,
            self._store,
            self.runner.plan.rule,
            fpr=self._dock.threshold.fpr,
        )
        self.reports.start(file, partial(_page_steps, steps=steps, scans=len(listed)))

    # ------------------------------------------------------------------ what is shown

    def _update_status(self, text: str) -> None:
        self._message = text
        self._show()

    def _show(self) -> None:
        entries, runner = self.rows.entries, self.runner
        settled = self._query is not None or not self.folder.listing
        line = self._line() if entries and settled else ""
        text = " ".join(part for part in (line, self._message) if part) or _INVITATION
        self.note.set_text(text)
        self.note.setToolTip(as_tooltip(self.note.text()))  # it may be longer than the row
        scored = [entry for entry in entries if entry.state != "failed"]
        self.progress.setRange(0, max(1, sum(entry.slices for entry in scored)))
        self.progress.setValue(sum(min(entry.done, entry.slices) for entry in scored))
        waiting = any(entry.state in ("waiting", "scoring") for entry in entries)
        at_rest = "Resume" if runner.running else "Start"
        self.start_button.setText("Pause" if runner.wanted and waiting else at_rest)
        self.start_button.setToolTip(
            tooltip("worklist.pause") if runner.wanted else tooltip("worklist.start")
        )
        self.start_button.setEnabled(waiting)
        self.cancel_button.setEnabled(runner.running)
        self.refresh_button.setVisible(self._query is not None)
        self.refresh_button.setEnabled(not self.folder.listing)
        self.again_button.setVisible(len(scored) < len(entries))
        self.next_button.setEnabled(any(entry.reading == "unread" for entry in scored))
        self.done_button.setEnabled(bool(self.table.current))
        self.report_button.setEnabled(self.reports.busy or self._reportable)

    def _line(self) -> str:
        parts = [overview(self.rows.entries)]
        seconds = self.runner.seconds_left
        if seconds and seconds > 90:
            parts.append(f"about {seconds / 60:.0f} min left")
        elif seconds:
            parts.append(f"about {seconds:.0f} s left")
        if self.runner.model is None:
            parts.append("no model is loaded")
        return f"{', '.join(parts)}."


def show_worklist(
    dock: ReviewContext,
    panel: WorklistPanel | None,
    paths: Sequence[str] = (),
    found: Found | None = None,
    *,
    query: ArchiveQuery | None = None,
) -> WorklistPanel:
    """Show a dock's worklist below the canvas, creating it if there is none (None) yet.

    It lists files and folders (``paths``), what a query finds in an archive, or what it listed
    last.
    """
    made = WorklistPanel(dock) if panel is None else panel
    frame = made.parentWidget()
    if frame is None:
        # New, or its dock widget was closed, which removes it from the window.
        frame = dock.viewer.window.add_dock_widget(made, name="Worklist", area="bottom")
        frame.show()
        made.show()
    else:
        frame.show()
        frame.raise_()
    if query is not None:
        made.set_query(query)
        return made
    again = panel is None and not paths
    if again:
        # Continue with the latest list.
        paths = last_listed()
    if paths:
        made.set_paths(paths, found, again=again)
    return made
