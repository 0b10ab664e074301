"""The model that fits a scan, chosen when the scan is: the user's own last choice goes first."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QObject
from qtpy.QtWidgets import QComboBox

from napari_spatial_ar.gui import settings
from napari_spatial_ar.gui.layers import KEY

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
        # Sent for what a person does alone, not for what `follow` does.
        box.activated.connect(self._on_activated)

    def follow(self, layer: Any) -> None:
        """Choose the model for a scan layer; None leaves all as it is."""
        if layer is None:
            return
        volume = layer.metadata.get(KEY, {}).get("volume")
        self._modality = str(getattr(volume, "modality", "unknown"))
        index = self._best()
        if index is not None and index != self._box.currentIndex():
            self._box.setCurrentIndex(index)

    def _best(self) -> int | None:
        """Item to choose; None where that which is chosen will do."""
        infos = [self._box.itemData(index) for index in range(self._box.count())]
        wanted = settings.recall(self._key, "")
        for index, info in enumerate(infos):
            if info is not None and info.name == wanted:
                return index
        chosen = self._box.currentData()
        if self._modality == "unknown" or getattr(chosen, "modality", "") == self._modality:
            return None
        fitting = [i for i, info in enumerate(infos) if info and info.modality == self._modality]
        return fitting[0] if fitting else None

    @property
    def _key(self) -> str:
        return f"model/{self._modality}"

    def _on_activated(self, *_: Any) -> None:
        info = self._box.currentData()
        if self._modality and info is not None:
            settings.remember(self._key, info.name)
