"""The model that fits a scan, chosen when the scan is: the user's own last choice goes first."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QObject
from qtpy.QtWidgets import QComboBox

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.gui import settings
from napari_spatial_ar.gui.layers import KEY
from napari_spatial_ar.normative.calibration.acquired import header_likeness

__all__ = ["ModelChoice"]


class ModelChoice(QObject):
    """Keeps a combo box of models in step with the modality of the scan under review.

    Parameters
    ----------
    box : QComboBox
        Items hold a ``ModelInfo``, or None.
    """

    def __init__(self, box: QComboBox):
        super().__init__(box)
        self._box = box
        self._modality = ""
        self._volume: Any = None
        # Sent for what a person does alone, not for what `follow` does.
        box.activated.connect(self._on_activated)

    def follow(self, layer: Any) -> None:
        """Choose the model for a scan layer; None leaves all as it is."""
        if layer is None:
            return
        self._volume = volume = layer.metadata.get(KEY, {}).get("volume")
        self._modality = str(getattr(volume, "modality", "unknown"))
        index = self._best()
        if index is not None and index != self._box.currentIndex():
            self._box.setCurrentIndex(index)

    def _best(self) -> int | None:
        """Item to choose; None where that which is chosen will do."""
        infos = [self._box.itemData(index) for index in range(self._box.count())]
        misfits = {i: self._misfits(info) for i, info in enumerate(infos) if info is not None}
        least = min(misfits.values(), default=None)
        for key in self._keys:
            wanted = settings.recall(key, "")
            for index in misfits:
                # Picked for such scans; what was picked for a modality has to fit no less well.
                picked = infos[index].name == wanted
                if picked and (key == self._keys[0] or misfits[index] == least):
                    return index
        if misfits.get(self._box.currentIndex()) == least:
            return None
        return next(index for index in misfits if misfits[index] == least)

    def _misfits(self, info: Any) -> tuple[bool, int]:
        """Whether a model is of another modality, and how much else of the scan does not fit."""
        other = self._modality not in ("unknown", info.modality)
        header = getattr(info, "header", None)
        if header is None or self._volume is None:
            return other, 0
        try:
            seen = self._volume.along(header.selection.cut)
        except InputError:  # it cannot be cut so: scoring it says why
            return other, 1
        return other, len(header_likeness(header, seen).reasons)

    @property
    def _keys(self) -> tuple[str, ...]:
        """Where a choice is remembered: for scans of this sequence, and of this modality."""
        of_modality = f"model/{self._modality}"
        sequence = "" if self._volume is None else self._volume.series.acquisition.sequence
        return (f"{of_modality}/{sequence}", of_modality) if sequence else (of_modality,)

    def _on_activated(self, *_: Any) -> None:
        info = self._box.currentData()
        if self._modality and info is not None:
            for key in self._keys:
                settings.remember(key, info.name)
