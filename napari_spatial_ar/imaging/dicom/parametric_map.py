"""Heatmaps as DICOM parametric maps, on the frames from which the scan was read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import highdicom as hd
import numpy as np
import numpy.typing as npt
from highdicom.pm import ImageFlavorValues, ParametricMap, RealWorldValueMapping
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.dicom.derived import (
    REMARK,
    Algorithm,
    Reading,
    SourceSlice,
    Written,
    complete,
    derived_uids,
    finish,
    plain_text,
    save,
    software,
    source_slices,
)
from napari_spatial_ar.imaging.guard import guard
from napari_spatial_ar.imaging.scan import Scan

__all__ = ["write_parametric_map"]

_SERIES_NUMBER = 9002


def write_parametric_map(
    path: str | Path,
    scores: npt.NDArray[np.generic],
    scan: Scan,
    *,
    algorithm: Algorithm,
    unit: str,
    sources: Sequence[SourceSlice] | None = None,
) -> Written:
    """Write scores as a DICOM parametric map of float32 that coincides with the scan.

    The patient's identity is copied from the scan, as by
    `napari_spatial_ar.imaging.dicom.seg.write_seg`. Every slice is stored; those that were not
    scored have the values of ``scores`` there. Memory: about 4 times the scores, as highdicom
    builds the file in memory.

    The UIDs follow from scan, algorithm and scores: writing the same again gives the same.

    Parameters
    ----------
    path : path-like
        The file to write, completely or not at all.
    scores : (Z, Y, X) floating
        On the scan's grid, in source order.
    scan : Scan
        The scored scan, read from DICOM files that still exist.
    algorithm : Algorithm
        What computed them.
    unit : str
        Their unit in words, at most 64 characters; its code is UCUM "1" (no units).
    sources : sequence of SourceSlice, optional
        Result of `source_slices` for the scan, if available.

    Returns
    -------
    Written
        Its UIDs.

    Raises
    ------
    InputError
        If the scores are not finite or not on the scan's grid, or because of the scan, as in
        `napari_spatial_ar.imaging.dicom.seg.write_seg`.
    StorageError
        If the file cannot be written.
    """
    path = Path(path)
    values = np.asarray(scores, dtype=np.float32)
    if values.shape != scan.geometry.shape:
        raise InputError(
            f"scores of {values.shape} are not on the scan's grid {scan.geometry.shape}"
        )
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError("scores that are not finite numbers cannot be written")
    high = high if high > low else low + 1.0
    slices = source_slices(scan) if sources is None else sources
    regular = scan.geometry.regular
    made_by = plain_text(f"{algorithm.name} {algorithm.version}")
    # Scores are the same at any threshold: the settings do not count.
    series, instance = derived_uids(
        "parametric map", slices, algorithm.name, algorithm.version, unit, values
    )
    with guard(scan.series.files[0], "no DICOM parametric map can be derived from its header"):
        made = ParametricMap(
            source_images=[source.header for source in slices],
            pixel_array=values,
            series_instance_uid=series,
            series_number=_SERIES_NUMBER,
            sop_instance_uid=instance,
            instance_number=1,
            manufacturer="napari-spatial-ar",
            manufacturer_model_name="napari-spatial-ar",
            software_versions=cast(Any, (software(), made_by)),
            device_serial_number="0",
            contains_recognizable_visual_features=False,
            real_world_value_mappings=[
                RealWorldValueMapping(
                    lut_label="SCORE",
                    lut_explanation=plain_text(unit),
                    unit=codes.UCUM.NoUnits,
                    value_range=(low, high),
                    slope=1.0,
                    intercept=0.0,
                )
            ],
            voi_lut_transformations=[
                hd.VOILUTTransformation(
                    window_center=round((low + high) / 2, 4),
                    window_width=round(high - low, 4) or 1.0,
                    # A plain linear window must be at least one unit wide.
                    voi_lut_function=hd.VOILUTFunctionValues.LINEAR_EXACT,
                )
            ],
            content_label="SCORE_MAP",
            content_description=REMARK,
            series_description=Reading().described("Departure from normal, score map", slices[0]),
            image_flavor=ImageFlavorValues.VOLUME if regular else ImageFlavorValues.PARALLEL,
            transfer_syntax_uid=ExplicitVRLittleEndian,
        )
        complete(made, slices[0])
        finish(made, slices)
    save(made, path)
    return Written.of(made)
