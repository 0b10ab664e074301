"""Errors as sentences in napari's own notifications."""

from __future__ import annotations

import logging
import traceback

from napari.utils.notifications import show_error, show_warning

from napari_spatial_ar.errors import Cancelled, MissingWeightsError, SpatialARError

__all__ = ["log", "report", "sentence", "warn"]

logger = logging.getLogger("napari_spatial_ar")


#: What to do about missing weights, where a `WeightsRow` stands.
GET_OR_ADD = "Get weights... fetches them, Add file... takes them from a file."


def sentence(error: BaseException, doing: str) -> str:
    """One sentence for an error met while doing something, such as ``"Scoring"``."""
    if isinstance(error, MissingWeightsError):
        # Its advice is for the command line.
        return f"{MissingWeightsError(error.what)!s} {GET_OR_ADD}"
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
    log(error, doing)
    if not isinstance(error, Cancelled):
        show_error(text)
    return text


def log(error: BaseException, doing: str) -> None:
    """Log what nobody foresaw, and nothing of an error that is a sentence."""
    if not isinstance(error, SpatialARError):
        places = "".join(traceback.format_tb(error.__traceback__))
        logger.error("%s: %s\n%s", doing, type(error).__name__, places)


def warn(text: str) -> None:
    """Show a warning."""
    show_warning(text)
