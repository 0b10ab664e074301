"""Results of earlier runs in a folder: of which scans they are, and whether they are complete.

Each scan's folder has a ``provenance.json`` that is written last. It identifies the scan by its
content and the settings by a hash, and lists every other file with its size and sha256.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from napari_spatial_ar.datasets.slices import file_digest
from napari_spatial_ar.errors import InputError, InUseError
from napari_spatial_ar.imaging.dicom.derived import image_marks, source_slices
from napari_spatial_ar.imaging.files import holds_leftovers, locked
from napari_spatial_ar.imaging.json_text import parse_json
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.review.outputs import (
    OUTPUT_FILES,
    earlier_files,
    facts_of,
    finish_interrupted,
    in_folder,
    scan_folder_name,
)
from napari_spatial_ar.review.provenance import voxels_sha256

__all__ = ["EarlierResults", "StoredResults", "results_folder", "scan_sha256", "tidy"]

_DIGITS = 8
# Keys of a summary that are reported at the end of a run.
_KEYS = {"series", "findings", "p_value", "p_value_patients", "warnings", "files"}


def scan_sha256(scan: Scan) -> str:
    """Identify a scan by content: that of its files, its position in them and its grid.

    Names and locations of files do not matter.

    Raises
    ------
    InputError
        If a file is missing or cannot be read.
    """
    geometry, series = scan.geometry, scan.series
    facts = (series.label, series.frames, geometry.shape, geometry.slice_axis)
    digest = hashlib.sha256(repr(facts).encode(errors="surrogateescape"))
    digest.update(np.round(np.asarray(geometry.affine, float), 4).tobytes())
    for path in series.files:
        digest.update(file_digest(path).encode())
    return digest.hexdigest()


def tidy(out: Path) -> None:
    """Finish or remove what killed processes left in the folders of scans.

    Folders that another process writes to are left alone.
    """
    for folder in sorted(path for path in out.iterdir() if path.is_dir()):
        if not holds_leftovers(folder):
            continue
        with suppress(InUseError), locked(folder):
            finish_interrupted(folder)
        with suppress(OSError):
            folder.rmdir()  # if nothing was written to it


@dataclass(frozen=True)
class StoredResults:
    """Results of a scan that an earlier run wrote.

    Parameters
    ----------
    folder : Path
        Folder of the results.
    provenance : mapping
        Their ``provenance.json``.
    """

    folder: Path
    provenance: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, folder: Path) -> StoredResults | None:
        """Return the results in a folder; None if it has no complete record."""
        try:
            found = parse_json((folder / OUTPUT_FILES["provenance"]).read_bytes(), dict[str, Any])
        except (OSError, ValueError):
            return None
        if not isinstance(found.get("scan"), dict):
            return None
        return cls(folder, found)

    @property
    def scan(self) -> str:
        """`scan_sha256` of the scan; "" if the results were not written by `score`."""
        return str(self._run.get("scan", ""))

    @property
    def _run(self) -> Mapping[str, Any]:
        run, files, summary = (self.provenance.get(n) for n in ("run", "files", "summary"))
        if not all(isinstance(part, dict) for part in (run, files, summary)):
            return {}
        return run if summary.keys() >= _KEYS else {}  # type: ignore[union-attr, return-value]

    @property
    def images(self) -> set[str]:
        """`image_marks` of the scan; empty if no DICOM objects were written."""
        reading = self.provenance.get("dicom")
        found = reading.get("images") if isinstance(reading, dict) else None
        return {str(mark) for mark in found} if isinstance(found, list) else set()

    @property
    def command(self) -> str:
        """Hash of the command that wrote them; "" if it was not `score`."""
        return str(self._run.get("command", ""))

    @property
    def record(self) -> dict[str, Any]:
        """The scan's record, as returned by `score_scan`."""
        # Records of earlier versions state the unit only beside the threshold.
        unit = self.provenance["threshold"]["unit"]
        return in_folder({**self.provenance["summary"], "unit": unit}, self.folder)

    def is_finished(self, settings: str, *, overwrite: bool) -> bool:
        """Whether a scan needs no scoring, because all its results exist.

        Parameters
        ----------
        settings : str
            Hash of model and settings.
        overwrite : bool
            Whether to replace results of other settings, and results that were changed since.

        Raises
        ------
        InputError
            If there are such results and they must not be replaced.
        """
        if self._run.get("settings") != settings:
            if overwrite:
                return False
            raise InputError(
                "results of an earlier run with another model or other settings are in this folder",
                path=self.folder,
                fix="Choose another folder, or overwrite them",
            )
        there = {
            name: self.folder / name
            for name in self.provenance["files"]
            if (self.folder / name).is_file()
        }
        written = self.provenance["files"]
        changed = [name for name, path in there.items() if facts_of(path) != written[name]]
        if changed and not overwrite:
            raise InputError(
                "has changed since an earlier run wrote it",
                path=self.folder / changed[0],
                fix="Move it away to have it written again, or overwrite it",
            )
        return not changed and len(there) == len(written)


