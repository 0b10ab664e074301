"""The button beside a list of models that opens the dialog of models."""

from __future__ import annotations

from qtpy.QtWidgets import QMainWindow, QPushButton, QWidget

from napari_spatial_ar.gui.widgets.tooltips import tooltip

__all__ = ["LibraryButton"]


class LibraryButton(QPushButton):
    """Opens the dialog of models, one for each window."""

    def __init__(self, text: str = "Manage..."):
        super().__init__(text)
        self.setToolTip(tooltip("docks.models"))
        self.clicked.connect(self.open)

    def open(self) -> None:
        """Show the dialog, or bring the one that is open to the front."""
        # Not before: docks open faster without it.
        from napari_spatial_ar.gui.library.dialog import LibraryDialog

        window = _main_window(self)
        dialog = window.findChild(LibraryDialog) or LibraryDialog(window)
        dialog.show()
        dialog.raise_()
        dialog.activateWindow()


def _main_window(widget: QWidget) -> QWidget:
    """Window that a dock belongs to, also where it floats; the widget's own outside of one."""
    parent = widget.parentWidget()
    while parent is not None and not isinstance(parent, QMainWindow):
        parent = parent.parentWidget()
    return parent or widget.window()
