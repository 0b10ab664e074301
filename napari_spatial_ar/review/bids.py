"""Masks under the names of BIDS derivatives, for scans in a BIDS dataset.

Reference: "Derivatives: imaging, discrete and binary segmentations" of the specification. The names
contain the subjects' labels: files written here identify whoever the dataset identifies.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.dicom.derived import software
from napari_spatial_ar.imaging.files import atomic_path, atomic_write_json, atomic_write_text
from napari_spatial_ar.imaging.json_text import parse_json
from napari_spatial_ar.review.outputs import OUTPUT_FILES
from napari_spatial_ar.review.provenance import RESEARCH_USE

__all__ = ["BidsDerivatives", "BidsScan"]

_VERSION = "1.10.0"
_DESCRIPTION = "dataset_description.json"
_SCAN = re.compile(r"(sub-[a-zA-Z0-9]+(?:_[a-zA-Z]+-[a-zA-Z0-9+]+)*)_([a-zA-Z0-9]+)\.nii(?:\.gz)?")
_COLUMNS = {
    "index": ("rank", "Value of the region's voxels, 1 for the highest peak"),
    "name": ("name", "Flagged region, or finding if a reader kept it"),
    "color": ("colour", "As #rrggbb"),
    "voxels": ("voxels", "Number of voxels"),
    "volume_ml": ("volume_ml", "Volume in ml"),
    "peak_score": ("peak_score", "Highest score in the region, in 'unit'"),
    "mean_score": ("mean_score", "Mean score in the region, in 'unit'"),
    "unit": ("unit", "Unit of the scores"),
}


@dataclass(frozen=True)
class BidsScan:
    """A scan's file in a BIDS dataset.

    Parameters
    ----------
    root : Path
        The dataset: the folder with its ``dataset_description.json``.
    file : PurePosixPath
        The scan's file in it: ``sub-01/anat/sub-01_FLAIR.nii.gz``.
    """

    root: Path
    file: PurePosixPath

    @classmethod
    def of(cls, path: Path) -> BidsScan | None:
        """Find the dataset that a file belongs to; None without a dataset or a BIDS name."""
        path = path.absolute()
        if _SCAN.fullmatch(path.name) is None:
            return None
        subject = path.name.partition("_")[0]
        for folder in path.parents:
            if folder.name == subject and (folder.parent / _DESCRIPTION).is_file():
                return cls(folder.parent, PurePosixPath(path.relative_to(folder.parent).as_posix()))
        return None

    @property
    def stem(self) -> str:
        """Path of its derivatives, without suffix and extension."""
        match = _SCAN.fullmatch(self.file.name)
        assert match is not None
        entities, suffix = match[1].split("_"), match[2]
        description = [part.removeprefix("desc-") for part in entities if part.startswith("desc-")]
        kept = [part for part in entities if not part.startswith("desc-")]
        # FLAIR and T1w of one subject have findings of their own.
        name = "_".join((*kept, f"desc-{''.join(description)}{suffix}findings"))
        return str(self.file.parent / name)


@dataclass(frozen=True)
class _Description:
    """The part of a ``dataset_description.json`` that states the source dataset."""

    DatasetLinks: dict[str, str]


class BidsDerivatives:
    """A dataset of BIDS derivatives for the masks of a run.

    Parameters
    ----------
    folder : Path
        The dataset, created with the first scan.
    model : str
        Name of the model.
    """

    def __init__(self, folder: Path, model: str) -> None:
        self.folder = folder
        self._model = model
        self._raw: Path | None = None
        self._from: dict[tuple[Path, str], Path] = {}

    def add(self, files: Sequence[Path], results: Path) -> str | None:
        """Write the masks of a scan under BIDS names.

        Parameters
        ----------
        files : sequence of Path
            Files of the scan.
        results : Path
            Folder of its results, see `write_scan_outputs`.

        Returns
        -------
        str or None
            Why it has no BIDS name, as part of a sentence; None if it was written.

        Raises
        ------
        InputError
            If the folder contains derivatives of another dataset.
        StorageError
            If a file cannot be written.
        """
        scan = BidsScan.of(files[0]) if len(files) == 1 else None
        if scan is None:
            return "its file has no BIDS name in a BIDS dataset"
        if self._from.setdefault((scan.root, scan.stem), results) != results:
            return "its file contains several volumes, which BIDS names do not distinguish"
        if not (results / OUTPUT_FILES["findings"]).is_file():
            return "its results are of an earlier version: score it again"
        self._describe(scan.root)
        target = self.folder / scan.stem
        for key, kind in (("findings", "dseg"), ("mask", "mask")):
            with atomic_path(target.with_name(f"{target.name}_{kind}.nii.gz")) as temporary:
                shutil.copyfile(results / OUTPUT_FILES[key], temporary)
        found = json.loads((results / OUTPUT_FILES["findings_json"]).read_bytes())["findings"]
        atomic_write_text(target.with_name(f"{target.name}_dseg.tsv"), _table(found))
        about = {"Sources": [f"bids:raw:{scan.file}"], "SpatialReference": f"bids:raw:{scan.file}"}
        columns = {name: {"Description": text} for name, (_, text) in _COLUMNS.items()}
        regions = {"Description": f"Flagged regions by number. {RESEARCH_USE}", **about, **columns}
        atomic_write_json(target.with_name(f"{target.name}_dseg.json"), regions)
        mask = {"Description": f"Flagged regions. {RESEARCH_USE}", "Type": "ROI", **about}
        atomic_write_json(target.with_name(f"{target.name}_mask.json"), mask)
        return None

    def _describe(self, raw: Path) -> None:
        if self._raw == raw:
            return
        link = Path(os.path.relpath(raw, self.folder.absolute())).as_posix()
        path = self.folder / _DESCRIPTION
        if path.is_file():
            try:
                known = parse_json(path.read_bytes(), _Description)
            except (OSError, ValueError):
                known = _Description({})
            if known.DatasetLinks != {"raw": link}:
                raise InputError(
                    "this folder contains another BIDS dataset, or derivatives of another",
                    path=self.folder,
                    fix="Score each dataset into a folder of its own",
                )
        name, version = software().split(" ", 1)
        document = {
            "Name": f"Flagged regions by the model {self._model}",
            "BIDSVersion": _VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": name, "Version": version, "Description": RESEARCH_USE}],
            "DatasetLinks": {"raw": link},
        }
        atomic_write_json(path, document)
        atomic_write_text(self.folder / "README", f"{document['Name']}. {RESEARCH_USE}\n")
        self._raw = raw


def _cell(value: object) -> str:
    if value is None:
        return "n/a"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _table(findings: Sequence[Mapping[str, Any]]) -> str:
    """Look-up table of the label map: rejected findings are in neither."""
    rows = ["\t".join(_COLUMNS)]
    for finding in findings:
        if finding["label"]:
            values = [finding[key] for key, _ in _COLUMNS.values()]
            rows.append("\t".join(map(_cell, values)))
    return "\n".join(rows) + "\n"
