"""The list of models, which one is chosen for a scan, and which one is loaded."""

from __future__ import annotations

import threading
from collections.abc import Generator
from typing import TYPE_CHECKING, get_args

from napari.layers import Layer
from qtpy.QtCore import QObject, Qt, Signal
from qtpy.QtWidgets import QComboBox, QVBoxLayout, QWidget

from napari_spatial_ar.errors import InputError, MissingWeightsError, SpatialARError
from napari_spatial_ar.gui import model_access, settings
from napari_spatial_ar.gui.display_windows import model_sees
from napari_spatial_ar.gui.jobs import TaskHost, report, sentence
from napari_spatial_ar.gui.layers import import_ahead, scan_of
from napari_spatial_ar.gui.library.dialog import LibraryButton
from napari_spatial_ar.gui.library.weights_row import WeightsRow
from napari_spatial_ar.gui.widgets.forms import SHARED_ROW, Note, combo, folding, select_data
from napari_spatial_ar.gui.widgets.tooltips import tooltip
from napari_spatial_ar.imaging.geometry import Plane
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.normative.calibration.acquired import header_shift
from napari_spatial_ar.normative.scoring_model import ScoringModel

if TYPE_CHECKING:
    from napari_spatial_ar.normative.library import ModelEntry
    from napari_spatial_ar.normative.model import NormativeModel


__all__ = ["ModelChoice", "ModelList", "ModelPanel"]


class ModelChoice(QObject):
    """Keeps a combo box of models in step with the modality of the scan under review.

    Parameters
    ----------
    box : QComboBox
        Items hold a ``ModelEntry``, or None.
    """

    def __init__(self, box: QComboBox):
        super().__init__(box)
        self._box = box
        self._modality = ""
        self._volume: Scan | None = None
        # Emitted for a person's choice only, not for that of `follow`.
        box.activated.connect(self._on_activated)

    def follow(self, layer: Layer | None) -> None:
        """Choose the model for a scan layer; None changes nothing."""
        if layer is None:
            return
        self._volume = volume = scan_of(layer)
        self._modality = str(getattr(volume, "modality", "unknown"))
        index = self._best()
        if index is not None and index != self._box.currentIndex():
            self._box.setCurrentIndex(index)

    def _best(self) -> int | None:
        """Item to choose; None if the current one is suitable."""
        infos = [self._box.itemData(index) for index in range(self._box.count())]
        misfits = {i: self._misfits(info) for i, info in enumerate(infos) if info is not None}
        least = min(misfits.values(), default=None)
        for key in self._keys:
            wanted = settings.recall(key, "")
            for index in misfits:
                # A choice stored for a modality must match the scan at least as well.
                picked = infos[index].name == wanted
                if picked and (key == self._keys[0] or misfits[index] == least):
                    return index
        if misfits.get(self._box.currentIndex()) == least:
            return None
        return next(index for index in misfits if misfits[index] == least)

    def _misfits(self, info: ModelEntry) -> tuple[bool, int]:
        """Whether a model has another modality, and how many other differences there are."""
        other = self._modality not in ("unknown", info.modality)
        header = getattr(info, "header", None)
        if header is None or self._volume is None:
            return other, 0
        try:
            seen = self._volume.along(header.selection.cut)
        except InputError:  # it has no such slices, which scoring reports
            return other, 1
        return other, len(header_shift(header, seen).reasons)

    @property
    def _keys(self) -> tuple[str, ...]:
        """Setting for a choice: for scans of this sequence, and of this modality."""
        of_modality = f"model/{self._modality}"
        sequence = "" if self._volume is None else self._volume.series.acquisition.sequence
        return (f"{of_modality}/{sequence}", of_modality) if sequence else (of_modality,)

    def _on_activated(self, *_: object) -> None:
        info = self._box.currentData()
        if self._modality and info is not None:
            for key in self._keys:
                settings.remember(key, info.name)


_TOOLTIP = Qt.ItemDataRole.ToolTipRole


_NONE = "There is no model yet. Fit one in the Training dock, or import one (Manage... > Import)."


