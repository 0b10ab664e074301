"""Outlines of findings as a DICOM grayscale softcopy presentation state (GSPS)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any, cast

import highdicom as hd
import numpy as np
import numpy.typing as npt
from highdicom.color import CIELabColor
from highdicom.pr import (
    GraphicAnnotation,
    GraphicLayer,
    GraphicObject,
    GrayscaleSoftcopyPresentationState,
    SoftcopyVOILUTTransformation,
    TextObject,
)
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from scipy import ndimage
from skimage.measure import find_contours

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.dicom.derived import (
    REMARK,
    Reading,
    SourceSlice,
    Written,
    complete,
    derived_uids,
    reference_to,
    save,
    software,
    source_slices,
)
from napari_spatial_ar.imaging.guard import guard
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.segments import Segment

__all__ = ["outlines_of", "write_presentation"]

Floats = npt.NDArray[np.float64]

_SERIES_NUMBER = 9006
_LABEL = "Outlines"
_LAYER = "FINDINGS"
# Bytes of all points of a line, 8 each, must fit 16 bits in explicit VR.
_MOST_POINTS = 8000
_CYAN = CIELabColor.from_rgb(0, 229, 255)


def write_presentation(
    path: str | Path,
    numbers: npt.NDArray[np.integer],
    scan: Scan,
    *,
    segments: Sequence[Segment],
    window: tuple[float, float] | None = None,
    reading: Reading | None = None,
    sources: Sequence[SourceSlice] | None = None,
) -> Written:
    """Write outlines of findings that a viewer draws over the source images.

    Each outline is a closed line on the pixels of its image as stored, with the finding's name and
    tracking identifiers. The patient's identity is copied from the scan, as by
    `napari_spatial_ar.imaging.dicom.seg.write_seg`. The UIDs follow from scan, findings and
    reading.

    Parameters
    ----------
    path : path-like
        The file to write, completely or not at all.
    numbers : (Z, Y, X) integer
        Number of its segment in each voxel, 0 outside; on the scan's grid, in source order.
    scan : Scan
        The scan, read from DICOM files that still exist.
    segments : sequence of Segment
        Segments of the numbers.
    window : (float, float), optional
        Voxel values to be displayed black and white. The window of the images' headers is used if
        their values are inverted (MONOCHROME1) or not those of a linear rescale.
    reading : Reading, optional
        By default the first.
    sources : sequence of SourceSlice, optional
        Result of `source_slices` for the scan, if available.

    Returns
    -------
    Written
        Its UIDs.

    Raises
    ------
    InputError
        If no voxel has a number, the images are in colour or their values rescaled by different
        factors, so that one presentation state cannot be of all of them, or because of the scan, as
        in `napari_spatial_ar.imaging.dicom.seg.write_seg`.
    StorageError
        If the file cannot be written.
    """
    path = Path(path)
    slices = source_slices(scan) if sources is None else sources
    reading = reading or Reading()
    flagged = [index for index in range(len(slices)) if numbers[index].any()]
    if not flagged:
        raise InputError("there is no outline: nothing is flagged")
    if any(int(slices[index].header.get("SamplesPerPixel") or 1) > 1 for index in flagged):
        raise InputError(
            "its images are in colour, and presentation states of this kind are of grey ones",
            path=scan.series.files[0],
            fix="Use the captures",
        )
    rescales = {slices[index].rescale for index in flagged}
    if len(rescales) > 1:
        raise InputError(
            "the pixels of its slices are rescaled by different factors, so one presentation state "
            "cannot be of all of them",
            path=scan.series.files[0],
            fix="Use the segmentation",
        )
    (rescale,) = rescales
    inverse = slices[flagged[0]].header.get("PhotometricInterpretation") == "MONOCHROME1"
    # Values that are inverted on reading, or follow from a table, are none that a viewer knows.
    as_viewed = rescale is not None and not inverse
    shown = _voi_lut(window if as_viewed else None, [slices[index] for index in flagged])
    series, instance = derived_uids(
        "presentation state",
        slices,
        [astuple(segment) for segment in segments],
        np.asarray(numbers, np.int32),
        None if window is None else list(window),
        astuple(reading),
    )
    with guard(scan.series.files[0], "no DICOM presentation state can be derived from its header"):
        layer = GraphicLayer(_LAYER, 1, "Outlines of flagged regions", display_color=_CYAN)
        annotations = [
            _annotation(numbers[index], slices[index].header, segments, layer) for index in flagged
        ]
        made = GrayscaleSoftcopyPresentationState(
            referenced_images=[slices[index].header for index in flagged],
            series_instance_uid=series,
            series_number=reading.series_number(_SERIES_NUMBER),
            sop_instance_uid=instance,
            instance_number=1,
            manufacturer="napari-spatial-ar",
            manufacturer_model_name="napari-spatial-ar",
            software_versions=software(),
            device_serial_number="0",
            content_label="OUTLINES",
            content_description=REMARK,
            series_description=reading.described(_LABEL, slices[0]),
            graphic_layers=[layer],
            graphic_annotations=annotations,
            modality_lut_transformation=(
                None
                if rescale is None
                else hd.ModalityLUTTransformation(
                    rescale_intercept=rescale[1], rescale_slope=rescale[0], rescale_type="US"
                )
            ),
            voi_lut_transformations=None if shown is None else [shown],
            presentation_lut_transformation=hd.PresentationLUTTransformation(
                presentation_lut_shape="INVERSE" if inverse else "IDENTITY"
            ),
            transfer_syntax_uid=ExplicitVRLittleEndian,
        )
        complete(made, slices[0])
        _correct(made, [slices[index] for index in flagged])
    save(made, path)
    return Written.of(made)


def outlines_of(plane: npt.NDArray[np.bool_]) -> list[Floats]:
    """Trace the closed outlines of a mask on its pixels.

    Parameters
    ----------
    plane : (rows, columns) bool
        The mask.

    Returns
    -------
    list of (N, 2) float64
        Column and row of each point, the first again at the end. 0, 0 is the corner of the first
        pixel and 1, 1 the opposite one (PS3.3 C.10.5.1.2). By the even-odd rule, the centres of
        exactly the mask's pixels are inside.
    """
    find: Any = find_contours  # untyped
    lines = find(np.pad(plane, 1).astype(np.float32), 0.5)
    return [np.asarray(line[:, ::-1] - 0.5, np.float64) for line in lines]


def _pieces(line: Floats) -> Iterator[Floats]:
    """Parts that a file can hold, each beginning at the end of the one before."""
    for start in range(0, len(line) - 1, _MOST_POINTS - 1):
        yield line[start : start + _MOST_POINTS]


def _annotation(
    plane: npt.NDArray[np.integer],
    header: Dataset,
    segments: Sequence[Segment],
    layer: GraphicLayer,
) -> GraphicAnnotation:
    graphics, texts = [], []
    boxes = ndimage.find_objects(plane)
    for segment in segments:
        box = boxes[segment.number - 1] if segment.number <= len(boxes) else None
        if box is None:
            continue  # not in this slice
        rows, columns = box
        corner = columns.start, rows.start
        lines = [line + corner for line in outlines_of(plane[box] == segment.number)]
        for line in lines:
            graphics += [
                GraphicObject(
                    "POLYLINE",
                    piece,
                    "PIXEL",
                    tracking_id=segment.tracking_id,
                    tracking_uid=segment.tracking_uid,
                )
                for piece in _pieces(line)
            ]
        top = min((tuple(line[line[:, 1].argmin()]) for line in lines), key=lambda at: at[1])
        texts.append(
            TextObject(segment.name, "PIXEL", anchor_point=top, anchor_point_visible=False)
        )
    texts.append(TextObject(REMARK, "DISPLAY", bounding_box=(0.01, 0.94, 0.99, 0.99)))
    return GraphicAnnotation(
        referenced_images=[header],
        graphic_layer=layer,
        graphic_objects=graphics,
        text_objects=texts,
    )


def _voi_lut(
    window: tuple[float, float] | None, slices: Sequence[SourceSlice]
) -> SoftcopyVOILUTTransformation | None:
    """Window with these ends, or else the one that the images' headers share.

    Of the default function, LINEAR (PS3.3 C.11.2.1.2.1).
    """
    requested = {source.window for source in slices}
    if window is not None:
        low, high = window
        centre, width = (low + high + 1) / 2, high - low + 1
    elif len(requested) == 1 and None not in requested:
        ((centre, width),) = cast(set[tuple[float, float]], requested)
    else:
        return None
    # A decimal string has 16 characters.
    centre, width = float(f"{centre:.10g}"), float(f"{width:.10g}")
    return SoftcopyVOILUTTransformation(window_center=centre, window_width=width)


def _correct(made: Dataset, slices: Sequence[SourceSlice]) -> None:
    """Refer to the files themselves, and give the pixels their shape."""
    for annotation, source in zip(made.GraphicAnnotationSequence, slices, strict=True):
        annotation.ReferencedImageSequence = [reference_to([source])]
    used: dict[str, list[SourceSlice]] = {}
    for source in slices:
        used.setdefault(source.sop_instance, []).append(source)
    (of_series,) = made.ReferencedSeriesSequence
    of_series.ReferencedImageSequence = [reference_to(group) for group in used.values()]
    (area,) = made.DisplayedAreaSelectionSequence
    del area.PresentationPixelAspectRatio
    area.PresentationPixelSpacing = slices[0].header.PixelSpacing
