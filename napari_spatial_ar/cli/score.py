"""The command that scores scans."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from napari_spatial_ar.cli.archive import retrieved, send_results
from napari_spatial_ar.cli.choices import PaperName, PlaneName
from napari_spatial_ar.cli.cluster import (
    LocalCluster,
    Resource,
    Scheduler,
    TlsFiles,
    cluster_of,
    listed,
)
from napari_spatial_ar.cli.options import (
    SENT_OBJECTS,
    Device,
    Json,
    ModelOption,
    NotAllDone,
    Overwrite,
    Part,
    Weights,
    command,
    dicom_kinds,
    patients,
    print_message,
    progress,
)
from napari_spatial_ar.cli.pages import App

__all__ = ["score_app"]

score_app = App()

_THRESHOLD = "Threshold"
_MASK = "Mask"
_FILES = "Files written"
_ARCHIVES = "Archives (PACS)"


@score_app.command(rich_help_panel="Scans")
@command
def score(
    model: ModelOption,
    out: Annotated[
        str,
        typer.Option(
            metavar="DIR|URL",
            help="Folder for the results, with one folder for each scan; or a URL such as "
            "s3://bucket/folder. Scans finished there are skipped.",
        ),
    ],
    inputs: Annotated[
        list[Path] | None, typer.Argument(metavar="SCAN", help="Scans: files or folders.")
    ] = None,
    inputs_from: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File that lists scans, one per line.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="ARCHIVE",
            help="Score what --query finds there: URL or name of a saved archive.",
            rich_help_panel=_ARCHIVES,
        ),
    ] = None,
    query: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Studies: patient-id, name, accession, date, modality or study; may be repeated. "
            "Their series of the model's modality are scored.",
            rich_help_panel=_ARCHIVES,
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="ARCHIVE",
            help="Send the DICOM objects of the results there: --dicom-objects, by default "
            "seg,sr,capture.",
            rich_help_panel=_ARCHIVES,
        ),
    ] = None,
    every_series: Annotated[
        bool, typer.Option("--all", help="Score localizers and derived series too.")
    ] = False,
    plane: Annotated[
        PlaneName | None,
        typer.Option(
            metavar="PLANE",
            help="Plane of the slices: as-acquired, axial, coronal or sagittal.",
            show_default="that of the model",
        ),
    ] = None,
    part: Part = None,
    overwrite: Overwrite = False,
    json: Json = None,
    fpr: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            min=0,
            max=1,
            help="Share of normal tissue that the mask may flag.",
            rich_help_panel=_THRESHOLD,
        ),
    ] = 0.01,
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="SCORE",
            help="Threshold in the unit of the model, in place of --fpr.",
            rich_help_panel=_THRESHOLD,
        ),
    ] = None,
    hysteresis_fpr: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            min=0,
            max=1,
            help="Keep only regions that reach the threshold of this smaller share.",
            rich_help_panel=_THRESHOLD,
        ),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(
            metavar="P",
            min=0,
            max=1,
            help="Report a scan as unusual if its p-value among normal patients is at most this.",
            rich_help_panel=_THRESHOLD,
        ),
    ] = None,
    min_size_mm3: Annotated[
        float,
        typer.Option(
            metavar="MM3", min=0, help="Remove regions of less volume.", rich_help_panel=_MASK
        ),
    ] = 0.0,
    min_area_mm2: Annotated[
        float,
        typer.Option(
            metavar="MM2",
            min=0,
            help="Remove regions of less area, slice by slice.",
            rich_help_panel=_MASK,
        ),
    ] = 0.0,
    smoothing_mm: Annotated[
        float,
        typer.Option(
            metavar="MM",
            min=0,
            help="Remove parts too narrow for a disc of this radius (opening).",
            rich_help_panel=_MASK,
        ),
    ] = 0.0,
    fill_holes: Annotated[
        bool,
        typer.Option("--fill-holes", help="Fill holes, slice by slice.", rich_help_panel=_MASK),
    ] = False,
    body_only: Annotated[
        bool,
        typer.Option(
            "--body-only", help="Exclude everything outside the body.", rich_help_panel=_MASK
        ),
    ] = False,
    unseen_slices: Annotated[
        bool,
        typer.Option(
            "--unseen-slices",
            help="Include slices unlike those the model was trained on, which are left out of "
            "mask, findings, p-values and scores of the scan otherwise.",
            rich_help_panel=_MASK,
        ),
    ] = False,
    montage: Annotated[
        bool, typer.Option(help="An image of the highest slices.", rich_help_panel=_FILES)
    ] = True,
    png: Annotated[
        bool,
        typer.Option(help="Images of the flagged slices, with outlines.", rich_help_panel=_FILES),
    ] = False,
    png_heat: Annotated[
        bool,
        typer.Option(
            help="The same with the heatmap over them; implies --png.", rich_help_panel=_FILES
        ),
    ] = False,
    dicom: Annotated[
        bool,
        typer.Option(
            help="mask.dcm and findings.dcm (DICOM SEG: one segment, and one for each region) and "
            "nll.dcm (parametric map of the scores), for DICOM scans. They contain the patient's "
            "identity from the scan, by which a PACS files them.",
            rich_help_panel=_FILES,
        ),
    ] = False,
    dicom_objects: Annotated[
        str,
        typer.Option(
            metavar="KINDS",
            help="The same with a choice: seg (mask.dcm, findings.dcm), pm (nll.dcm), sr "
            "(report.dcm, a structured report; brings seg), capture (captures: flagged slices, "
            "outlines burnt in), gsps (outlines.dcm, a presentation state), such as "
            "seg,sr,capture; or all.",
            rich_help_panel=_FILES,
        ),
    ] = "",
    de_identify: Annotated[
        bool,
        typer.Option(
            "--de-identify",
            help="For research: DICOM objects without the patient's identity (PS3.15 basic "
            "profile), other UIDs in all files. Needs the extra 'deidentify'.",
            rich_help_panel=_FILES,
        ),
    ] = False,
    seg_nrrd: Annotated[
        bool,
        typer.Option(
            help="findings.seg.nrrd: the regions with names and colours for 3D Slicer.",
            rich_help_panel=_FILES,
        ),
    ] = False,
    itksnap: Annotated[
        bool,
        typer.Option(
            help="findings.label: names and colours of findings.nii.gz for ITK-SNAP.",
            rich_help_panel=_FILES,
        ),
    ] = False,
    bids: Annotated[
        bool,
        typer.Option(
            help="Masks of scans in a BIDS dataset under BIDS names, which contain the subjects' "
            "labels, in the folder bids of --out.",
            rich_help_panel=_FILES,
        ),
    ] = False,
    report: Annotated[
        bool,
        typer.Option(
            help="report.html for each scan, and one for all scans unless results go to a URL or "
            "come from a cluster.",
            rich_help_panel=_FILES,
        ),
    ] = False,
    pdf: Annotated[
        PaperName | None,
        typer.Option(
            case_sensitive=False,
            help="report.pdf on this paper, as for --report; needs the extra 'pdf'.",
            rich_help_panel=_FILES,
        ),
    ] = None,
    keep_uids: Annotated[
        bool,
        typer.Option(help="Record DICOM UIDs instead of their hashes.", rich_help_panel=_FILES),
    ] = False,
    weights: Weights = None,
    device: Device = "auto",
    scheduler: Scheduler = "",
    local_cluster: LocalCluster = 0,
    resource: Resource = "",
    tls: TlsFiles = "",
) -> dict[str, Any]:
    """Score scans and write a heatmap, a mask and findings for each.

    All results are on the scan's own grid. After an interruption, run the same command again to
    resume. Only one command at a time can write to a folder.
    """
    from napari_spatial_ar.distributed.scoring import score_many
    from napari_spatial_ar.distributed.storage import is_url
    from napari_spatial_ar.review.batch import score_scans
    from napari_spatial_ar.review.masks import MaskSettings

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
            unseen_slices=unseen_slices,
        ),
        "hysteresis_fpr": hysteresis_fpr,
        "montage": montage,
        "keep_uids": keep_uids,
        "dicom": dicom_kinds(dicom, dicom_objects or (SENT_OBJECTS if to and not dicom else "")),
        "de_identify": de_identify,
        "png": png or png_heat,
        "png_heat": png_heat,
        "report": report,
        "pdf": None if pdf is None else pdf.value,
        "seg_nrrd": seg_nrrd,
        "itksnap": itksnap,
        "every_series": every_series,
        "plane": None if plane is None else plane.value,
        "part": part,
        "weights": weights,
        "device": device,
        "overwrite": overwrite,
    }
    if de_identify and (keep_uids or bids):
        raise typer.BadParameter("--de-identify excludes --keep-uids and --bids.")
    if bids and (is_url(out) or scheduler or local_cluster):
        raise typer.BadParameter("--bids needs a folder as --out, and no cluster.")
    if to and (is_url(out) or scheduler or local_cluster):
        raise typer.BadParameter("--to needs a folder as --out, and no cluster.")
    if bool(source) != bool(query):
        raise typer.BadParameter("--from and --query belong together.")
    scans: list[Path] = []
    left_out: list[str] = []
    if source and query:
        scans, left_out = retrieved(source, query, model, every_series)
    if inputs or inputs_from or not source:
        scans += listed(inputs, inputs_from)
    with cluster_of(scheduler, local_cluster, resource, tls) as cluster, progress() as bar:

        def show(label: str, done: int, total: int) -> None:
            bar(f"Scoring {label}", done, total)

        options["progress"] = show
        if cluster is not None:
            result = score_many(scans, model, out, run=cluster.run, **options)
        elif is_url(out):
            result = score_many(scans, model, out, **options)
        else:
            result = score_scans(scans, model, Path(out), bids=bids, **options)
    result["left_out"] = [*left_out, *result["left_out"]]
    if result.get("skipped"):
        many = "scans were" if result["skipped"] > 1 else "scan was"
        print_message(f"{result['skipped']} {many} finished earlier and skipped.")
    print_message(f"Backbone: {result['backbone']}.")
    if result["calibration"]:
        print_message(result["calibration"])
    for scan in result["scans"]:
        regions = (
            "1 flagged region" if scan["findings"] == 1 else f"{scan['findings']} flagged regions"
        )
        print_message(f"{scan['folder']}: {regions}")
        if scan["p_value"] is not None:
            unusual = {True: ", unusual", False: ", not unusual"}.get(scan.get("unusual"), "")
            n = scan["p_value_patients"]
            p_value = f"p = {scan['p_value']:.3f} among {patients(n, 'normal ')}{unusual}"
            least = f"the smallest p possible with {n} patients is {1 / (n + 1):.3f}"
            print_message(f"{scan['folder']}: {p_value} ({least})")
        for warning in scan["warnings"]:
            print_message(f"warning: {scan['series']}: {warning}")
    for key in ("report", "report_pdf"):
        if result.get(key):
            print_message(f"{result[key]}: report of all scans")
    if bids:
        print_message(f"{result['bids']}: BIDS derivatives, named by the subjects' labels")
    for sentence in result.get("without_bids", ()):
        print_message(f"warning: {sentence}")
    for sentence in result["left_out"]:
        print_message(f"{sentence} Use --all to score it too.")
    for failure in result["failed"]:
        print_message(f"could not be scored: {failure}")
    if to:
        result["sent"] = send_results(to, [Path(scan["folder"]) for scan in result["scans"]])
    if result["failed"] or (to and result["sent"]["refused"]):
        raise NotAllDone(result)
    return result
