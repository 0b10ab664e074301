"""Dialogs that ask for a file, a folder or a yes.

Each begins in the folder that was used last for the same kind of thing, see `settings.last_folder`.
"""

from __future__ import annotations

from pathlib import Path

from qtpy.QtWidgets import QFileDialog, QMessageBox, QWidget

from napari_spatial_ar.gui import settings

__all__ = ["choose_file", "choose_folder", "choose_target", "confirmed"]


def choose_folder(parent: QWidget, title: str, kind: str, *, start: str = "") -> str:
    """Ask for a folder, at first ``start`` or that used last; "" where it was cancelled."""
    return str(QFileDialog.getExistingDirectory(parent, title, start or settings.last_folder(kind)))


def choose_file(parent: QWidget, title: str, kind: str, filters: str) -> Path | None:
    """Ask for a file to read, and remember its folder; None where it was cancelled."""
    chosen, _ = QFileDialog.getOpenFileName(parent, title, settings.last_folder(kind), filters)
    if not chosen:
        return None
    settings.remember_folder(kind, Path(chosen).parent)
    return Path(chosen)


def choose_target(
    parent: QWidget,
    title: str,
    kind: str,
    name: str,
    filters: str,
    *,
    chosen_filter: str = "",
    confirm: bool = True,
) -> tuple[str, str]:
    """Ask for a file to write.

    Parameters
    ----------
    parent : QWidget
        The window it belongs to.
    title : str
        Of the dialog.
    kind : str
        What is written: dialogs of a kind begin where the last one ended.
    name : str
        Proposed.
    filters : str
        Kinds of files as Qt writes them, with ";;" between them.
    chosen_filter : str
        The one chosen initially; the first of them by default.
    confirm : bool
        Whether Qt asks before a file is replaced. Without, the caller does.

    Returns
    -------
    (str, str)
        The path as it was typed, and the filter; "" and "" where it was cancelled.
    """
    options = () if confirm else (QFileDialog.Option.DontConfirmOverwrite,)
    start = str(Path(settings.last_folder(kind)) / name)
    chosen, used = QFileDialog.getSaveFileName(
        parent, title, start, filters, chosen_filter, *options
    )
    return (str(chosen), str(used)) if chosen else ("", "")


def confirmed(parent: QWidget, title: str, text: str) -> bool:
    """Ask for a yes; Cancel is what Enter and Escape choose."""
    cancel = QMessageBox.StandardButton.Cancel
    buttons = QMessageBox.StandardButton.Yes | cancel
    answer = QMessageBox.question(parent, title, text, buttons, cancel)
    return bool(answer == QMessageBox.StandardButton.Yes)
