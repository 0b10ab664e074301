"""One question before files are replaced."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from qtpy.QtWidgets import QMessageBox, QWidget

__all__ = ["may_replace"]

_NAMED = 12


def may_replace(parent: QWidget, title: str, paths: Sequence[Path]) -> bool:
    """Ask whether those of the files that exist may be replaced; True where there are none.

    Cancel is what Enter and Escape choose.
    """
    there = [path.name for path in paths if os.path.exists(path)]
    if not there:
        return True
    if len(there) == 1:
        text = f"There is a file named {there[0]} already. Replace it?"
    else:
        names = ", ".join(there[:_NAMED]) + (", ..." if len(there) > _NAMED else "")
        text = f"{len(there)} files of an earlier export will be replaced: {names}. Replace them?"
    cancel = QMessageBox.StandardButton.Cancel
    buttons = QMessageBox.StandardButton.Yes | cancel
    answer = QMessageBox.question(parent, title, text, buttons, cancel)
    return bool(answer == QMessageBox.StandardButton.Yes)
