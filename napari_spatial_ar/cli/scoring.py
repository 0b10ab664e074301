"""The command that scores scans."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from napari_spatial_ar.cli.cluster import (
    LocalCluster,
    Resource,
    Scheduler,
    TlsFiles,
    cluster_of,
    listed,
)
from napari_spatial_ar.cli.support import (
    Device,
    Json,
    Overwrite,
    PaperName,
    PlaneName,
    Weights,
    command,
    progress_bar,
    say,
    write_json,
)

__all__ = ["score_app"]

score_app = typer.Typer()


@score_app.command()
@command
def score(
    model: Annotated[str, typer.Option(help="A model's name or folder.")],
    out: Annotated[
        str,
        typer.Option(
            help="Folder for the results, one folder a scan; or a URL, such as s3://bucket/folder. "
            "Scans that are finished there are skipped."
        ),
    ],
    inputs: Annotated[list[Path] | None, typer.Argument(help="Scans: files or folders.")] = None,
    inputs_from: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A file with one input a line.")
    ] = None,
    fpr: Annotated[
        float, typer.Option(help="Share of normal tissue that the mask may flag.")
    ] = 0.01,
    threshold: Annotated[
        float | None, typer.Option(help="Instead of --fpr: a threshold in the model's unit.")
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(
            help="Call scans unusual with a p-value, among normal patients, of at most this."
        ),
    ] = None,
    hysteresis_fpr: Annotated[
        float | None,
        typer.Option(
            help="Keep only regions that hold a voxel above the threshold for this smaller share."
        ),
    ] = None,
    min_size_mm3: Annotated[float, typer.Option(help="Leave smaller regions out.")] = 0.0,
    min_area_mm2: Annotated[
        float, typer.Option(help="Leave smaller regions out, slice by slice.")
    ] = 0.0,
    smoothing_mm: Annotated[
        float,
        typer.Option(help="Leave out parts without room for a disc of this radius (an opening)."),
    ] = 0.0,
    fill_holes: Annotated[
        bool, typer.Option("--fill-holes", help="Fill holes, slice by slice.")
    ] = False,
    body_only: Annotated[
        bool, typer.Option("--body-only", help="Leave out what lies outside the body.")
    ] = False,
    montage: Annotated[bool, typer.Option(help="Also write a picture of the top slices.")] = True,
    keep_uids: Annotated[bool, typer.Option(help="Write UIDs instead of their hashes.")] = False,
    dicom: Annotated[
        bool,
        typer.Option(
            help="Also write mask.dcm (DICOM SEG) and nll.dcm (parametric map) of DICOM scans. "
            "They carry the patient's identity from the scan, by which a PACS files them."
        ),
    ] = False,
    png: Annotated[
        bool, typer.Option(help="Also write pictures of the flagged slices with outlines.")
    ] = False,
    png_heat: Annotated[
        bool, typer.Option(help="Lay the heatmap over these pictures; implies --png.")
    ] = False,
    report: Annotated[
        bool,
        typer.Option(
            help="Also write report.html, with pictures, for each scan; and one for all of them, "
            "unless results go to a URL or come from a cluster."
        ),
    ] = False,
    pdf: Annotated[
        PaperName | None,
        typer.Option(
            case_sensitive=False,
            help="Also write report.pdf, of each scan and of all as --report does, on this paper "
            "(extra 'pdf').",
        ),
    ] = None,
    every_series: Annotated[
        bool, typer.Option("--all", help="Score localizers and derived series too.")
    ] = False,
    plane: Annotated[
        PlaneName | None,
        typer.Option(help="Slices that the model sees; by default of the plane it learned from."),
    ] = None,
    weights: Weights = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    scheduler: Scheduler = "",
    local_cluster: LocalCluster = 0,
    resource: Resource = "",
    tls: TlsFiles = "",
    json: Json = None,
) -> dict[str, Any]:
    """Score scans: heatmap, mask, flagged regions and provenance for each, on the scan's own grid.

    The same command goes on after it was stopped. One command at a time writes to a folder.
    """
    from napari_spatial_ar.review.batch import score_scans
    from napari_spatial_ar.review.masks import MaskSettings
    from napari_spatial_ar.scale.places import is_url
    from napari_spatial_ar.scale.scoring import score_many

    options: dict[str, Any] = {
        "fpr": fpr,
        "threshold": threshold,
        "alpha": alpha,
        "settings": MaskSettings(
            body_only=body_only,
            smoothing_mm=smoothing_mm,
            fill_holes=fill_holes,
            min_area_mm2=min_area_mm2,
            min_size_mm3=min_size_mm3,
        ),
        "hysteresis_fpr": hysteresis_fpr,
        "montage": montage,
        "keep_uids": keep_uids,
        "dicom": dicom,
        "png": png or png_heat,
        "png_heat": png_heat,
        "report": report,
        "pdf": None if pdf is None else pdf.value,
        "every_series": every_series,
        "plane": None if plane is None else plane.value,
        "weights": weights,
        "device": device,
        "overwrite": overwrite,
    }
    scans = listed(inputs, inputs_from)
    with cluster_of(scheduler, local_cluster, resource, tls) as cluster, progress_bar() as bar:
        task = bar.add_task("", total=None)

        def show(label: str, done: int, total: int) -> None:
            bar.update(task, description=f"Scoring {label}", completed=done, total=total)

        options["progress"] = show
        if cluster is not None:
            result = score_many(scans, model, out, run=cluster.run, **options)
        elif is_url(out):
            result = score_many(scans, model, out, **options)
        else:
            result = score_scans(scans, model, Path(out), **options)
    if result.get("skipped"):
        many = "scans were" if result["skipped"] > 1 else "scan was"
        say(f"{result['skipped']} {many} finished before and skipped.")
    if result["calibration"]:
        say(result["calibration"])
    for scan in result["scans"]:
        regions = f"{scan['findings']} flagged regions"
        say(f"{scan['folder']}: {regions}, backbone from {result['backbone']}")
        if scan["p_value"] is not None:
            unusual = {True: ", unusual", False: ", not unusual"}.get(scan.get("unusual"), "")
            n = scan["p_value_patients"]
            said = f"p = {scan['p_value']:.3f} among {n} normal patients{unusual}"
            say(f"{scan['folder']}: {said} (no p below {1 / (n + 1):.3f} can be had from {n})")
        for warning in scan["warnings"]:
            say(f"warning: {scan['series']}: {warning}")
    for key in ("report", "report_pdf"):
        if result.get(key):
            say(f"{result[key]}: report of all scans")
    for sentence in result["left_out"]:
        say(f"{sentence} Say --all to score it too.")
    for failure in result["failed"]:
        say(f"could not be scored: {failure}")
    if result["failed"]:
        write_json(json, result)
        raise typer.Exit(1)
    return result
