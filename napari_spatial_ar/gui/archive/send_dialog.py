"""Sending the results of a scan to an archive: what, where to, and what became of it."""

from __future__ import annotations

from functools import partial

from napari.utils.notifications import show_info
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QDialogButtonBox,
    QHeaderView,
    QProgressBar,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_spatial_ar.archive.interface import SentFile
from napari_spatial_ar.errors import Cancelled, printable
from napari_spatial_ar.gui.archive.choice import ArchiveChoice, destination
from napari_spatial_ar.gui.archive.sending import Parcel, Progress, Sent, UnderReview, send_steps
from napari_spatial_ar.gui.jobs import Task, TaskHost, log, sentence
from napari_spatial_ar.gui.review.dicom_choice import DicomChoice
from napari_spatial_ar.gui.widgets.choosing import confirmed
from napari_spatial_ar.gui.widgets.forms import Dialog, Note, button, research_line, row
from napari_spatial_ar.gui.widgets.tooltips import tooltip
from napari_spatial_ar.review.dicom_objects import DICOM_FILES, MORE_DICOM_FILES, DicomObject

__all__ = ["SEND_OBJECTS", "SendDialog"]

#: What goes back by default.
SEND_OBJECTS: tuple[DicomObject, ...] = ("seg", "sr", "capture")
_TITLES = {
    DICOM_FILES["mask_dicom"]: "Segmentation: mask",
    DICOM_FILES["findings_dicom"]: "Segmentation: flagged regions",
    DICOM_FILES["nll_dicom"]: "Score map",
    MORE_DICOM_FILES["report_dicom"]: "Structured report",
    MORE_DICOM_FILES["outlines_dicom"]: "Outlines",
}
_ANSWERS = {"stored": "stored", "there": "there already, not sent again", "refused": "refused"}


