"""File and frame from which each slice of a scan was read, as referenced by outputs."""

from __future__ import annotations

from pathlib import Path

from napari_spatial_ar.imaging.scan import Scan

__all__ = ["dicom_sources"]


def dicom_sources(volume: Scan) -> tuple[tuple[Path, int], ...] | None:
    """Find the file and frame of each slice of a scan that was read from DICOM.

    Parameters
    ----------
    volume : Scan
        As from `napari_spatial_ar.imaging.reading.read` or `find_scans`.

    Returns
    -------
    tuple of (Path, int), or None
        For each acquired slice, in the order of Z: its file, and the index of its frame in that
        file, counted from 0 (ReferencedFrameNumber counts from 1). None if the scan is not from
        DICOM, or its slices are not frames by themselves (a Siemens mosaic).
    """
    files, frames = volume.series.files, volume.series.frames
    # Images are stacked along Z, whatever the plane in which the volume is viewed.
    if not frames or len(frames) != volume.geometry.shape[0]:
        return None
    if len(files) == 1:
        files = files * len(frames)
    return tuple(zip(files, frames, strict=True)) if len(files) == len(frames) else None
