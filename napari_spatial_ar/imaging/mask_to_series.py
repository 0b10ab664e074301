"""Writing a mask file as a DICOM segmentation of the series it belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.dicom.derived import Algorithm, caveats, is_from_dicom
from napari_spatial_ar.imaging.dicom.seg import write_seg
from napari_spatial_ar.imaging.nifti_header import read_header
from napari_spatial_ar.imaging.reading import find_scans
from napari_spatial_ar.imaging.regrid import SAME_GRID_MM, distance_between, onto_grid
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.segments import Segment
from napari_spatial_ar.imaging.signatures import is_nifti

__all__ = ["SegWritten", "mask_onto_series"]


@dataclass(frozen=True)
class SegWritten:
    """Summary of what was written.

    Parameters
    ----------
    series : str
        Label of the series on whose grid the mask is.
    voxels, slices : int
        Size of the mask: its voxels, and the slices that contain any.
    warnings : tuple of str
        What the user should know about it.
    """

    series: str
    voxels: int
    slices: int
    warnings: tuple[str, ...] = ()


def mask_onto_series(
    mask: str | Path,
    reference: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    algorithm: Algorithm | None = None,
    edited: bool = False,
    label: str = "Departure from normal",
    segments: Sequence[Segment] = (),
) -> SegWritten:
    """Write a mask file as a DICOM segmentation of the series that has the same grid.

    Parameters
    ----------
    mask : path-like
        A 3-D image of whole numbers, nonzero inside (NIfTI, NRRD, ...), in any axis order. Or a
        mask of unevenly spaced slices, for which there is no valid affine: a NIfTI file written by
        this program, or drawn on one; it is assigned slice by slice.
    reference : path-like or several
        DICOM files or folders; of the series in them, the one that matches is used.
    out : path-like
        See `write_seg`, also for ``algorithm``, ``edited`` and ``label``.
    segments : sequence of Segment
        One for each number in the mask; there may be others that it no longer contains.

    Raises
    ------
    InputError
        If the mask is not such an image, contains a number without a segment if there are segments,
        or no series has its grid (to `SAME_GRID_MM`): the message then states how far off the
        closest one is.
    StorageError
        If the file cannot be written.
    """
    mask = Path(mask)
    drawn = _only_scan(mask)
    voxels, _ = drawn.whole()
    if not np.array_equal(voxels, np.rint(voxels)):
        raise InputError(
            "holds values that are not whole numbers, so it is not a mask",
            path=mask,
            fix="Give mask.nii.gz, not the heatmap",
        )
    found = [scan for scan in find_scans(reference).scans if is_from_dicom(scan)]
    if not found:
        raise InputError(f"{reference} holds no DICOM series that a mask can refer to", path=mask)
    if is_nifti(mask) and read_header(mask).uneven:
        series, placed = _uneven_series(drawn, found, mask), voxels
    else:
        series = _series_of(drawn, found, mask)
        placed = onto_grid(voxels, drawn.geometry.affine, series.geometry)
    inside = placed != 0
    if segments:
        values = set(np.unique(placed).tolist()) - {0}
        unknown = values - {segment.number for segment in segments}
        if unknown:
            raise InputError(
                f"holds {min(unknown):g}, for which there is no region",
                path=mask,
                fix="Give mask.nii.gz, or the map as it was written",
            )
        segments = [segment for segment in segments if segment.number in values]
        placed = placed.astype(np.uint16)
    write_seg(
        out,
        placed if segments else inside,
        series,
        algorithm=algorithm,
        edited=edited,
        label=label,
        segments=segments,
    )
    touched = int(np.count_nonzero(inside.any(axis=(1, 2))))
    warnings = (*caveats(series), *(() if touched else ("The mask is empty.",)))
    return SegWritten(series.series.label, int(np.count_nonzero(inside)), touched, warnings)


def _only_scan(mask: Path) -> Scan:
    scans = find_scans(mask).scans
    if len(scans) != 1 or not scans[0].geometry.spacing_known:
        what = "does not state its position" if len(scans) == 1 else f"holds {len(scans)} volumes"
        raise InputError(f"{what}, so it is not a mask of one scan", path=mask)
    return scans[0]


def _uneven_series(drawn: Scan, found: Sequence[Scan], mask: Path) -> Scan:
    """Return the one irregular series with the shape and the spacing of the mask."""
    shape, spacing = drawn.geometry.shape, drawn.geometry.spacing
    fitting = [
        scan
        for scan in found
        if scan.geometry.slice_positions is not None
        and scan.geometry.shape == shape
        and np.allclose(scan.geometry.spacing, spacing, rtol=1e-3)
    ]
    if len(fitting) != 1:
        many = "none is" if not fitting else f"{len(fitting)} are"
        raise InputError(
            f"belongs to unevenly spaced slices, {' x '.join(map(str, shape))} voxels (Z, Y, X), "
            f"and of the {len(found)} DICOM series {many} such a stack",
            path=mask,
            fix="Give only the series on which the mask was made",
        )
    return fitting[0]


def _series_of(drawn: Scan, found: Sequence[Scan], mask: Path) -> Scan:
    """Return the series with the mask's grid; the first if there are several."""
    shape, affine = drawn.geometry.shape, drawn.geometry.affine
    apart = [distance_between(shape, affine, scan.geometry) for scan in found]
    closest = int(np.argmin(apart))
    if apart[closest] > SAME_GRID_MM:
        scan = found[closest]
        size = " x ".join(map(str, scan.geometry.shape))
        how = (
            f"is up to {apart[closest]:.3g} mm off the closest one, {scan.series.label}"
            if np.isfinite(apart[closest])
            else f"has {' x '.join(map(str, shape))} voxels (Z, Y, X), and {scan.series.label} "
            f"{size}"
        )
        raise InputError(
            f"is not on the grid of any of the {len(found)} DICOM series: it {how}",
            path=mask,
            fix="Give the series on which the mask was made; nothing is resampled",
        )
    return found[closest]