class SendDialog(Dialog):
    """Sends the DICOM objects of a scored scan.

    Parameters
    ----------
    reviewed : UnderReview
        The scan and its results.
    parent : QWidget
        The parent window.
    """

    def __init__(self, reviewed: UnderReview, parent: QWidget):
        super().__init__(parent)
        self.setWindowTitle("Send to an archive")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setMinimumWidth(620)
        self.tasks = TaskHost(self)
        self._reviewed = reviewed
        self._task: Task | None = None
        self.choice = ArchiveChoice(self.tasks)
        self.where = Note(strong=True)
        self.objects = DicomChoice("send", SEND_OBJECTS, expanded=True)
        self.answers = QTreeWidget()
        self.progress = QProgressBar()
        self.progress.setToolTip(tooltip("send.progress"))
        self.note = Note(strong=True)
        self.cancel_button = button("Cancel", tooltip("send.cancel"))
        self.send_button = button("Send", tooltip("send.send"))
        self._lay_out()
        self.choice.changed.connect(self._on_archive)
        self.choice.message.connect(self.note.set_text)
        for box in (*self.objects.kinds.values(), self.objects.de_identify):
            box.toggled.connect(self._enable)
        self.send_button.clicked.connect(self.send)
        self.cancel_button.clicked.connect(self.cancel)
        self._on_archive()

    def _lay_out(self) -> None:
        self.answers.setColumnCount(2)
        self.answers.setHeaderLabels(["Object", "Answer of the archive"])
        self.answers.setRootIsDecorated(False)
        self.answers.setAccessibleName("Answers")
        self.answers.setToolTip(tooltip("send.answers"))
        self.answers.header().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        self.answers.hide()
        self.progress.hide()
        self.cancel_button.hide()
        self.buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Close)
        self.buttons.addButton(self.send_button, QDialogButtonBox.ButtonRole.ActionRole)
        self.buttons.rejected.connect(self.reject)
        for one in (self.cancel_button, *self.buttons.buttons()):
            one.setAutoDefault(False)
        layout = QVBoxLayout(self)
        layout.addWidget(self.choice)
        layout.addWidget(self.where)
        layout.addWidget(self.objects.fold)
        layout.addLayout(row(self.progress, self.cancel_button))
        layout.addWidget(self.note)
        layout.addWidget(self.answers, 1)
        layout.addStretch(0)
        layout.addWidget(self.buttons)
        layout.addWidget(research_line())

    def done(self, result: int) -> None:
        """Close; what is on its way is stopped."""
        self.tasks.stop_all()
        super().done(result)

    # ------------------------------------------------------------------ state

    @property
    def parcel(self) -> Parcel:
        """What is ticked."""
        research = self.objects.de_identify.isChecked()
        signed = "" if research else self.objects.signed_by.text().strip()
        return Parcel(self.objects.chosen(), research, signed)

    def _on_archive(self) -> None:
        known = self.choice.archive
        self.where.set_text("" if known is None else f"Goes to {destination(known)}")
        if known is None:
            self.note.set_text("Add an archive first: its address is known to its administrator.")
        elif self._task is None:
            self.note.set_text("")
        self._enable()

    def _enable(self, *_: object) -> None:
        idle = self._task is None
        self.choice.setEnabled(idle)
        self.objects.fold.setEnabled(idle)
        self.send_button.setEnabled(idle and bool(self.choice.name) and bool(self.objects.chosen()))
        self.progress.setVisible(not idle)
        self.cancel_button.setVisible(not idle)

    # ------------------------------------------------------------------ sending

    def send(self) -> None:
        """Ask once, then write and send."""
        archive, parcel = self.choice.archive, self.parcel
        if self._task is not None or archive is None or not parcel.objects:
            return
        if not confirmed(self, "Send", self._question(parcel)):
            return
        self.answers.clear()
        self.answers.hide()
        work = partial(send_steps, place=self.choice.name, reviewed=self._reviewed, parcel=parcel)
        task = self.tasks.start(work)
        task.progressed.connect(partial(self._on_progress, task))
        task.returned.connect(partial(self._on_sent, task, self.choice.name))
        task.failed.connect(partial(self._on_failed, task))
        task.finished.connect(partial(self._on_finished, task))
        self._task = task
        self.progress.setRange(0, 0)
        self._enable()

    def _question(self, parcel: Parcel) -> str:
        kinds = [self.objects.kinds[kind].text().lower() for kind in parcel.objects]
        named = kinds[0] if len(kinds) == 1 else f"{', '.join(kinds[:-1])} and {kinds[-1]}"
        what = named[:1].upper() + named[1:]
        name, archive = self.choice.name, self.choice.archive
        where = "" if archive is None else f" ({destination(archive)})"
        identity = (
            "They carry a pseudonym in place of the patient's identity, and other UIDs: the "
            "archive does not file them with the scan."
            if parcel.de_identify
            else "They carry the patient's identity, by which the archive files them with the scan."
        )
        return f"{what} of this scan go to {name}{where}. {identity} Send them?"

    def cancel(self) -> None:
        """Stop after the object on its way."""
        if self._task is not None:
            self._task.stop()
            self.note.set_text("Stopping...")

    def _on_progress(self, task: Task, step: Progress) -> None:
        if task is self._task and not task.stopped:
            self.note.set_text(step.line)
            self.progress.setRange(0, step.total)
            self.progress.setValue(step.done)

    def _on_failed(self, task: Task, error: Exception) -> None:
        log(error, "Sending")
        if isinstance(error, Cancelled) or task.stopped:
            self._say_stopped()
        else:
            self.note.set_text(sentence(error, "Sending"))

    def _say_stopped(self) -> None:
        self.note.set_text(
            "Stopped. What the archive has already is not sent again if you send once more."
        )

    def _on_sent(self, task: Task, name: str, sent: Sent | None) -> None:
        if sent is None:
            self._say_stopped()
            return
        for title, answers in _grouped(sent.answers).items():
            QTreeWidgetItem(self.answers, [title, _answer(answers)])
        self.answers.show()
        counts = {state: sum(one.state == state for one in sent.answers) for state in _ANSWERS}
        parts = [f"{counts['stored']} of {len(sent.answers)} objects were stored in {name}"]
        if counts["there"]:
            parts.append(f"{counts['there']} were there already")
        if counts["refused"]:
            parts.append(f"{counts['refused']} were refused")
        text = ", ".join(parts) + "."
        self.note.set_text(" ".join((text, *sent.warnings)))
        show_info(text)

    def _on_finished(self, task: Task) -> None:
        if task is self._task:
            self._task = None
            self._enable()


def _grouped(answers: tuple[SentFile, ...]) -> dict[str, list[SentFile]]:
    """Answers by what the user chose; captures together."""
    captures = sum(one.file.path.name not in _TITLES for one in answers)
    found: dict[str, list[SentFile]] = {}
    for one in answers:
        title = _TITLES.get(one.file.path.name, f"Captures ({captures})")
        found.setdefault(title, []).append(one)
    return found


def _answer(answers: list[SentFile]) -> str:
    """Say what the archive answered on some objects, with the first of its reasons."""
    states: list[str] = [one.state for one in answers]
    texts = []
    for state, text in _ANSWERS.items():
        count = states.count(state)
        if count:
            texts.append(text if count == len(states) else f"{count} {text}")
    reason = next((one.reason for one in answers if one.reason), "")
    return printable(f"{', '.join(texts)}: {reason}" if reason else ", ".join(texts))
