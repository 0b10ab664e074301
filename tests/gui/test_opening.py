"""The offer to open scans with this plugin from now on."""

from __future__ import annotations

from typing import Any

from napari.settings import get_settings
from qtpy.QtWidgets import QWidget

from napari_spatial_ar.gui.jobs import TaskHost
from napari_spatial_ar.gui.open_scan import ScanOpener


def test_menu_offers_to_become_the_default_reader(qtbot: Any) -> None:
    parent = QWidget()
    qtbot.addWidget(parent)
    plugins = get_settings().plugins
    before = dict(plugins.extension2reader)
    plugins.extension2reader = {"*.csv": "another-plugin"}
    try:
        menu = ScanOpener(None, TaskHost(parent), parent).menu(parent)
        (offer,) = [action for action in menu.actions() if action.text().startswith("Always")]
        offer.trigger()
        assert plugins.extension2reader == {
            "*.csv": "another-plugin",
            "*.nii": "napari-spatial-ar",
            "*.nii.gz": "napari-spatial-ar",
            "*.dcm": "napari-spatial-ar",
        }
    finally:
        plugins.extension2reader = before
