"""Adding or changing a saved archive: its address, how it is reached, and its credentials."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QDialogButtonBox, QLineEdit, QVBoxLayout, QWidget

from napari_spatial_ar.archive.access import Credentials
from napari_spatial_ar.archive.address import is_loopback
from napari_spatial_ar.archive.saved import SavedArchive
from napari_spatial_ar.errors import InputError, NameTakenError
from napari_spatial_ar.gui.archive.asking import echo_steps, saving_steps
from napari_spatial_ar.gui.jobs import Task, TaskHost, Work, log, sentence
from napari_spatial_ar.gui.widgets.choosing import choose_file
from napari_spatial_ar.gui.widgets.forms import (
    Dialog,
    Fold,
    Note,
    button,
    fields,
    research_line,
    row,
    stack,
)
from napari_spatial_ar.gui.widgets.tooltips import tooltip

__all__ = ["EditArchiveDialog"]

_PEM = "Certificates (*.pem *.crt *.cer *.key);;All files (*)"
_FORMS = "https://HOST/dicom-web or dicom://AE-TITLE@HOST:PORT"
_UNENCRYPTED = "These credentials would travel unencrypted: ask for an https:// address."


class EditArchiveDialog(Dialog):
    """Name, address and access of an archive.

    Secrets go to the system's keyring and are not shown again: empty fields keep those that are
    there.

    Parameters
    ----------
    parent : QWidget
        The parent window.
    name : str
        Name under which it is saved; "" for a new one.
    archive : SavedArchive, optional
        What is saved.
    """

    #: Name of the archive that was saved.
    saved = Signal(str)

    def __init__(self, parent: QWidget, name: str = "", archive: SavedArchive | None = None):
        super().__init__(parent)
        self.setWindowTitle("Change archive" if name else "Add archive")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setMinimumWidth(560)
        self.tasks = TaskHost(self)
        self._task: Task | None = None
        self._before, self._known = name, archive
        known = archive or SavedArchive(url="")
        self.name = self._field(name, tooltip("saved.name"), "Such as Clinic")
        self.url = self._field(known.url, tooltip("saved.address"), _FORMS)
        self.aet = self._field(known.aet, tooltip("saved.own_title"))
        self.user = self._field("", tooltip("saved.user"))
        self.password = self._secret(tooltip("saved.password"))
        self.token = self._secret(tooltip("saved.token"))
        self.ca_file = self._field(known.ca_file or "", tooltip("saved.authority"))
        self.certificate = self._field(known.certificate or "", tooltip("saved.certificate"))
        self.key = self._field(known.key or "", tooltip("saved.key"))
        self.note = Note(strong=True)
        self._lay_out()
        for one in (self.name, self.url, self.user, self.token):
            one.textChanged.connect(self._enable)
        self._enable()

    @staticmethod
    def _field(text: str, tip: str, placeholder: str = "") -> QLineEdit:
        made = QLineEdit(text)
        made.setToolTip(tip)
        made.setPlaceholderText(placeholder)
        return made

    def _secret(self, tip: str) -> QLineEdit:
        made = self._field("", tip, "Unchanged" if self._before else "")
        made.setEchoMode(QLineEdit.EchoMode.Password)
        return made

    def _lay_out(self) -> None:
        self.login = stack(
            [("User", self.user), ("Password", self.password), ("or token", self.token)]
        )
        files = [("Authority", self.ca_file), ("Certificate", self.certificate), ("Key", self.key)]
        self.tls = Fold(
            "Certificates",
            tooltip("saved.certificates"),
            stack([(title, self._with_button(field)) for title, field in files]),
            expanded=any(field.text() for _, field in files),
        )
        self.test_button = button("Test", tooltip("archive.test"))
        self.save_button = button("Save", tooltip("saved.save"))
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Cancel)
        buttons.addButton(self.test_button, QDialogButtonBox.ButtonRole.ActionRole)
        buttons.addButton(self.save_button, QDialogButtonBox.ButtonRole.ActionRole)
        buttons.rejected.connect(self.reject)
        self.test_button.clicked.connect(self.test)
        self.save_button.clicked.connect(self.save)
        self.test_button.setAutoDefault(False)
        self.save_button.setDefault(True)
        layout = QVBoxLayout(self)
        layout.addLayout(
            fields([("Name", self.name), ("Address", self.url), ("Our AE title", self.aet)])
        )
        layout.addWidget(self.login)
        layout.addWidget(self.tls)
        layout.addWidget(self.note)
        layout.addStretch(1)
        layout.addWidget(buttons)
        layout.addWidget(research_line())

    def _with_button(self, field: QLineEdit) -> QWidget:
        choose = button("File...", tooltip("saved.choose_file"))
        choose.setAutoDefault(False)
        choose.clicked.connect(partial(self._choose, field))
        made = QWidget()
        made.setLayout(row(field, choose))
        made.setToolTip(field.toolTip())
        return made

    def _choose(self, field: QLineEdit) -> None:
        path = choose_file(self, "File of certificates", "certificates", _PEM)
        if path is not None:
            field.setText(str(path))

    def _enable(self, *_: object) -> None:
        named = bool(self.name.text().strip() and self.url.text().strip())
        self.save_button.setEnabled(named and self._task is None)
        self.test_button.setEnabled(bool(self.url.text().strip()) and self._task is None)
        web = not self.url.text().strip().lower().startswith("dicom")
        self.login.setVisible(web)
        insecure = False
        if web and (self.user.text() or self.token.text()):
            try:
                address = self.archive().address
                insecure = not address.tls and not is_loopback(address.host)
            except InputError:
                pass
        if insecure or self.note.text() == _UNENCRYPTED:
            self.note.set_text(_UNENCRYPTED if insecure else "")

    # ------------------------------------------------------------------ values

    def archive(self) -> SavedArchive:
        """Return the archive as it is to be saved."""
        paths = (self.ca_file, self.certificate, self.key)
        authority, certificate, key = (field.text().strip() or None for field in paths)
        return (self._known or SavedArchive(url="")).model_copy(
            update={
                "url": self.url.text().strip(),
                "aet": self.aet.text().strip(),
                "ca_file": authority,
                "certificate": certificate,
                "key": key,
            }
        )

    def credentials(self) -> Credentials | None:
        """Return what was typed (`InputError` if it is not valid); None if nothing was."""
        if self.login.isHidden():
            return None
        user, password = self.user.text().strip(), self.password.text()
        token = self.token.text().strip()
        if token:
            return Credentials(token=token)
        if password and not user:
            raise InputError("a password needs the user's name")
        return Credentials(user=user, password=password) if user else None

    # ------------------------------------------------------------------ actions

    def test(self) -> None:
        """Check that it answers, with what was typed."""
        try:
            archive, credentials = self.archive(), self.credentials()
            place = (archive.address, replace(archive.access(), credentials=credentials))
        except InputError as error:
            self.note.set_text(sentence(error, "Asking the archive"))
            return
        task = self._run(partial(echo_steps, place=place), "Asking the archive")
        task.returned.connect(lambda url: self.note.set_text(f"{url} answers."))

    def save(self) -> None:
        """Save it, and what was typed as credentials."""
        try:
            archive, credentials = self.archive(), self.credentials()
        except InputError as error:
            self.note.set_text(sentence(error, "Saving the archive"))
            return
        work = partial(
            saving_steps,
            name=self.name.text().strip(),
            archive=archive,
            credentials=credentials,
            replaced=self._before,
        )
        self._run(work, "Saving the archive").returned.connect(self._on_saved)

    def _run(self, work: Work, doing: str) -> Task:
        self.note.set_text(f"{doing}...")
        self._task = task = self.tasks.start(work)
        task.failed.connect(partial(self._on_failed, doing=doing))
        task.finished.connect(self._on_finished)
        self._enable()
        return task

    def _on_saved(self, name: str) -> None:
        self.saved.emit(name)
        self.accept()

    def _on_failed(self, error: Exception, doing: str) -> None:
        log(error, doing)
        if isinstance(error, NameTakenError):
            # Its own advice is for the command line.
            error = NameTakenError(error.what, fix="Choose another name")
        self.note.set_text(sentence(error, doing))

    def _on_finished(self) -> None:
        self._task = None
        self._enable()

    def done(self, result: int) -> None:
        """Close; a request that has not been answered is given up."""
        self.tasks.stop_all()
        super().done(result)
