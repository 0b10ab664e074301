"""Errors that a user can act on: what went wrong, with which file, what to do."""

from __future__ import annotations

import unicodedata
from pathlib import Path

__all__ = [
    "Cancelled",
    "InUseError",
    "InputError",
    "MemoryShortage",
    "MissingWeightsError",
    "ModelFileError",
    "ModelVersionError",
    "NameTakenError",
    "Notice",
    "SpatialARError",
    "StorageError",
    "UnguardedWarning",
    "UnsaidError",
    "WeightsError",
    "printable",
]


# Control characters, line and paragraph separators, halves of characters: of names that are not
# text, which no terminal prints.
_UNPRINTABLE = ("Cc", "Zl", "Zp", "Cs")
# What turns the direction of writing, so that a name reads as another (Unicode TR 36).
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: str) -> str:
    """Text on one line that any terminal can print: other characters are written as escapes."""
    return "".join(
        c.encode("unicode_escape").decode()
        if c in _TURNING or unicodedata.category(c) in _UNPRINTABLE
        else c
        for c in text
    )


class SpatialARError(Exception):
    """Base of every error this package raises on purpose.

    Parameters
    ----------
    what : str
        One clause that says what is wrong, without a trailing full stop.
    path : path-like, optional
        The file or folder concerned.
    fix : str, optional
        One clause that says what to do about it.
    """

    def __init__(self, what: str, *, path: str | Path | None = None, fix: str | None = None):
        self.what = what
        self.path = Path(path) if path is not None else None
        self.fix = fix
        super().__init__(str(self))

    def __str__(self) -> str:
        text = f"{self.path}: {self.what}" if self.path is not None else self.what
        text = printable(text)
        text = text.rstrip(".") + "."
        return f"{text} {printable(self.fix).rstrip('.')}." if self.fix else text


class InputError(SpatialARError):
    """A scan, image, folder or setting that cannot be used as given."""


class InUseError(InputError):
    """A folder or file that another process is writing to."""


class NameTakenError(InputError):
    """A name that something else has already; another one will do."""


class ModelFileError(SpatialARError):
    """A normative model file that is damaged, of another version or for another backbone."""


class ModelVersionError(ModelFileError):
    """A normative model that is whole, but needs another version of this program."""


class WeightsError(SpatialARError):
    """Backbone weights that are missing, damaged or not what their name says."""


class MissingWeightsError(WeightsError):
    """Backbone weights that are not on this machine: they can be fetched, or added."""


class UnsaidError(InputError):
    """Something that files do not say and that has to be asked for.

    Parameters
    ----------
    unsaid : tuple of str
        Names of what is missing.
    what, path, fix
        As for `SpatialARError`.
    """

    def __init__(
        self,
        unsaid: tuple[str, ...],
        what: str,
        *,
        path: str | Path | None = None,
        fix: str | None = None,
    ):
        self.unsaid = unsaid
        super().__init__(what, path=path, fix=fix)


class MemoryShortage(SpatialARError):
    """Something that needs more memory than is free, however little is computed at once."""


class StorageError(SpatialARError):
    """A file that could not be written, for lack of space or permission."""


class Cancelled(SpatialARError):
    """The work was stopped on request; what was finished is kept."""


class Notice(UserWarning):
    """What a user should know while work goes on: a sentence."""


class UnguardedWarning(Notice):
    """A folder on a file system without locks, where two processes may disturb each other."""
