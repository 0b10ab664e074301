"""Folders of scans as slices to train on, and data sets in the BMAD layout."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from napari_spatial_ar.datasets.bmad_layout import bmad_folder
from napari_spatial_ar.datasets.patients import groups_by_name
from napari_spatial_ar.datasets.selection import Selection
from napari_spatial_ar.datasets.slices import (
    SliceRef,
    SliceSet,
    content_key,
    iter_slices,
    split_by_group,
    split_slices,
)
from napari_spatial_ar.datasets.survey import Survey, slices_left_out, survey
from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.gather import left_out
from napari_spatial_ar.imaging.raster import is_raster, natural_key
from napari_spatial_ar.imaging.reading import Source
from napari_spatial_ar.imaging.series import Modality
from napari_spatial_ar.imaging.windows import Window
from napari_spatial_ar.steps import finish

__all__ = [
    "BmadItem",
    "SliceRef",
    "SliceSet",
    "bmad_items",
    "content_key",
    "find_slices",
    "iter_slices",
    "split_by_group",
    "split_slices",
]


def find_slices(
    folder: str | Path | Sequence[str | Path],
    *,
    modality: Modality = "unknown",
    window: Window | None = None,
    patient_pattern: str | None = None,
    exclude: Collection[str] = (),
    selection: Selection | None = None,
) -> SliceSet:
    r"""Find the slices of a folder of scans, or of several.

    Parameters
    ----------
    folder : path-like or sequence of path-like
        NIfTI, DICOM and pictures in any mix and depth, or the root of a data set in the BMAD
        layout (with ``train/good``; its ``valid/good/img`` are then the validation slices).
    modality : {"mri", "ct", "oct", "other", "unknown"}
        Chooses the window by which body is told from air, where ``window`` is not given. MRI,
        CT and OCT leave out series that are one of the others.
    window : Window, optional
        The model's window.
    patient_pattern : str, optional
        Regular expression that finds the patient in a file's path relative to the folder
        (its first group if it has one), such as ``r"sub-\d+"``. Without it: the PatientID
        of a DICOM file, the sub-folder where files lie in several, else the file name
        without its last number.
    exclude : collection of str
        Keys of series to leave out, see `SurveyedSeries`; the start of a key is enough.
    selection : Selection, optional
        What of the volumes is used; without it, all slices that show enough body.

    Returns
    -------
    SliceSet
        Pictures and slices of volumes. Localizers, derived series and what else `survey` leaves
        out is in none.

    Raises
    ------
    InputError
        If there is no such folder, it holds no readable image, no slice can be used,
        ``patient_pattern`` is no regular expression or does not match a file, or what is to be
        left out is not there.
    """
    steps = survey(
        folder,
        modality=modality,
        window=window,
        patient_pattern=patient_pattern,
        selection=selection,
    )
    found = finish(steps)
    first = folder if isinstance(folder, str | Path) else folder[0]
    out = {key for start in exclude for key in _keys_of(found, start, first)}
    wanted = [series for series in found.series if series.key not in out]
    train, valid = (
        tuple(ref for series in wanted if series.held_out == held_out for ref in series.refs)
        for held_out in (False, True)
    )
    if not train:
        why = " ".join(["no slice in it can be used.", *slices_left_out(found.series)])
        raise InputError(why, path=first, fix="Choose other scans")
    return SliceSet(train, valid, (*left_out(found.errors), *slices_left_out(wanted)))


def _keys_of(found: Survey, start: str, folder: str | Path) -> set[str]:
    """Key of the series meant by its start; a set of one."""
    keys = {series.key for series in found.series if series.key.startswith(start)}
    if len(keys) != 1:
        raise InputError(
            f"{len(keys)} series there have a key that starts with '{start}'"
            if keys
            else f"no series there has the key '{start}', so it cannot be left out",
            path=folder,
            fix="'models suspects' and 'summary --json FILE' give the keys as they are now",
        )
    return keys


@dataclass(frozen=True)
class BmadItem:
    """One picture of a data set in the BMAD layout.

    Parameters
    ----------
    image : Path
        The picture.
    label : Path or None
        Picture of its label (0 normal, 255 abnormal), None where there is none.
    abnormal : bool
        Whether the picture shows something abnormal.
    group : str
        The patient, as far as the file name tells.
    """

    image: Path
    label: Path | None
    abnormal: bool
    group: str = field(repr=False)


def bmad_items(
    root: str | Path,
    split: Literal["train", "valid", "test"],
    *,
    patient_pattern: str | None = None,
) -> list[BmadItem]:
    """Pictures of one split of a data set in the BMAD layout.

    Parameters
    ----------
    root : path-like
        Folder with ``train/good`` and ``{valid,test}/{good,Ungood}/{img,label}``.
    split : {"train", "valid", "test"}
        Which pictures.
    patient_pattern : str, optional
        As in `find_slices`.

    Returns
    -------
    list of BmadItem
        Normal ones first, each by name.

    Raises
    ------
    InputError
        If the folder is not laid out so, or the split has no picture.
    """
    if not Path(root).exists():
        raise InputError("there is no such folder", path=root)
    kinds: tuple[Literal["good", "Ungood"], ...] = ("good", "Ungood")
    items: list[BmadItem] = []
    for kind in kinds:
        abnormal = kind == "Ungood"
        folder = bmad_folder(Path(root), split, kind)
        if folder is None:
            continue
        drawn = bmad_folder(Path(root), split, kind, "label")
        labels = {path.stem: path for path in drawn.glob("*.png")} if drawn else {}
        images = sorted((p for p in folder.iterdir() if is_raster(p)), key=natural_key)
        if not images:
            continue
        groups = groups_by_name(folder, [Source("raster", tuple(images))], patient_pattern)
        items += [BmadItem(p, labels.get(p.stem), abnormal, groups[p]) for p in images]
    if not items:
        raise InputError(
            f"there are no pictures in {split}/good or {split}/Ungood",
            path=root,
            fix="Choose the root of a data set in the BMAD layout",
        )
    return items
