"""Commands about scans and masks as files: inspect, summary, convert, seg."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_spatial_ar.cli.choices import Modality, PlaneName
from napari_spatial_ar.cli.options import (
    CalibrationFraction,
    FitWindow,
    Json,
    MinBody,
    Modalities,
    NotAllDone,
    Overwrite,
    PatientPattern,
    SliceRange,
    SlicesOf,
    command,
    print_message,
    progress,
    show,
    table,
)
from napari_spatial_ar.cli.pages import App
from napari_spatial_ar.errors import InputError

if TYPE_CHECKING:
    from napari_spatial_ar.imaging.geometry import Geometry
    from napari_spatial_ar.imaging.scan import Scan

__all__ = ["data_app"]

data_app = App()

Input = Annotated[Path, typer.Argument(metavar="INPUT", help="File or folder.")]


@data_app.command(rich_help_panel="Scans")
@command
def inspect(
    input: Input,
    verify: Annotated[
        bool | None,
        typer.Option(
            help="Read every voxel too and report damage.",
            show_default="only for a single file below 512 MiB",
        ),
    ] = None,
    json: Json = None,
) -> dict[str, Any]:
    """List the series in a file or folder, with geometry and warnings."""
    from napari_spatial_ar.imaging.reading import find_scans
    from napari_spatial_ar.imaging.scan import is_large

    found = find_scans(input)
    if verify is None:
        verify = input.is_file() and not is_large(sum(scan.size for scan in found.scans))
    series = [_entry(scan) for scan in found.scans]
    damage: dict[int, InputError] = {}
    for index, scan in enumerate(found.scans):
        error = _damage(scan) if verify else None
        if error is not None:
            damage[index] = error
            series[index]["damage"] = str(error)
    if len(damage) == len(series):
        raise damage[0]
    rows = table(
        *("series", "modality", "sequence", "shape Z,Y,X", "spacing Z,Y,X", "axes i,j,k", "plane"),
        *("files", "window", "note"),
    )
    for scan, entry in zip(found.scans, series, strict=True):
        rows.add_row(*_row(scan, entry))
    show(rows)
    for entry in series:
        for warning in entry["warnings"]:
            print_message(f"warning: {entry['label']}: {warning}")
        if "damage" in entry:
            print_message(f"damaged: {entry['label']}: {entry['damage']}")
    failed = [str(error) for error in found.errors]
    for sentence in failed:
        print_message(f"could not be read: {sentence}")
    result = {"series": series, "failed": failed}
    if damage:
        raise NotAllDone(result)
    return result


def _entry(scan: Scan) -> dict[str, Any]:
    geometry, acquisition = scan.geometry, scan.series.acquisition
    return {
        "label": scan.series.label,
        "role": scan.role,
        "modality": scan.modality,
        "intensity": scan.intensity,
        "unit": scan.unit or None,
        "shape": list(geometry.shape),
        "spacing_mm": _spacing(geometry),
        "affine": geometry.affine.tolist(),
        "orientation": geometry.orientation,
        "plane": geometry.plane,
        "sequence": acquisition.sequence or None,
        "contrast_agent": acquisition.contrast_agent,
        "kernel": acquisition.kernel or None,
        "slices": geometry.slice_count,
        "regular": geometry.regular,
        "window": None if scan.window is None else list(scan.window),
        "files": [str(path) for path in scan.series.files],
        "frames": list(scan.series.frames),
        "warnings": list(scan.warnings),
    }


def _spacing(geometry: Geometry) -> list[float | None] | None:
    """Voxel size along (Z, Y, X) in mm; None if it is unknown or differs between slices."""
    if not geometry.spacing_known:
        return None
    uneven = geometry.slice_axis if geometry.slice_positions is not None else None
    return [None if axis == uneven else step for axis, step in enumerate(geometry.spacing)]


def _row(scan: Scan, entry: dict[str, Any]) -> list[str]:
    geometry = scan.geometry
    spacing = ["uneven" if step is None else f"{step:.3g}" for step in _spacing(geometry) or []]
    notes = [
        *([scan.role] if scan.role != "original" else []),
        *([] if geometry.regular else ["geometry not regular"]),
        *(["damaged"] if "damage" in entry else []),
    ]
    return [
        scan.series.label,
        f"{scan.modality} {scan.unit}".rstrip(),
        scan.series.acquisition.sequence,
        " x ".join(map(str, geometry.shape)),
        f"{' x '.join(spacing)} mm" if spacing else "unknown",
        geometry.orientation,
        geometry.plane,
        str(len(scan.series.files)),
        "" if scan.window is None else f"{scan.window[0]:.4g} to {scan.window[1]:.4g}",
        ", ".join(notes),
    ]


def _damage(scan: Scan) -> InputError | None:
    """Read all voxels, slice by slice if the scan is large; return what is wrong."""
    from napari_spatial_ar.imaging.scan import is_large

    try:
        if is_large(scan.size):
            for index in range(scan.geometry.slice_count):
                scan.slice(index)
        else:
            scan.read(lazy=False)
    except InputError as error:
        return error
    return None


@data_app.command(rich_help_panel="Models")
@command
def summary(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER", help="Folders of normal scans.")
    ],
    modality: Modalities = Modality.mri,
    plane: SlicesOf = PlaneName.as_acquired,
    slice_range: SliceRange = "0:1",
    min_body: MinBody = 0.1,
    calibration_fraction: CalibrationFraction = 0.0,
    window: FitWindow = None,
    patient_pattern: PatientPattern = None,
    seed: Annotated[
        int,
        typer.Option(metavar="N", min=0, help="Seed of the split into training and validation."),
    ] = 0,
    json: Json = None,
) -> dict[str, Any]:
    """Show what a fit would learn from, and what it excludes.

    Patients are identified by the first digits of a hash.
    """
    from napari_spatial_ar.datasets.selection import Selection, read_range
    from napari_spatial_ar.datasets.slices import check_fractions
    from napari_spatial_ar.datasets.summary import DataSummary, kind_of
    from napari_spatial_ar.datasets.survey import REASONS, survey
    from napari_spatial_ar.imaging.windows import read_window
    from napari_spatial_ar.steps import finish

    check_fractions(DataSummary.valid_fraction, calibration_fraction)
    selection = Selection(plane.value, read_range(slice_range), min_body)
    steps = survey(
        folders,
        modality=modality.value,
        window=None if window is None else read_window(window),
        patient_pattern=patient_pattern,
        selection=selection,
    )
    with progress(label := "Reading headers") as bar:
        found = finish(steps, lambda step: bar(label, step.done, step.total))
    made = DataSummary(
        found, selection=selection, calibration_fraction=calibration_fraction, seed=seed
    )
    rows = table("series", "patient", "kind", "slices", "excluded")
    for series in found.series:
        reasons = "; ".join(f"{n}: {REASONS[reason]}" for reason, n in series.left_out.items())
        rows.add_row(series.label, series.patient, kind_of(series), str(len(series.refs)), reasons)
    show(rows)
    for line in made.lines():
        print_message(line)
    for error in found.errors:
        print_message(f"could not be read: {error}")
    return made.to_dict()


@data_app.command(rich_help_panel="Scans")
@command
def convert(
    input: Input,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the NIfTI files.")],
    overwrite: Overwrite = False,
    json: Json = None,
) -> dict[str, Any]:
    """Write each volume as NIfTI, on its own grid.

    Localizers, derived series and every time point are included.
    """
    from napari_spatial_ar.imaging.files import locked
    from napari_spatial_ar.imaging.nifti import Content, write_nifti
    from napari_spatial_ar.imaging.reading import find_scans
    from napari_spatial_ar.review.outputs import scan_folder_name

    found = find_scans(input)
    errors = list(found.errors)
    written: dict[str, Path] = {}
    taken: set[str] = set()
    with locked(out):
        for scan in found.scans:
            name = scan_folder_name(scan, taken)
            taken.add(name)
            path = out / f"{name}.nii.gz"
            try:
                if path.exists() and not overwrite:
                    raise InputError("this file already exists", path=path, fix="Use --overwrite")
                volume = scan.read(lazy=False)
                write_nifti(path, volume.data, volume.geometry, content=Content.scan(volume))
            except InputError as error:
                errors.append(error)
                continue
            written[name] = path
            print_message(f"{path}")
            for warning in volume.warnings:
                print_message(f"warning: {volume.series.label}: {warning}")
    if not written:
        raise errors[0]
    failed = [str(error) for error in errors]
    for sentence in failed:
        print_message(f"could not be converted: {sentence}")
    result = {"files": [str(path) for path in written.values()], "failed": failed}
    if failed:
        raise NotAllDone(result)
    return result


@data_app.command(rich_help_panel="Scans")
@command
def seg(
    mask: Annotated[
        Path,
        typer.Argument(metavar="MASK", help="Mask, nonzero inside: NIfTI, NRRD or MetaImage."),
    ],
    reference: Annotated[
        Path,
        typer.Option(metavar="SERIES", help="DICOM series that it belongs to: folder or file."),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="DICOM file to write.")],
    label: Annotated[
        str, typer.Option(metavar="TEXT", help="Name of the segment.")
    ] = "Departure from normal",
    algorithm: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Algorithm that created the mask.",
            show_default="from provenance.json beside the mask",
        ),
    ] = None,
    edited: Annotated[bool, typer.Option(help="The mask was edited by hand.")] = False,
    overwrite: Overwrite = False,
    json: Json = None,
) -> dict[str, Any]:
    """Write a mask as DICOM SEG for the series it was drawn on.

    The mask may have any axis order but must have the voxel grid of the series: nothing is
    resampled. The file contains the patient's identity from the series, by which a PACS files it.
    Without an algorithm, the mask is recorded as drawn by a person. The findings.nii.gz of 'score'
    gives one segment per region.
    """
    from napari_spatial_ar.imaging.dicom.derived import Algorithm
    from napari_spatial_ar.imaging.mask_to_series import mask_onto_series
    from napari_spatial_ar.imaging.segments import MOST_SEGMENTS
    from napari_spatial_ar.review.provenance import recorded_algorithm
    from napari_spatial_ar.review.segments import recorded_segments

    if out.exists() and not overwrite:
        raise InputError("this file already exists", path=out, fix="Use --overwrite")
    made_by = None if algorithm is None else Algorithm(algorithm)
    recorded = recorded_algorithm(mask) if made_by is None else None
    if recorded is not None:
        made_by, by_hand = recorded
        edited = edited or by_hand
    segments = recorded_segments(mask)
    if len(segments) > MOST_SEGMENTS:
        print_message(f"warning: {len(segments)} regions are written as one segment.")
        segments = ()
    written = mask_onto_series(
        mask,
        reference,
        out,
        algorithm=made_by,
        edited=edited,
        label=label,
        segments=segments,
    )
    print_message(f"{out}: {written.voxels} voxels in {written.slices} slices of {written.series}.")
    for warning in written.warnings:
        print_message(f"warning: {warning}")
    return {
        "file": str(out),
        "series": written.series,
        "voxels": written.voxels,
        "slices": written.slices,
        "algorithm": None if made_by is None else made_by.name,
        "warnings": list(written.warnings),
    }
