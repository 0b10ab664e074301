"""Thumbnails as Qt's pictures."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image
from qtpy.QtCore import Qt
from qtpy.QtGui import QIcon, QImage, QPainter, QPixmap

from napari_spatial_ar.datasets.thumbnails import THUMBNAIL_SIZE

__all__ = ["coloured", "icon", "square"]


def square(picture: npt.NDArray[np.uint8] | None = None) -> QPixmap:
    """Put a picture, (rows, columns) uint8, in the middle of a black square."""
    made = QPixmap(THUMBNAIL_SIZE, THUMBNAIL_SIZE)
    made.fill(Qt.GlobalColor.black)
    if picture is not None:
        rows, width = picture.shape
        image = QImage(picture.tobytes(), width, rows, width, QImage.Format.Format_Grayscale8)
        painter = QPainter(made)
        painter.drawImage((made.width() - width) // 2, (made.height() - rows) // 2, image)
        painter.end()
    return made


def coloured(picture: Image.Image) -> QPixmap:
    """Make Qt's picture of an RGB one."""
    width, rows = picture.size
    image = QImage(picture.tobytes(), width, rows, 3 * width, QImage.Format.Format_RGB888)
    return QPixmap.fromImage(image)


def icon(picture: QPixmap) -> QIcon:
    """Make an icon that Qt does not tint in a selected row."""
    made = QIcon(picture)
    made.addPixmap(picture, QIcon.Mode.Selected)
    return made
