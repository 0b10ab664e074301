"""The list of models, and the one that is loaded."""

from __future__ import annotations

import threading
from collections.abc import Generator
from typing import Any

from qtpy.QtCore import QObject, Qt, Signal
from qtpy.QtWidgets import QComboBox

from napari_spatial_ar.errors import MissingWeightsError, SpatialARError
from napari_spatial_ar.gui import services, settings
from napari_spatial_ar.gui.display_windows import model_sees
from napari_spatial_ar.gui.jobs import TaskHost
from napari_spatial_ar.gui.layers import import_ahead
from napari_spatial_ar.gui.library.weights_row import WeightsRow
from napari_spatial_ar.gui.notify import report, sentence
from napari_spatial_ar.gui.widgets.forms import Note

__all__ = ["ModelList"]

_TOOLTIP = Qt.ItemDataRole.ToolTipRole
_NONE = "There is no model yet. Fit one in the Training dock, or take one in by Manage... > Import."


class ModelList(QObject):
    """Keeps a combo box of models, and loads the chosen one in a worker.

    Parameters
    ----------
    box, note, weights : QComboBox, Note, WeightsRow
        What it fills: the list, what there is to know of the chosen model, and the ways to its
        backbone's weights where they are missing.
    tasks : TaskHost
        Where models are loaded.
    """

    #: A model is loaded and ready.
    loaded = Signal(object)
    #: Another model is being loaded; none is ready until it is.
    left = Signal()
    #: The chosen model cannot be loaded; the reason stands in the note.
    unusable = Signal()

    def __init__(self, box: QComboBox, note: Note, weights: WeightsRow, tasks: TaskHost):
        super().__init__(box)
        self._box = box
        self._note = note
        self._weights = weights
        self._tasks = tasks
        self.model: Any = None
        self._wanted: Any = None
        services.model_news.renamed.connect(self._on_renamed)
        services.model_news.changed.connect(self.refresh)
        services.weights_news.changed.connect(self._on_index)
        box.currentIndexChanged.connect(self._on_index)
        self.refresh()

    @property
    def info(self) -> Any:
        """`ModelInfo` of the chosen model, or None."""
        return self._box.currentData()

    def choose(self, name: str) -> bool:
        """Choose a model by name; False where there is none of that name."""
        index = self._box.findText(name)
        if index >= 0:
            self._box.setCurrentIndex(index)
        return index >= 0

    def refresh(self) -> None:
        """Look for models again, keeping the choice."""
        name = self._box.currentText() if self.info is not None else settings.recall("model", "")
        try:
            infos = services.list_models()
        except SpatialARError as error:
            infos = []
            self._note.say(sentence(error, "Looking for models"))
        self._box.blockSignals(True)
        self._box.clear()
        for info in infos:
            self._box.addItem(info.name, info)
            self._box.setItemData(
                self._box.count() - 1, f"{info.modality}, {info.backbone}: {info.summary}", _TOOLTIP
            )
        if not infos:
            self._box.addItem("No model", None)
        self._box.setEnabled(bool(infos))
        self._box.setCurrentIndex(max(0, self._box.findText(name)))
        self._box.blockSignals(False)
        self._on_index()

    def _on_renamed(self, name: str, new_name: str) -> None:
        index = self._box.findText(name)
        if index >= 0:
            self._box.setItemText(index, new_name)

    def _on_index(self, *_: object) -> None:
        info = self.info
        if info is None:
            self.model = self._wanted = None
            self._note.say(_NONE)
            self._weights.hide()
            self.unusable.emit()
            return
        settings.remember("model", info.name)
        self.load(info)

    def load(self, info: Any) -> None:
        """Load a model; `loaded` follows, at once where it is loaded already."""
        self._wanted = info
        self.model = None
        self._note.say("Loading...")
        self.left.emit()

        def work(stop: threading.Event) -> Generator[None, None, Any]:
            import_ahead()
            yield
            return services.load_model(info.path), services.weights_hint(info.backbone, info.header)

        task = self._tasks.start(work)
        task.returned.connect(lambda found: self._take(info, *found))
        task.failed.connect(lambda error: self._fail(info, error))

    def _take(self, info: Any, model: Any, hint: str) -> None:
        if info is not self._wanted:
            return
        self.model = model
        about = f"{model.modality.upper()}. Trained on {info.summary}. {model_sees(model)}"
        self._note.say(hint or about.rstrip())
        self._weights.mean(info.backbone, missing=bool(hint))
        self.loaded.emit(model)

    def _fail(self, info: Any, error: Exception) -> None:
        if info is self._wanted:
            self._note.say(report(error, "Loading the model"))
            self._weights.mean(info.backbone, missing=isinstance(error, MissingWeightsError))
            self.unusable.emit()
