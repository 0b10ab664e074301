"""Buttons for the two ways to get missing weights."""

from __future__ import annotations

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QWidget

from napari_spatial_ar.gui.widgets.forms import Dialog, button
from napari_spatial_ar.gui.widgets.tooltips import tooltip

__all__ = ["WeightsRow"]


class WeightsRow(QWidget):
    """*Get weights...* and *Add file...*; each opens a dialog for the missing backbone.

    `model_access.weights_news` notifies every dock of new weights; the row that installed them also
    notifies its owner.
    """

    #: Name of the backbone whose weights were installed by this row.
    got = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self._backbone = ""
        self.get_button = button("Get weights...", tooltip("weights.get_weights"))
        self.add_button = button("Add file...", tooltip("weights.add_file"))
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        for made in (self.get_button, self.add_button):
            made.setAutoDefault(False)
            layout.addWidget(made)
        self.get_button.clicked.connect(self.get)
        self.add_button.clicked.connect(self.add)

    def mean(self, backbone: str, *, missing: bool = True) -> None:
        """Set the backbone; the row is hidden if its weights are not missing."""
        self._backbone = backbone
        self.setVisible(missing)

    def get(self) -> None:
        """Open the dialog that downloads weights."""
        # Imported only here, so that docks open faster.
        from napari_spatial_ar.gui.library.weights_dialog import WeightsDialog

        self._open(WeightsDialog(self._backbone, self.window()))

    def add(self) -> None:
        """Open the dialog that adds weights from this machine."""
        from napari_spatial_ar.gui.library.add_weights_dialog import AddWeightsDialog

        self._open(AddWeightsDialog(self._backbone, self.window()))

    def _open(self, dialog: Dialog) -> None:
        dialog.got.connect(self.got)
        dialog.open()
