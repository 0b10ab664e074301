"""The last fit that was started and not finished, remembered when napari is closed."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_spatial_ar.errors import SpatialARError
from napari_spatial_ar.gui import services
from napari_spatial_ar.gui.notify import report, warn
from napari_spatial_ar.gui.widgets.forms import Note, button, row
from napari_spatial_ar.gui.widgets.tooltips import tooltip
from napari_spatial_ar.normative.fitting.config import FitConfig

__all__ = ["UnfinishedFit"]


class UnfinishedFit(QWidget):
    """Offers to go on with a fit of an earlier session; hidden where there is none.

    The fit's recipe is kept in the user's folder, in a file with the name of the model.
    """

    def __init__(self) -> None:
        super().__init__()
        self.note = Note()
        self.go_on_button = button(
            "Go on with the unfinished fit",
            tooltip("fit.go_on_with_the_unfinished_fit"),
        )
        self.discard_button = button("Discard", tooltip("fit.discard"))
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(5)
        layout.addWidget(self.note)
        layout.addLayout(row(self.go_on_button, self.discard_button))
        self.discard_button.clicked.connect(self.forget)
        self._show([path.stem for path in self._files()])

    @staticmethod
    def _files() -> list[Path]:
        return sorted(services.unfinished_dir().glob("*.toml"))

    def _show(self, names: list[str]) -> None:
        #: Name of the model that was to be made; "" where no fit is offered.
        self.name = next(iter(names), "")
        self.note.say(f"The fit of {self.name} was not finished." if names else "")
        self.setVisible(bool(names))

    def take_up(self, form: Any) -> bool:
        """Set a `TrainingForm` as the fit says; False, having said why, where that cannot be."""
        try:
            form.set_recipe(services.read_recipe(services.unfinished_dir() / f"{self.name}.toml"))
        except SpatialARError as error:
            self.note.say(report(error, "Going on"))
            return False
        form.name.setText(self.name)
        return True

    def keep(self, name: str, config: FitConfig) -> None:
        """Remember a fit that starts, in place of the one before, and offer none meanwhile."""
        self.forget()
        try:
            services.write_recipe(services.unfinished_dir() / f"{name}.toml", config)
        except SpatialARError as error:
            warn(f"This fit will not be offered again after a restart of napari: {error}")

    def forget(self) -> None:
        """Remember none."""
        for path in self._files():
            with suppress(OSError):  # it is then offered once more, and can be discarded
                path.unlink()
        self._show([])
