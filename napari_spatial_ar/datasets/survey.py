"""Survey of folders of scans, series by series: usable slices, and what is excluded and why."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from napari_spatial_ar.datasets.bmad_layout import bmad_folder
from napari_spatial_ar.datasets.patients import check_pattern, groups_by_name
from napari_spatial_ar.datasets.selection import Selection, place_in_stack
from napari_spatial_ar.datasets.slices import SliceRef, file_digest
from napari_spatial_ar.datasets.thumbnails import downscale
from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.dicom.series import patient_key
from napari_spatial_ar.imaging.raster import page_count, read_raster
from napari_spatial_ar.imaging.reading import Source, find_sources, scans_in
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.series import Modality
from napari_spatial_ar.imaging.tissue import tissue_mask
from napari_spatial_ar.imaging.windows import Window, apply_window, default_window, resolve

__all__ = [
    "BINS",
    "LEAST_SIDE",
    "REASONS",
    "Reason",
    "Survey",
    "SurveyProgress",
    "SurveyedSeries",
    "SurveyedSlice",
    "slices_left_out",
    "survey",
]

Reason = Literal[
    "localizer", "derived", "modality", "plane", "small", "range", "empty", "copy", "excluded"
]


#: Bins of `SurveyedSeries.histogram`.
BINS = 32


#: A backbone's smallest patch.
LEAST_SIDE = 14


#: Why slices are excluded, in words that follow "excluded:".
REASONS: dict[Reason, str] = {
    "localizer": "localizer (scout) images",
    "derived": "derived series (projections, maps)",
    "modality": "another modality than the one chosen",
    "plane": "images and uneven stacks, which cannot be cut along the plane chosen",
    "small": f"less than {LEAST_SIDE} pixels wide or high",
    "range": "outside the range of slices chosen",
    "empty": "little body on them",
    "copy": "copies of other files",
    "excluded": "excluded by you",
}


@dataclass(frozen=True, eq=False)
class SurveyedSlice:
    """One slice that is large enough, used or not.

    Parameters
    ----------
    ref : SliceRef
        Its location.
    place : float or None
        See `place_in_stack`; None for an image.
    body : float
        Share of it that is body.
    histogram : (BINS,) int32
        Its body pixels by intensity.
    """

    ref: SliceRef
    place: float | None
    body: float
    histogram: npt.NDArray[np.int32] = field(repr=False)


@dataclass(frozen=True, eq=False)
class SurveyedSeries:
    """One volume, or the images of one patient in one folder.

    Parameters
    ----------
    key : str
        Sha256 hex digest of its content, wherever it is.
    label : str
        Short name that is safe to show.
    group : str
        The patient, according to the files. May be part of a file name: do not show it.
    modality : {"mri", "ct", "oct", "other", "unknown"}
        According to its header.
    plane : str
        Anatomical plane of acquisition; "" if unknown.
    sizes : frozenset of (int, int)
        Rows and columns of its slices.
    spacing : (float or None, float, float) or None
        Millimetres between slices (None if uneven), rows and columns; None if unknown.
    slices : tuple of SurveyedSlice
        All candidates.
    refs : tuple of SliceRef
        Slices selected for training.
    left_out : mapping of str to int
        Number of excluded slices, by reason.
    histogram : (BINS,) int64
        Body pixels of ``refs`` by intensity, from the window's black to its white.
    picture : (rows, columns) uint8, optional
        Thumbnail of the middle one of ``refs``, as the model sees it.
    held_out : bool
        Whether it is for validation, according to the folder.
    """

    key: str
    label: str
    group: str = field(repr=False)
    modality: Modality
    plane: str
    sizes: frozenset[tuple[int, int]]
    spacing: tuple[float | None, float, float] | None = None
    slices: tuple[SurveyedSlice, ...] = field(default=(), repr=False)
    refs: tuple[SliceRef, ...] = ()
    left_out: Mapping[Reason, int] = field(default_factory=dict)
    histogram: npt.NDArray[np.int64] = field(
        default_factory=lambda: np.zeros(BINS, np.int64), repr=False
    )
    picture: npt.NDArray[np.uint8] | None = field(default=None, repr=False)
    held_out: bool = False

    @property
    def patient(self) -> str:
        """Name of the patient that is safe to show: the start of a hash."""
        return hashlib.sha256(self.group.encode(errors="surrogatepass")).hexdigest()[:8]

    def chosen(self, selection: Selection) -> SurveyedSeries:
        """Select other slices; the selection must have the plane of the survey."""
        used, out = [], {k: n for k, n in self.left_out.items() if k not in ("range", "empty")}
        for one in self.slices:
            if not selection.holds(one.place):
                out["range"] = out.get("range", 0) + 1
            elif one.body < selection.min_body:
                out["empty"] = out.get("empty", 0) + 1
            else:
                used.append(one)
        return replace(
            self,
            refs=tuple(one.ref for one in used),
            left_out=out,
            histogram=np.sum([one.histogram for one in used], axis=0, dtype=np.int64)
            if used
            else np.zeros(BINS, np.int64),
        )


@dataclass(frozen=True)
class Survey:
    """What was found, and what could not be read."""

    series: tuple[SurveyedSeries, ...]
    errors: tuple[InputError, ...] = ()

    def chosen(self, selection: Selection) -> Survey:
        """Select other slices of the same series, see `SurveyedSeries.chosen`."""
        return replace(self, series=tuple(one.chosen(selection) for one in self.series))


def slices_left_out(series: Iterable[SurveyedSeries]) -> list[str]:
    """Sentences that state how many slices are excluded, one for each reason."""
    counts: Counter[Reason] = Counter()
    for one in series:
        counts.update(one.left_out)
    return [
        f"{counts[reason]} slice{'s' if counts[reason] > 1 else ''} excluded: {words}."
        for reason, words in REASONS.items()
        if counts[reason]
    ]


_KNOWN = ("mri", "ct", "oct")


@dataclass(frozen=True)
class SurveyProgress:
    """How many files were read, of how many (0: not known yet)."""

    done: int
    total: int


def survey(
    folders: str | Path | Sequence[str | Path],
    *,
    modality: Modality = "unknown",
    window: Window | None = None,
    patient_pattern: str | None = None,
    selection: Selection | None = None,
) -> Generator[SurveyProgress, None, Survey]:
    """Survey folders of scans, slice by slice; stop iterating to cancel.

    Parameters
    ----------
    folders : path-like or sequence of path-like
        Each as for `napari_spatial_ar.datasets.folders.find_slices`.
    modality, window, patient_pattern
        As for `find_slices`.
    selection : Selection, optional
        Which slices of the volumes are used; by default all with enough body.

    Yields
    ------
    SurveyProgress

    Returns
    -------
    Survey
        In the order of the folders. A file met twice counts once, whatever its name.

    Raises
    ------
    InputError
        If there is no such folder, one has no readable image, or the pattern is not a regular
        expression or does not match a file.
    """
    check_pattern(patient_pattern)
    yield SurveyProgress(0, 0)
    paths = [folders] if isinstance(folders, str | Path) else folders
    parts = [part for path in paths for part in _parts(Path(path))]
    found = [(folder, find_sources(folder), held_out) for folder, held_out in parts]
    total = sum(len(source.files) for _, sources, _ in found for source in sources)
    walk, done = _Walk(modality, window or default_window(modality), selection or Selection()), 0
    for folder, sources, held_out in found:
        groups = groups_by_name(folder, sources, patient_pattern)
        walk.held_out = held_out
        for source in sources:
            examined = 0
            for examined in walk.source(source, groups):
                yield SurveyProgress(done + examined, total)
            done += len(source.files)
            yield SurveyProgress(done, total)
    if walk.errors and not walk.series:
        raise walk.errors[0]
    return Survey(tuple(walk.series), tuple(walk.errors))


def _parts(folder: Path) -> list[tuple[Path, bool]]:
    """Folders to search, and whether their contents are for validation."""
    train = bmad_folder(folder, "train", "good")
    if train is None:
        return [(folder, False)]
    valid = bmad_folder(folder, "valid", "good")
    return [(train, False)] if valid is None else [(train, False), (valid, True)]


class _Slices:
    """Gathers the slices of one series."""

    def __init__(self) -> None:
        self.slices: list[SurveyedSlice] = []
        self.left_out: Counter[Reason] = Counter()
        self.sizes: set[tuple[int, int]] = set()

    def take(self, ref: SliceRef, unit: npt.NDArray[np.float32], place: float | None) -> None:
        rows, columns = unit.shape
        self.sizes.add((rows, columns))
        if min(rows, columns) < LEAST_SIDE:
            self.left_out["small"] += 1
            return
        body = tissue_mask(unit)
        bins = np.minimum((unit[body] * BINS).astype(np.intp), BINS - 1)
        histogram = np.bincount(bins, minlength=BINS).astype(np.int32)
        self.slices.append(SurveyedSlice(ref, place, float(body.mean()), histogram))

    def put_into(self, series: SurveyedSeries, selection: Selection) -> SurveyedSeries:
        return replace(
            series,
            sizes=frozenset(self.sizes),
            slices=tuple(self.slices),
            left_out=dict(self.left_out),
        ).chosen(selection)


class _Walk:
    """Processes sources one after the other, remembering what it has seen."""

    def __init__(self, modality: Modality, window: Window, selection: Selection) -> None:
        self.modality, self.window, self.selection = modality, window, selection
        self.held_out = False
        self.series: list[SurveyedSeries] = []
        self.errors: list[InputError] = []
        self._seen: set[str] = set()

    def source(self, source: Source, groups: Mapping[Path, str]) -> Iterator[int]:
        """Survey one source; yields the number of its files that are done."""
        if source.format != "raster":
            yield from self._volumes(source, groups.get(source.files[0]))
            return
        patients: dict[str, list[Path]] = {}
        for path in source.files:
            if page_count(path) > 1:
                yield from self._volumes(Source("raster", (path,)), groups[path])
            else:
                patients.setdefault(groups[path], []).append(path)
        done = len(source.files) - sum(map(len, patients.values()))
        for group, pictures in patients.items():
            for _ in self._pictures(group, pictures):
                done += 1
                yield done

    def _is_new(self, key: str) -> bool:
        new = key not in self._seen
        self._seen.add(key)
        return new

    def _pictures(self, group: str, paths: Sequence[Path]) -> Iterator[None]:
        slices, shown = _Slices(), None
        key = hashlib.sha256(b"pictures")
        for number, path in enumerate(paths):
            yield
            try:
                digest = file_digest(path)
                key.update(digest.encode())
                if not self._is_new(digest):
                    slices.left_out["copy"] += 1
                    continue
                if self.selection.cut is not None:
                    slices.left_out["plane"] += 1
                    continue
                image, intensity = read_raster(path)
                unit = apply_window(image, *resolve(self.window, image, intensity))
            except InputError as error:
                self.errors.append(error)
                continue
            slices.take(SliceRef(path, None, group, Source("raster", (path,))), unit, None)
            if slices.slices and (shown is None or number <= len(paths) // 2):
                shown = downscale(unit)
        if slices.sizes or slices.left_out:
            count = "1 image" if len(paths) == 1 else f"{len(paths)} images"
            found = SurveyedSeries(
                key.hexdigest(), count, group, "unknown", "", frozenset(), held_out=self.held_out
            )
            found = slices.put_into(found, self.selection)
            self.series.append(replace(found, picture=shown))

    def _volumes(self, source: Source, group: str | None) -> Iterator[int]:
        try:
            scans = scans_in(source)
            group = group or patient_key(source.files[0])
            content = "".join(file_digest(path) for path in source.files)
            for number, scan in enumerate(scans):
                key = hashlib.sha256(f"{number} {content}".encode()).hexdigest()
                try:
                    yield from self._volume(scan, self._series(scan, key, group), source, number)
                except InputError as error:
                    self.errors.append(error)
        except InputError as error:
            self.errors.append(error)

    def _series(self, scan: Scan, key: str, group: str) -> SurveyedSeries:
        cut, geometry = self.selection.cut, scan.geometry
        acquired = geometry.plane if geometry.spacing_known else ""
        if cut is not None and geometry.measurable:
            geometry = geometry.along(cut)
        across = geometry.display_slice_axis
        rows, columns = (n for axis, n in enumerate(geometry.display_shape) if axis != across)
        height, width = (s for axis, s in enumerate(geometry.display_spacing) if axis != across)
        apart = geometry.display_spacing[across] if geometry.slice_positions is None else None
        return SurveyedSeries(
            key=key,
            label=scan.series.label,
            group=group,
            modality=scan.modality,
            plane=acquired,
            sizes=frozenset([(rows, columns)]),
            spacing=(apart, height, width) if geometry.spacing_known else None,
            held_out=self.held_out,
        )

    def _whole(self, scan: Scan, key: str) -> Reason | None:
        """Return the reason for which none of its slices is used, if there is one."""
        if not self._is_new(key):
            return "copy"
        if scan.role != "original":
            return scan.role
        known = scan.modality in _KNOWN and self.modality in _KNOWN
        if known and scan.modality != self.modality:
            return "modality"
        cut, geometry = self.selection.cut, scan.geometry
        if cut is None or geometry.measurable:
            return None
        return None if geometry.spacing_known and geometry.plane == cut else "plane"

    def _volume(
        self, scan: Scan, series: SurveyedSeries, source: Source, number: int
    ) -> Iterator[int]:
        reason = self._whole(scan, series.key)
        if reason is not None:
            self.series.append(replace(series, left_out={reason: scan.geometry.slice_count}))
            return
        volume, slices = scan.read().along(self.selection.cut), _Slices()
        geometry, ends = volume.geometry, resolve(self.window, volume)
        # The same slices have the same key whether this plane was requested or is their own.
        plane = None if geometry.slice_axis == scan.geometry.slice_axis else geometry.plane
        files = volume.series.files
        one_each = plane is None and len(files) == geometry.slice_count
        for index in range(geometry.slice_count):
            path = files[index] if one_each else files[0]
            ref = SliceRef(path, index, series.group, source, number, plane)
            unit = apply_window(volume.slice(index), *ends)
            slices.take(ref, unit, place_in_stack(geometry, index))
            yield 0
        series = slices.put_into(series, self.selection)
        shown = series.refs or tuple(one.ref for one in series.slices)
        if shown:
            middle = shown[len(shown) // 2].index or 0
            steps = series.spacing[1:] if series.spacing else (1.0, 1.0)
            picture = downscale(apply_window(volume.slice(middle), *ends), steps)
            series = replace(series, picture=picture)
        self.series.append(series)
