"""Watches an archive with a scorer that takes no time: `python -m tests.archive.watcher`."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pydicom

from napari_spatial_ar.archive.access import Access
from napari_spatial_ar.archive.entries import StudyQuery
from napari_spatial_ar.archive.opening import open_archive
from napari_spatial_ar.archive.watching import Watched, watch
from tests.scans import build_image


def derived(uid: str, what: str) -> str:
    """A UID that follows from another one (PS3.5 B.2)."""
    return f"2.25.{int(hashlib.sha256(f'{uid} {what}'.encode()).hexdigest()[:30], 16)}"


def score(folder: Path, out: Path) -> str:
    """Write one object for a series, and a line into ``scored`` beside the results."""
    source = pydicom.dcmread(sorted(folder.iterdir())[0], stop_before_pixels=True)
    series = str(source.SeriesInstanceUID)
    result = build_image(
        np.zeros((8, 8), np.uint8),
        SeriesInstanceUID=derived(series, "series"),
        SOPInstanceUID=derived(series, "instance"),
        StudyInstanceUID=str(source.StudyInstanceUID),
        PatientID=source.PatientID,
        PatientName=source.PatientName,
        Modality="OT",
        ImageType=["DERIVED", "SECONDARY"],
    )
    result.file_meta.MediaStorageSOPInstanceUID = result.SOPInstanceUID
    out.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(out / "result.dcm", result, enforce_file_format=True)
    with open(out.parents[1] / "scored", "a") as log:
        log.write(f"{out.name}\n")
    return ""


def watching(url: str, folder: Path, once: bool = False) -> Generator[Watched, None, None]:
    archive = open_archive(url, Access(timeout=5.0, retries=1))
    return watch(
        archive,
        archive,
        StudyQuery,
        folder,
        score,
        admits=lambda series: series.modality == "MR",
        interval=0.2,
        settle=0.0,
        once=once,
    )


if __name__ == "__main__":
    for news in watching(sys.argv[1], Path(sys.argv[2])):
        if news.entry is not None:
            sys.stdout.write(f"{news.entry.state}\n")
            sys.stdout.flush()
