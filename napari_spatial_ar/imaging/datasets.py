"""Folders of scans as slices to train on, and data sets in the BMAD layout."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.bmad_folders import bmad_folder
from napari_spatial_ar.imaging.dicom.series import patient_key
from napari_spatial_ar.imaging.gather import attempt, left_out
from napari_spatial_ar.imaging.raster import is_raster, natural_key, page_count, read_raster
from napari_spatial_ar.imaging.reading import Source, find_sources, scans_in
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.tissue import tissue_mask
from napari_spatial_ar.imaging.volume import Modality
from napari_spatial_ar.imaging.windows import Window, apply_window, default_window, resolve

__all__ = [
    "LEAST_TISSUE",
    "BmadItem",
    "SliceRef",
    "SliceSet",
    "bmad_items",
    "content_key",
    "find_slices",
    "iter_slices",
    "split_by_group",
]

# Grows when readers count the volumes of a source, or their slices, in another order.
_ORDER = 2
#: A slice of a volume with less body than this share of it is not worth training on.
LEAST_TISSUE = 0.10
# Both eyes are one patient's (1221_OD_o_2 -> 1221); else the last number is the slice's
# (vol000_0064 -> vol000).
_EYE = re.compile(r"[_\-. ](?:OD|OS|OI|OU)(?![A-Za-z0-9]).*$", re.IGNORECASE)
_LAST_NUMBER = re.compile(r"[_\-. ]*[0-9]+$")


@dataclass(frozen=True)
class SliceRef:
    """Where to find one upright slice.

    Parameters
    ----------
    path : Path
        The file the slice is in.
    index : int or None
        Index of the slice in its volume (`Volume.slices`); None for a picture.
    group : str
        The patient, as far as files tell. It may be part of a file name: not to be shown.
    source : Source
        The files that are read together to get the volume.
    volume : int
        Which of the volumes in source it is in.
    """

    path: Path
    index: int | None
    group: str = field(repr=False)
    source: Source = field(repr=False)
    volume: int = 0


@dataclass(frozen=True)
class SliceSet:
    """Slices of a folder: to train on, to validate on (empty where the folder does not say).

    ``warnings`` has one sentence for each thing left out.
    """

    train: tuple[SliceRef, ...]
    valid: tuple[SliceRef, ...] = ()
    warnings: tuple[str, ...] = ()


def find_slices(
    folder: str | Path,
    *,
    modality: Modality = "unknown",
    window: Window | None = None,
    patient_pattern: str | None = None,
) -> SliceSet:
    r"""Find the slices of a folder of scans.

    Parameters
    ----------
    folder : path-like
        NIfTI, DICOM and pictures in any mix and depth, or the root of a data set in the BMAD
        layout (with ``train/good``; its ``valid/good/img`` are then the validation slices).
    modality : {"mri", "ct", "oct", "other", "unknown"}
        Chooses the window by which body is told from air, where ``window`` is not given.
    window : Window, optional
        The model's window.
    patient_pattern : str, optional
        Regular expression that finds the patient in a file's path relative to the folder
        (its first group if it has one), such as ``r"sub-\d+"``. Without it: the PatientID
        of a DICOM file, the sub-folder where files lie in several, else the file name
        without its last number.

    Returns
    -------
    SliceSet
        Every picture, and of volumes the slices of which body covers at least 10 %. Localizers
        and derived series are left out.

    Raises
    ------
    InputError
        If there is no such folder, it holds no readable image, no slice shows a body, or
        ``patient_pattern`` is no regular expression or does not match a file.
    """
    folder = Path(folder)
    window = window or default_window(modality)
    train_folder = bmad_folder(folder, "train", "good")
    if train_folder is not None:
        train = _slices_under(train_folder, window, patient_pattern)
        valid_folder = bmad_folder(folder, "valid", "good")
        if valid_folder is None:
            return train
        valid = _slices_under(valid_folder, window, patient_pattern)
        return SliceSet(train.train, valid.train, train.warnings + valid.warnings)
    return _slices_under(folder, window, patient_pattern)


def _slices_under(folder: Path, window: Window, patient_pattern: str | None) -> SliceSet:
    sources = find_sources(folder)
    groups = _groups(folder, sources, patient_pattern)
    found, errors = attempt(partial(_slices_of, source, groups, window) for source in sources)
    refs = tuple(ref for slices in found for ref in slices.train)
    warnings = tuple(dict.fromkeys(text for slices in found for text in slices.warnings))
    if not refs:
        raise InputError("no slice in it shows a body", path=folder, fix="Choose other scans")
    return SliceSet(refs, warnings=(*left_out(errors), *warnings))


def _slices_of(source: Source, groups: dict[Path, str], window: Window) -> SliceSet:
    if source.format != "raster":
        first = source.files[0]
        return _volume_slices(source, groups.get(first) or patient_key(first), window)
    refs: list[SliceRef] = []
    for path in source.files:
        alone = Source("raster", (path,))
        if page_count(path) > 1:
            refs += _volume_slices(alone, groups[path], window).train
        else:
            refs.append(SliceRef(path, None, groups[path], alone))
    return SliceSet(tuple(refs))


def _volume_slices(source: Source, group: str, window: Window) -> SliceSet:
    """Slices with enough body in them, of all volumes in a source that are no by-products."""

    def slices(number: int, scan: Scan) -> list[SliceRef]:
        volume = scan.read()
        low, high = resolve(window, volume)
        files, count = volume.series.files, volume.geometry.slice_count
        refs = []
        for index in range(count):
            unit = apply_window(volume.slice(index), low, high)
            if tissue_mask(unit).mean() >= LEAST_TISSUE:
                path = files[index] if len(files) == count else files[0]
                refs.append(SliceRef(path, index, group, source, number))
        return refs

    scans = list(enumerate(scans_in(source)))
    wanted = [(number, scan) for number, scan in scans if scan.role == "original"]
    found, errors = attempt(partial(slices, number, scan) for number, scan in wanted)
    warnings = left_out(errors)
    if len(wanted) < len(scans):
        warnings += ("Localizers and derived series (projections, maps) are left out.",)
    return SliceSet(tuple(ref for refs in found for ref in refs), warnings=warnings)


def _groups(
    folder: Path, sources: Sequence[Source], patient_pattern: str | None
) -> dict[Path, str]:
    """Patient of each file that begins a volume or is a picture, as far as its name tells.

    A DICOM file's is inside it (`patient_key`), unless there is a pattern.
    """
    files = [f for s in sources for f in (s.files if s.format == "raster" else s.files[:1])]
    if patient_pattern is not None:
        return {file: _match(patient_pattern, file, folder) for file in files}
    formats = {file: source.format for source in sources for file in source.files}
    common = Path(os.path.commonpath([file.parent for file in files]))
    groups = {}
    for file in files:
        *subfolders, name = file.relative_to(common).parts
        if formats[file] == "dicom":
            continue
        if subfolders:
            groups[file] = subfolders[0]
        elif formats[file] == "nifti":
            groups[file] = name
        else:
            stem = Path(name).stem
            pattern = _EYE if _EYE.search(stem) else _LAST_NUMBER
            groups[file] = pattern.sub("", stem) or stem
    return groups


def _match(pattern: str, file: Path, folder: Path) -> str:
    try:
        match = re.search(pattern, file.relative_to(folder).as_posix())
    except re.error as error:
        raise InputError(f"{pattern!r} is not a regular expression ({error})") from error
    if match is None:
        raise InputError(f"the patient pattern {pattern!r} does not match this file", path=file)
    return str(match.group(1) if match.re.groups else match.group(0))


def iter_slices(
    refs: Sequence[SliceRef], window: Window
) -> Iterator[tuple[SliceRef, npt.NDArray[np.float32], tuple[float, float]]]:
    """Read slices, opening each volume once.

    Parameters
    ----------
    refs : sequence of SliceRef
        What to read. Slices of one volume come one after the other, whatever their order here.
    window : Window
        The model's window.

    Yields
    ------
    ref : SliceRef
        The slice.
    image : (rows, columns) float32
        Its voxels, upright, in stored units.
    ends : (float, float)
        Values that the window maps to 0 and 1, from the whole volume or picture.

    Raises
    ------
    InputError
        If a file cannot be read any more, or is no picture with something to see.
    """
    together: dict[tuple[Source, int], list[SliceRef]] = {}
    for ref in refs:
        together.setdefault((ref.source, ref.volume), []).append(ref)
    for (source, number), slices in together.items():
        volume = None if slices[0].index is None else scans_in(source)[number].read()
        ends = None if volume is None else resolve(window, volume)
        for ref in slices:
            if volume is None or ends is None or ref.index is None:
                image, intensity = read_raster(ref.path)
                yield ref, image, resolve(window, image, intensity)
            else:
                yield ref, volume.slice(ref.index), ends


def split_by_group(
    refs: Sequence[SliceRef], fraction: float, seed: int
) -> tuple[tuple[SliceRef, ...], tuple[SliceRef, ...]]:
    """Split slices into (train, valid) so that no patient is in both.

    Parameters
    ----------
    refs : sequence of SliceRef
        Slices of at least two groups.
    fraction : float
        Share of the slices to validate on, in (0, 1); reached or passed by less than one
        group, and each side gets at least one.
    seed : int
        The same seed and slices give the same split.

    Raises
    ------
    InputError
        If there is only one group.
    """
    sizes: dict[str, int] = {}
    for ref in refs:
        sizes[ref.group] = sizes.get(ref.group, 0) + 1
    if len(sizes) < 2:
        raise InputError(
            f"all {len(refs)} slices seem to be of one patient, so none can be kept for validation",
            fix="Put each patient's files in a folder of their own, or give a patient pattern",
        )
    names = sorted(sizes)
    np.random.default_rng(seed).shuffle(names)
    chosen: set[str] = set()
    count = 0
    for name in names[:-1]:
        chosen.add(name)
        count += sizes[name]
        if count >= fraction * len(refs):
            break
    return (
        tuple(ref for ref in refs if ref.group not in chosen),
        tuple(ref for ref in refs if ref.group in chosen),
    )


@lru_cache(maxsize=4096)
def _file_digest(path: Path, size: int, changed_ns: int) -> str:
    del size, changed_ns  # only there to make a changed file another cache entry
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_key(ref: SliceRef) -> str:
    """Sha256 hex digest of all that a slice's voxels come from: file contents and its place.

    Raises
    ------
    InputError
        If a file is not there any more.
    """
    key = hashlib.sha256(f"{_ORDER} {ref.volume}/{ref.index}".encode())
    for path in ref.source.files:
        try:
            status = path.stat()
            key.update(_file_digest(path, status.st_size, status.st_mtime_ns).encode())
        except OSError as error:
            raise InputError("cannot be read any more", path=path) from error
    return key.hexdigest()


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
        groups = _groups(folder, [Source("raster", tuple(images))], patient_pattern)
        items += [BmadItem(p, labels.get(p.stem), abnormal, groups[p]) for p in images]
    if not items:
        raise InputError(
            f"there are no pictures in {split}/good or {split}/Ungood",
            path=root,
            fix="Choose the root of a data set in the BMAD layout",
        )
    return items
