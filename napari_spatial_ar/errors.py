"""Errors that a user can act on: what went wrong, with which file, and what to do."""

from __future__ import annotations

import unicodedata
from pathlib import Path

__all__ = [
    "ArchiveDenied",
    "ArchiveError",
    "ArchiveUnreachable",
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


# Control characters, line and paragraph separators, and lone surrogates, from names that are not
# valid text, which no terminal prints.
_UNPRINTABLE = ("Cc", "Zl", "Zp", "Cs")
# Characters that change the direction of writing, so that a name reads as another (Unicode TR 36).
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: str) -> str:
    """Text on one line that any terminal can print: other characters become escapes."""
    return "".join(
        c.encode("unicode_escape").decode()
        if c in _TURNING or unicodedata.category(c) in _UNPRINTABLE
        else c
        for c in text
    )


class SpatialARError(Exception):
    """Base class of all errors that this package raises on purpose.

    Parameters
    ----------
    what : str
        One clause that states what is wrong, without a trailing full stop.
    path : path-like, optional
        The file or folder concerned.
    fix : str, optional
        One clause that states what to do about it.
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
    """A name that is already in use; another one will do."""


class ModelFileError(SpatialARError):
    """A normative model file that is damaged, of another version or for another backbone."""


class ModelVersionError(ModelFileError):
    """An intact normative model that needs another version of this program."""


class WeightsError(SpatialARError):
    """Backbone weights that are missing, damaged or not those in their name."""


class MissingWeightsError(WeightsError):
    """Backbone weights that are not on this machine: they can be downloaded or added."""


class UnsaidError(InputError):
    """Information that the files do not contain and the user has to give.

    Parameters
    ----------
    unsaid : tuple of str
        Names of the missing items.
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
    """Something that needs more memory than is free, even in the smallest portions."""


class StorageError(SpatialARError):
    """A file that could not be written, for lack of space or permission."""


class ArchiveError(SpatialARError):
    """An archive (PACS) that does not do what was asked, or sends something else."""


class ArchiveUnreachable(ArchiveError):
    """An archive that did not answer, or failed, for a reason that may pass."""


class ArchiveDenied(ArchiveError):
    """An archive that refuses credentials: missing, wrong or expired."""


class Cancelled(SpatialARError):
    """The work was cancelled on request; finished parts are kept."""


class Notice(UserWarning):
    """A sentence that the user should read while work continues."""


class UnguardedWarning(Notice):
    """A folder on a file system without locks, where two processes may interfere."""
