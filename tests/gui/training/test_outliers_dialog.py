"""The dialog of the most surprising training scans."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QDialog

from napari_spatial_ar.gui.training.outliers_dialog import OutliersDialog
from napari_spatial_ar.normative.fitting.outliers import Outlier, Outliers
from napari_spatial_ar.normative.scores import Example


def suspects() -> Outliers:
    """Two scans; the second's heatmap is warm in its lower half."""
    image = np.full((40, 30), 0.5, np.float32)
    warm = np.full((40, 30), 0.1, np.float32)
    warm[20:] = 0.9
    return Outliers(
        (
            Outlier("a" * 64, "3 pictures", "0a1b2c3d", 3, 1, 0.9, Example(image, warm[::-1], 0.9)),
            Outlier("b" * 64, "MR series 4", "11223344", 20, 12, 0.4, Example(image, warm, 0.4)),
        ),
        scans=7,
    )


@pytest.fixture
def dialog(qtbot: Any) -> OutliersDialog:
    made = OutliersDialog(suspects())
    qtbot.addWidget(made)
    return made


def test_scans_stand_in_their_order_with_pictures(dialog: OutliersDialog) -> None:
    table = dialog.table
    texts = [
        [table.topLevelItem(row).text(column) for column in range(table.columnCount())]
        for row in range(table.topLevelItemCount())
    ]
    assert texts == [
        ["3 pictures", "0.9", "0a1b2c3d", "2", "3"],
        ["MR series 4", "0.4", "11223344", "13", "20"],
    ]
    assert "of 7 scans" in dialog.about.text()
    assert not table.topLevelItem(0).icon(0).isNull()
    table.setCurrentItem(table.topLevelItem(1))
    shown = dialog.picture.pixmap().toImage()
    assert (shown.width(), shown.height()) == (2 * 225 + 2, 300)
    grey, cool, warm = (
        shown.pixelColor(x, y).getRgb()[:3] for x, y in ((100, 250), (330, 50), (330, 250))
    )
    assert len(set(grey)) == len(set(cool)) == 1
    assert warm[0] - warm[2] > 60


def test_a_new_fit_leaves_out_what_is_ticked(dialog: OutliersDialog, qtbot: Any) -> None:
    assert dialog.excluded == frozenset()
    assert not dialog.again_button.isEnabled()
    dialog.table.topLevelItem(1).setCheckState(0, Qt.CheckState.Checked)
    assert dialog.excluded == {"b" * 64}
    with qtbot.waitSignal(dialog.accepted, timeout=1000):
        qtbot.mouseClick(dialog.again_button, Qt.MouseButton.LeftButton)
    assert dialog.result() == QDialog.DialogCode.Accepted
