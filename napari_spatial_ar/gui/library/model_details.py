"""What is known of one model: its state with what to do, and its card."""

from __future__ import annotations

from typing import Any

from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_spatial_ar.gui import services
from napari_spatial_ar.gui.library.card_view import CardView
from napari_spatial_ar.gui.library.weights_row import WeightsRow
from napari_spatial_ar.gui.widgets.forms import Note, heading

__all__ = ["STATES", "ModelDetails", "calibrated_on", "trained_on"]

#: What a state is called.
STATES = {
    "unchecked": "Not checked",
    "ok": "OK",
    "weights": "Needs weights",
    "version": "Other version",
    "damaged": "Damaged",
}
_CARD = "README.md"
_LONGEST = 1 << 18
_NO_CARD = "This model has no card. Its file says:"
_NOT_CALIBRATED = "nothing: no threshold is known for a share of normal tissue"
_NOTHING = "This program cannot read what the file says of the model."


class ModelDetails(QWidget):
    """Name, state and card of a model."""

    def __init__(self) -> None:
        super().__init__()
        self.title = heading()
        self.state = Note(strong=True)
        self.weights = WeightsRow()
        self.card = CardView()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.title)
        layout.addWidget(self.state)
        layout.addWidget(self.weights)
        layout.addWidget(self.card, 1)

    def show_entry(self, entry: Any) -> None:
        """Show a ``ModelEntry``; None empties the page."""
        missing = entry is not None and entry.state == "weights" and entry.header is not None
        self.weights.mean(entry.header.backbone.name if missing else "", missing=missing)
        if entry is None:
            self.title.setText("")
            self.state.say("")
            self.card.clear()
            return
        origin = "released with the package" if entry.released else "yours"
        self.title.setText(f"{entry.name} ({origin})")
        # The advice about weights is for the command line.
        hint = services.weights_hint(entry.header.backbone.name, entry.header) if missing else ""
        self.state.say(f"{STATES[entry.state]}. {hint or entry.advice}")
        self.card.show_card(entry.folder, _card(entry))


def _card(entry: Any) -> str:
    try:
        with (entry.folder / _CARD).open(encoding="utf-8", errors="replace") as file:
            return file.read(_LONGEST)
    except OSError:
        return _facts(entry.header)


def _facts(header: Any) -> str:
    if header is None:
        return _NOTHING
    rows = {
        "Modality": header.modality.upper(),
        "Method": header.method,
        "Backbone": header.backbone.name,
        "Slices / patients": trained_on(header) or "not known",
        "Calibrated on": calibrated_on(header) or _NOT_CALIBRATED,
        "File": f"format {header.format_version}",
    }
    lines = "\n".join(f"| {name} | {text} |" for name, text in rows.items())
    return f"{_NO_CARD}\n\n| | |\n| --- | --- |\n{lines}\n"


def trained_on(header: Any) -> str:
    """Say how many slices / patients a fit had; "" where the file does not say."""
    training = header.training
    if "images" not in training or "subjects" not in training:
        return ""
    return f"{training['images']} / {training['subjects']}"


def calibrated_on(header: Any) -> str:
    """Say how many patients a calibration rests on; "" without one."""
    calibration = header.calibration
    if calibration is None:
        return ""
    return "1 patient" if calibration.patients == 1 else f"{calibration.patients} patients"