class ModelList(QObject):
    """Keeps a combo box of models, and loads the chosen one in a worker.

    Parameters
    ----------
    box, note, about, weights : QComboBox, Note, Note, WeightsRow
        Widgets that it fills: the list, what prevents scoring, what the chosen model was trained
        on, and the ways to get its backbone's weights if they are missing.
    part_box : QComboBox
        The same for the parts of its method; hidden if there are none.
    tasks : TaskHost
        Runs the loading.
    """

    #: A model has been loaded, or another part of it chosen.
    loaded = Signal(object)
    #: Another model is being loaded; none is ready until then.
    left = Signal()
    #: The chosen model cannot be loaded; the note contains the reason.
    unusable = Signal()

    def __init__(
        self,
        box: QComboBox,
        note: Note,
        about: Note,
        weights: WeightsRow,
        part_box: QComboBox,
        tasks: TaskHost,
    ):
        super().__init__(box)
        self._part_box = part_box
        self._box = box
        self._note = note
        self._about = about
        self._weights = weights
        self._tasks = tasks
        #: The loaded model, with all parts of its method.
        self.whole: ScoringModel | None = None
        #: The same, or the part of it that was chosen.
        self.model: ScoringModel | None = None
        self._parts: dict[str, ScoringModel] = {}
        self._wanted: ModelEntry | None = None
        model_access.model_events.renamed.connect(self._on_renamed)
        model_access.model_events.changed.connect(self.refresh)
        model_access.weights_news.changed.connect(self._on_index)
        box.currentIndexChanged.connect(self._on_index)
        part_box.currentIndexChanged.connect(self._on_part)
        self._show_parts()
        self.refresh()

    @property
    def info(self) -> ModelEntry | None:
        """`ModelEntry` of the chosen model, or None."""
        entry: ModelEntry | None = self._box.currentData()
        return entry

    def choose(self, name: str) -> bool:
        """Choose a model by name; False if there is none of that name."""
        index = self._box.findText(name)
        if index >= 0:
            self._box.setCurrentIndex(index)
        return bool(index >= 0)

    def refresh(self) -> None:
        """List models again, keeping the choice."""
        name = self._box.currentText() if self.info is not None else settings.recall("model", "")
        try:
            infos = model_access.list_models()
        except SpatialARError as error:
            infos = []
            self._note.set_text(sentence(error, "Listing models"))
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
            self._wanted = None
            self._forget()
            self._note.set_text(_NONE)
            self._weights.hide()
            self.unusable.emit()
            return
        settings.remember("model", info.name)
        self.load(info)

    def load(self, info: ModelEntry) -> None:
        """Load a model; `loaded` follows, immediately if it is loaded already."""
        self._wanted = info
        self._forget()
        self._note.set_text("Loading...")
        self.left.emit()

        def work(stop: threading.Event) -> Generator[None, None, tuple[NormativeModel, str]]:
            import_ahead()
            yield
            return model_access.load_model(info.file), model_access.weights_hint(
                info.backbone, info.header
            )

        task = self._tasks.start(work)
        task.returned.connect(lambda found: self._take(info, *found))
        task.failed.connect(lambda error: self._fail(info, error))

    def _take(self, info: ModelEntry, model: ScoringModel, hint: str) -> None:
        if info is not self._wanted:
            return
        self.whole = self.model = model
        self._parts = {"": model, **{name: model.part(name) for name in model.parts}}
        self._show_parts()
        about = f"{model.modality.upper()}. Trained on {info.summary}. {model_sees(model)}"
        self._note.set_text(hint)
        self._about.set_text(about.rstrip())
        self._weights.mean(info.backbone, missing=bool(hint))
        self.loaded.emit(model)

    def _forget(self) -> None:
        self.whole = self.model = None
        self._about.set_text("")
        self._parts = {}
        self._show_parts()

    def _show_parts(self) -> None:
        """List the parts of the model; all of it is chosen."""
        box = self._part_box
        box.blockSignals(True)
        box.clear()
        for name, model in self._parts.items():
            box.addItem(f"{model.detector.title} alone" if name else "Whole score", name)
        box.setVisible(len(self._parts) > 1)
        box.blockSignals(False)

    def choose_part(self, name: str) -> None:
        """Choose a part of the model by its name; "" for all of it."""
        select_data(self._part_box, name)

    def _on_part(self, *_: object) -> None:
        model = self._parts.get(self._part_box.currentData())
        if model is not None and model is not self.model:
            self.model = model
            self.loaded.emit(model)

    def _fail(self, info: ModelEntry, error: Exception) -> None:
        if info is self._wanted:
            self._note.set_text(report(error, "Loading the model"))
            self._weights.mean(info.backbone, missing=isinstance(error, MissingWeightsError))
            self.unusable.emit()


class ModelPanel(QWidget):
    """What prevents scoring by the chosen model.

    The list is for a dock's head; `fold`, with what the model was trained on and the plane of the
    slices, goes where a dock has its rarer controls.
    """

    def __init__(self) -> None:
        super().__init__()
        self.box = combo(tooltip("model.model"), "Model", letters=SHARED_ROW + 2)
        self.library_button = LibraryButton()
        self.note, self.about = Note(), Note()
        self.weights = WeightsRow()
        self.weights.hide()
        self.plane_box = combo(
            tooltip("model.slices"),
            "Slices that the model scores",
        )
        self.plane_box.addItem("Slices as acquired", None)
        for plane in get_args(Plane):
            self.plane_box.addItem(f"{plane.capitalize()} slices", plane)
        parts = [self.about, self.plane_box]
        beside = [self.library_button]
        self.fold = folding("Model", parts, key="model", expanded=False, beside=beside)
        self.fold.set_summary(self.plane_box.currentText)
        self.plane_box.currentIndexChanged.connect(lambda: self.fold.update_summary())
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(5)
        layout.addWidget(self.note)
        layout.addWidget(self.weights)
