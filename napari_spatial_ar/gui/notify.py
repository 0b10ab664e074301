"""Errors as sentences in napari's own notifications."""

from __future__ import annotations

import logging
import traceback

from napari.utils.notifications import show_error, show_warning

from napari_spatial_ar.errors import Cancelled, SpatialARError

__all__ = ["report", "sentence", "warn"]

logger = logging.getLogger("napari_spatial_ar")


def sentence(error: BaseException, doing: str) -> str:
    """One sentence for an error met while doing something, such as ``"Scoring"``."""
    if isinstance(error, SpatialARError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"{doing} needs more memory than is free. Close other programs and try again."
    if isinstance(error, OSError) and error.strerror:
        return f"{doing} failed: {error.strerror}."
    kind = type(error).__name__
    return f"{doing} stopped because of an unexpected problem ({kind}); see the log."


def report(error: BaseException, doing: str) -> str:
    """Show an error as one sentence and give it back; log what nobody foresaw.

    The log gets the kind of error and where it arose but not its message, which may hold a
    file name and with it a patient's name.
    """
    text = sentence(error, doing)
    if isinstance(error, Cancelled):
        return text
    if not isinstance(error, SpatialARError):
        places = "".join(traceback.format_tb(error.__traceback__))
        logger.error("%s: %s\n%s", doing, type(error).__name__, places)
    show_error(text)
    return text


def warn(text: str) -> None:
    """Show a warning."""
    show_warning(text)
