"""Choice of the method, and its own options."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from magicgui.widgets import CheckBox, create_widget
from magicgui.widgets.bases import ValueWidget
from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QIcon
from qtpy.QtWidgets import QVBoxLayout, QWidget
from superqt import QCollapsible

from napari_spatial_ar.gui import model_access, settings
from napari_spatial_ar.gui.widgets.forms import Note, button, combo, fields, select_data
from napari_spatial_ar.gui.widgets.tooltips import tooltip

if TYPE_CHECKING:
    from napari_spatial_ar.normative.detectors.base import Detector, Option


__all__ = ["MethodForm"]

# Options above the others, by method: their labels, and names of their values.
_FIRST: dict[str, dict[str, tuple[str, tuple[tuple[str, object], ...]]]] = {
    "spatial-ar": {
        "dilation": ("Reach", (("Wide (dilation 4)", 4), ("Close (dilation 1)", 1))),
        "context": ("Context", (("Causal", "causal"), ("Bidirectional", "bidirectional"))),
        "epochs": ("Epochs", ()),
    }
}
_LARGEST = 10**9
_MORE, _LESS = "\u25b8 Options", "\u25be Options"


def _editor(option: Option, choices: tuple[object, ...]) -> ValueWidget[Any]:
    """Create a magicgui widget for an option."""
    default = option.default
    limits: dict[str, object] = {}
    if choices:
        limits = {"choices": choices}
    elif isinstance(default, int | float) and not isinstance(default, bool):
        ends = dict(option.limits)
        least = ends.get("at least", ends.get("above", -_LARGEST))
        most = ends.get("at most", ends.get("below", _LARGEST))
        limits = {"min": type(default)(least), "max": type(default)(most)}
    made = create_widget(
        value=default, name=option.name, options={"tooltip": option.text, **limits}
    )
    assert isinstance(made, ValueWidget)
    if isinstance(made, CheckBox):
        made.text = ""  # its label is beside it already
    if isinstance(default, float):
        digits = f"{default:f}".rstrip("0").partition(".")[2]
        made.native.setDecimals(len(digits) + 2)
        made.value = default  # which was rounded to the widget's decimals
    return made


class _Options(QWidget):
    """The options of one method; initially as they were used last."""

    def __init__(self, method: type[Detector]):
        super().__init__()
        self._name = method.name
        first = _FIRST.get(method.name, {})
        options = method.described_options()
        self._defaults = {option.name: option.default for option in options}
        self.editors = {
            option.name: _editor(option, first.get(option.name, ("", ()))[1] or option.choices)
            for option in options
        }
        for name, editor in self.editors.items():
            with suppress(ValueError):  # stored by another version with another range
                editor.value = settings.recall(self._key(name), self._defaults[name])
        self.defaults_button = button("Defaults", tooltip("training.defaults"))
        self.defaults_button.clicked.connect(self.set_defaults)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        if first:
            layout.addLayout(fields(self._pairs({k: label for k, (label, _) in first.items()})))
        rest = {k: k.replace("_", " ").capitalize() for k in self.editors if k not in first}
        inside = QWidget()
        within = QVBoxLayout(inside)
        within.setContentsMargins(0, 0, 0, 0)
        within.addLayout(fields(self._pairs(rest)))
        within.addWidget(self.defaults_button, 0, Qt.AlignmentFlag.AlignRight)
        # Arrows as text: superqt's icons do not adopt the colour of napari's theme.
        self.more = QCollapsible(_MORE, expandedIcon=QIcon(), collapsedIcon=QIcon())
        self.more.toggled.connect(self._on_more)
        self.more.toggleButton().setToolTip(tooltip("training.options"))
        self.more.addWidget(inside)
        for margins in (self.more.layout(), self.more.content().layout()):
            margins.setContentsMargins(0, 0, 0, 0)
        self.more.setVisible(bool(self.editors))
        layout.addWidget(self.more)

    def _pairs(self, labels: Mapping[str, str]) -> list[tuple[str, QWidget]]:
        return [(label, self.editors[name].native) for name, label in labels.items()]

    def _on_more(self, shown: bool) -> None:
        self.more.setText(_LESS if shown else _MORE)

    def _key(self, name: str) -> str:
        return f"training_options/{self._name}/{name}"

    def set_defaults(self) -> None:
        """Reset all options."""
        for name, default in self._defaults.items():
            self.editors[name].value = default

    def put(self, values: Mapping[str, object]) -> None:
        """Show options; one that does not fit its field is left unchanged."""
        for name, value in values.items():
            with suppress(ValueError):
                self.editors[name].value = value

    def take(self) -> dict[str, object]:
        """Return the options that differ from their defaults, and store all."""
        values = {name: editor.value for name, editor in self.editors.items()}
        for name, value in values.items():
            settings.remember(self._key(name), value)
        return {name: value for name, value in values.items() if value != self._defaults[name]}


class MethodForm(QWidget):
    """Chooses a method and sets its options; both are stored."""

    #: Another method was chosen.
    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._methods = {method.name: method for method in model_access.methods()}
        self.box = combo(tooltip("training.method"))
        for method in self._methods.values():
            self.box.addItem(method.title, method.name)
            about = tooltip(
                "training.method.listed", summary=method.summary, reference=method.reference
            )
            self.box.setItemData(self.box.count() - 1, about, Qt.ItemDataRole.ToolTipRole)
        self.note = Note()
        self.pages = {name: _Options(method) for name, method in self._methods.items()}
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(5)
        layout.addLayout(fields([("Method", self.box)]))
        layout.addWidget(self.note)
        for page in self.pages.values():
            layout.addWidget(page)
        select_data(self.box, settings.recall("training_method", ""))
        self.box.currentIndexChanged.connect(self._on_method)
        self._on_method()

    @property
    def method(self) -> type[Detector]:
        """The chosen method, a subclass of ``Detector``."""
        return self._methods[self.box.currentData()]

    @property
    def is_default(self) -> bool:
        """Whether it is the default method of a fit."""
        return bool(self.box.currentIndex() == 0)

    def _on_method(self) -> None:
        method = self.method
        for name, page in self.pages.items():
            page.setVisible(name == method.name)
        self.note.set_text(f"Measures {method.summary}, in {method.unit}. Cost: {method.cost}.")
        self.note.setToolTip(tooltip("training.method.chosen", reference=method.reference))
        self.changed.emit()

    def set_method(self, name: str, options: Mapping[str, object]) -> None:
        """Choose a method and show its options."""
        select_data(self.box, name)
        self.pages[name].put(options)

    def arguments(self) -> dict[str, Any]:
        """Return the settings of a `FitConfig` for learning; store them."""
        name = self.method.name
        settings.remember("training_method", name)
        return {"method": name, "options": self.pages[name].take()}
