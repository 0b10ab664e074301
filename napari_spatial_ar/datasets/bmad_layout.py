"""Where a data set in the BMAD layout keeps what, under all the names that its sets use.

The sets of BMAD differ: ``valid`` or ``val``, ``Ungood`` or ``ungood``, ``test`` or ``Test``, and
``img`` inside ``good`` or the other way round. Training pictures lie in ``train/good`` itself or
in ``train/good/img``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

__all__ = ["bmad_folder"]

_NAMES = {"valid": ("valid", "val")}


def bmad_folder(
    root: Path,
    split: Literal["train", "valid", "test"],
    kind: Literal["good", "Ungood"],
    part: Literal["img", "label"] = "img",
) -> Path | None:
    """Find one folder of a data set.

    Parameters
    ----------
    root : Path
        The data set.
    split, kind, part
        Which pictures; case is not minded.

    Returns
    -------
    Path or None
        None where there is no such folder.
    """
    base = _child(root, *_NAMES.get(split, (split,)))
    if base is None:
        return None
    first, other = _child(base, kind), _child(base, part)
    inside = (first and _child(first, part)) or (other and _child(other, kind))
    return first if inside is None and split == "train" and part == "img" else inside


def _child(folder: Path, *names: str) -> Path | None:
    """Give the folder inside another that has one of these names, whatever the case."""
    if not folder.is_dir():
        return None
    wanted = [name.lower() for name in names]
    found = {path.name.lower(): path for path in folder.iterdir() if path.is_dir()}
    return next((found[name] for name in wanted if name in found), None)
