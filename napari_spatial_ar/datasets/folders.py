"""Folders of scans as training slices, and datasets in the BMAD layout."""

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
        NIfTI, DICOM and images in any mix and depth, or the root of a dataset in the BMAD
        layout (with ``train/good``; its ``valid/good/img`` are then the validation slices).
    modality : {"mri", "ct", "oct", "other", "unknown"}
        Chooses the window for separating body and air if ``window`` is not given. MRI, CT and
        OCT exclude series of the other modalities.
    window : Window, optional
        The model's window.
    patient_pattern : str, optional
        Regular expression that finds the patient in a file's path relative to the folder
        (its first group if it has one), such as ``r"sub-\d+"``. By default: the PatientID
        of a DICOM file, the sub-folder if there are several, else the file name without its last
        number.
    exclude : collection of str
        Keys of series to exclude, see `SurveyedSeries`; the start of a key is enough.
    selection : Selection, optional
        Which slices of the volumes are used; by default all with enough body.

    Returns
    -------
    SliceSet
        Images and slices of volumes, without localizers, derived series and everything else that
        `survey` excludes.

    Raises
    ------
    InputError
        If there is no such folder, it has no readable image, no slice can be used,
        ``patient_pattern`` is not a regular expression or does not match a file, or a series to
        exclude does not exist.
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
    """Key of the series identified by its start; a set of one."""
    keys = {series.key for series in found.series if series.key.startswith(start)}
    if len(keys) != 1:
        raise InputError(
            f"{len(keys)} series there have a key that starts with '{start}'"
            if keys
            else f"no series there has the key '{start}', so it cannot be excluded",
            path=folder,
            fix="'models suspects' and 'summary --json FILE' list the current keys",
        )
    return keys


@dataclass(frozen=True)
class BmadItem:
    """One image of a dataset in the BMAD layout.

    Parameters
    ----------
    image : Path
        The image.
    label : Path or None
        Image of its label (0 normal, 255 abnormal), None if there is none.
    abnormal : bool
        Whether the image shows something abnormal.
    group : str
        The patient, according to the file name.
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
    """Images of one split of a dataset in the BMAD layout.

    Parameters
    ----------
    root : path-like
        Folder with ``train/good`` and ``{valid,test}/{good,Ungood}/{img,label}``.
    split : {"train", "valid", "test"}
        The split.
    patient_pattern : str, optional
        As in `find_slices`.

    Returns
    -------
    list of BmadItem
        Normal ones first, each by name.

    Raises
    ------
    InputError
        If the folder does not have this layout, or the split has no image.
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
            f"there are no images in {split}/good or {split}/Ungood",
            path=root,
            fix="Choose the root of a dataset in the BMAD layout",
        )
    return items
