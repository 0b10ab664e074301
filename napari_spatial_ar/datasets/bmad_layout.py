"""The BMAD layout of datasets, in all its variants.

The datasets of BMAD differ: ``valid`` or ``val``, ``Ungood`` or ``ungood``, ``test`` or ``Test``,
and ``img`` inside ``good`` or the other way round. Training images are in ``train/good`` itself or
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
    """Find one folder of a dataset.

    Parameters
    ----------
    root : Path
        The dataset.
    split, kind, part
        Which images; case is ignored.

    Returns
    -------
    Path or None
        None if there is no such folder.
    """
    base = _child(root, *_NAMES.get(split, (split,)))
    if base is None:
        return None
    first, other = _child(base, kind), _child(base, part)
    inside = (first and _child(first, part)) or (other and _child(other, kind))
    return first if inside is None and split == "train" and part == "img" else inside


def _child(folder: Path, *names: str) -> Path | None:
    """Return the sub-folder with one of these names, ignoring case."""
    if not folder.is_dir():
        return None
    wanted = [name.lower() for name in names]
    found = {path.name.lower(): path for path in folder.iterdir() if path.is_dir()}
    return next((found[name] for name in wanted if name in found), None)