def results_folder(out: Path, volume: Scan) -> Path:
    """Choose a scan's folder in one that may contain other results: not one of another scan.

    Unlike `EarlierResults.name_for` it compares voxels, so it works with results of any origin;
    those without a record may be the scan's.
    """
    voxels: str | None = None
    name, digits = scan_folder_name(volume), _DIGITS
    folder = out / name
    while (kept := StoredResults.of(folder)) is not None:
        voxels = voxels or voxels_sha256(volume)
        if kept.provenance["scan"].get("voxels_sha256") == voxels:
            break
        folder = out / f"{name}-{voxels[:digits]}"
        digits += 1
    return folder


class EarlierResults:
    """The results in a folder, one folder per scan, and names for new ones.

    Parameters
    ----------
    out : Path
        The folder, locked by this process.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        tidy(out)
        #: `StoredResults.command` of all results.
        self.commands: set[str] = set()
        self._folders: dict[str, Path] = {}
        self._given: set[str] = set()
        # Folders by one image of their scan, to find that of a scan that has got more images.
        self._by_image: dict[str, Path] = {}
        for folder in sorted(path for path in out.iterdir() if path.is_dir()):
            kept = StoredResults.of(folder)  # one record at a time: there may be thousands
            if kept is not None:
                self.commands.add(kept.command)
                if kept.scan:
                    self._folders.setdefault(kept.scan, folder)
                if kept.images:
                    self._by_image[min(kept.images)] = folder

    def of(self, scan: str) -> StoredResults | None:
        """Results of a scan, named by `scan_sha256`."""
        folder = self._folders.get(scan)
        return None if folder is None else StoredResults.of(folder)

    def name_for(self, volume: Scan, scan: str, *, overwrite: bool = False) -> str:
        """Name a scan's folder: its own if there is one, and never that of another scan.

        The name is that of its series. If another scan has this name already, the start of the
        scan's own hash is added. With ``overwrite``, a scan that has got more images since has the
        folder that it had with fewer.
        """
        known = self._folders.get(scan)
        if known is None and overwrite:
            known = self._of_fewer_images(volume)
        name = plain = scan_folder_name(volume)
        digits = _DIGITS
        if known is not None:
            name = known.name
        else:
            while name in self._given or not self._is_free(name, volume):
                name = f"{plain}-{scan[:digits]}"
                digits += 1
        self._given.add(name)
        return name

    def _of_fewer_images(self, volume: Scan) -> Path | None:
        """Folder with results of the scan from when it had some of its images only."""
        if not self._by_image:
            return None
        try:
            marks = image_marks(source_slices(volume))
        except InputError:  # not from DICOM
            return None
        for folder in filter(None, map(self._by_image.get, marks)):
            kept = StoredResults.of(folder)
            if kept is not None and folder.name not in self._given and kept.images < {*marks}:
                return folder
        return None

    def _is_free(self, name: str, volume: Scan) -> bool:
        folder = self.out / name
        if not earlier_files(folder):
            return True
        kept = StoredResults.of(folder)
        if kept is None or kept.scan:
            return False
        # Of an earlier version, or exported by hand: only the voxels show which scan it is.
        return bool(kept.provenance["scan"].get("voxels_sha256") == voxels_sha256(volume))
