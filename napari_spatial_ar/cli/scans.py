"""Commands with a model: fit, calibrate, demonstrate."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from napari_spatial_ar.cli.cluster import (
    LocalCluster,
    Resource,
    Scheduler,
    TlsFiles,
    cluster_of,
)
from napari_spatial_ar.cli.support import (
    Acquired,
    CalibrationFraction,
    Device,
    FitWindow,
    Json,
    MinBody,
    Overwrite,
    PatientPattern,
    PlaneName,
    SliceRange,
    SlicesOf,
    Weights,
    chosen_backbone,
    command,
    parse_window,
    progress_bar,
    say,
)

__all__ = ["scans_app"]

scans_app = typer.Typer()


@scans_app.command()
@command
def fit(
    ctx: typer.Context,
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Folders of normal scans; by default the recipe's.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the new model; by default a new one among your models, named after "
            "modality and backbone."
        ),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Settings of a fit, as the Training dock saves them. What else is given here "
            "wins over the file.",
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            help="Leave out the series with this key: see 'summary --json', 'models suspects'.",
        ),
    ] = None,
    modality: Annotated[str, typer.Option(help="mri, ct or oct.")] = "mri",
    plane: SlicesOf = PlaneName.as_acquired,
    slice_range: SliceRange = "0:1",
    min_body: MinBody = 0.1,
    calibration_fraction: CalibrationFraction = 0.0,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="See 'weights list'. By default dinov3_vits16 where its weights are at hand, else "
            "the one that comes with the package."
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            help="Blocks of the backbone to read: 5,7,9 or last4. By default the method's choice."
        ),
    ] = None,
    fuse: Annotated[
        str, typer.Option(help="Several blocks one after the other (concat), or their mean.")
    ] = "concat",
    method: Annotated[
        str | None,
        typer.Option(
            help="See 'models methods'; METHOD:KEY=VALUE,... sets its options. By default "
            "change-novelty, or spatial-ar where one of its settings follows."
        ),
    ] = None,
    dilation: Annotated[
        int | None, typer.Option(help="Of spatial-ar. 4: dilated (the default); 1: standard.")
    ] = None,
    context: Annotated[
        str | None,
        typer.Option(help="Of spatial-ar: causal (the default) or bidirectional."),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Of spatial-ar: passes over the slices, 40 by default.")
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            help="Of spatial-ar: stop once it has not improved on held-out slices for so many "
            "epochs; 0 (the default): never."
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Of spatial-ar: slices a step, 64 by default.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same weights.")] = 0,
    smoothing: Annotated[int, typer.Option(help="Mean filter over patch scores; 1: none.")] = 3,
    window: FitWindow = None,
    size: Annotated[
        str, typer.Option(help="Pixels that slices are resized to: 448, or ROWSxCOLUMNS.")
    ] = "448",
    tile: Annotated[
        int,
        typer.Option(
            help="Side of overlapping tiles that the resized slice is cut into, for images far "
            "larger than 448 pixels: --size 896 --tile 448. 0: none."
        ),
    ] = 0,
    clahe: Annotated[
        float,
        typer.Option(help="Clip limit of adaptive histogram equalisation: 0.01; 0: none."),
    ] = 0.0,
    calibration_folds: Annotated[
        int,
        typer.Option(
            help="Calibrate on the training patients too, in so many folds, each scored by what "
            "is learned from the others: as many fits more. 0: on held-out patients alone."
        ),
    ] = 0,
    patient_pattern: PatientPattern = None,
    acquired: Acquired = "",
    weights: Weights = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    estimate: Annotated[
        bool,
        typer.Option(
            "--estimate",
            help="Only say how long it would take, measured in a few seconds on this machine.",
        ),
    ] = False,
    scheduler: Scheduler = "",
    local_cluster: LocalCluster = 0,
    resource: Resource = "",
    tls: TlsFiles = "",
    json: Json = None,
) -> dict[str, Any]:
    """Learn what normal looks like from folders of normal scans.

    Interrupted with Ctrl+C, the same command goes on where it stopped. On a cluster, the slices
    are embedded there and the model learns here.
    """
    from functools import partial

    from napari_spatial_ar.evaluation.rivals import read_settings
    from napari_spatial_ar.normative import fit_estimate
    from napari_spatial_ar.normative.fit_progress import FitProgress, spoken
    from napari_spatial_ar.normative.fitting import fit as fit_model
    from napari_spatial_ar.normative.methods import DETECTORS
    from napari_spatial_ar.normative.recipe import read_recipe
    from napari_spatial_ar.review.model_card import write_model_card
    from napari_spatial_ar.scale.features import extract_on

    name, _, own = (method or "").partition(":")
    options = read_settings(own, set(DETECTORS[name].options())) if name in DETECTORS else {}
    settings: dict[str, Any] = {
        "exclude": exclude or (),
        "modality": modality,
        "plane": plane.value,
        "slice_range": slice_range,
        "min_body": min_body,
        "calibration_fraction": calibration_fraction,
        "backbone": backbone,
        "layers": layers,
        "fuse": fuse,
        "method": name or None,
        "dilation": dilation,
        "context": context,
        "epochs": epochs,
        "patience": patience,
        "batch_size": batch_size,
        "seed": seed,
        "smoothing": smoothing,
        "window": None if window is None else parse_window(window),
        "size": size,
        "tile": tile,
        "clahe": clahe,
        "calibration_folds": calibration_folds,
        "patient_pattern": patient_pattern,
        "weights": weights,
    }
    if recipe is None:
        settings["options"] = options
        settings["backbone"] = chosen_backbone(backbone, weights)
    else:
        said = {key for key in settings if _is_said(ctx, key)}
        saved = read_recipe(recipe).changed(
            {**{key: settings[key] for key in said}, "options": options}
        )
        folders = folders or [Path(folder) for folder in saved.folders]
        settings = saved.settings()
    if not folders:
        raise typer.BadParameter("Give a folder of normal scans, or a recipe that names one.")
    if estimate:
        found = fit_estimate.estimate(folders, out=out, device=device, **settings)
        say(f"{found} Not counted: {fit_estimate.NOT_COUNTED}.")
        return {**asdict(found), "seconds": found.seconds}
    with cluster_of(scheduler, local_cluster, resource, tls) as cluster, progress_bar() as bar:
        task = bar.add_task("", total=None)

        def show(step: FitProgress) -> None:
            left = "" if step.seconds_left is None else f", {spoken(step.seconds_left)} left in all"
            bar.update(
                task,
                description=f"{step.message}{left}",
                completed=step.done,
                total=step.total or None,
            )

        if cluster is not None:
            settings["extract"] = partial(
                extract_on, cluster.run, weights=settings.get("weights"), device=device
            )
        model = fit_model(
            folders,
            progress=show,
            out=out,
            acquired=acquired,
            device=device,
            overwrite=overwrite,
            **settings,
        )
    write_model_card(model)
    training = {k: v for k, v in model.header.training.items() if k != "history"}
    say(f"Saved in {model.folder}: {training['images']} slices of {training['subjects']} patients.")
    for warning in training["warnings"]:
        say(f"warning: {warning}")
    return {"model": str(model.folder), "sha256": model.sha256, "training": model.header.training}


def _is_said(ctx: typer.Context, name: str) -> bool:
    """Whether an option stands on the command line."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


@scans_app.command()
@command
def calibrate(
    model: Annotated[str, typer.Argument(help="A model's name or folder.")],
    folder: Annotated[Path, typer.Argument(help="Normal scans that it was not trained on.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the calibrated model; by default its own is changed."),
    ] = None,
    patient_pattern: PatientPattern = None,
    acquired: Acquired = "",
    looks_only: Annotated[
        bool,
        typer.Option(
            "--looks-only",
            help="Keep the calibration and measure only what normal scans look like, by which "
            "scans are known that are unlike them.",
        ),
    ] = False,
    weights: Weights = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    json: Json = None,
) -> dict[str, Any]:
    """Measure a model's scores on normal scans that it was not trained on."""
    from napari_spatial_ar.normative.calibrating import recalibrate
    from napari_spatial_ar.review.model_card import write_model_card

    with progress_bar() as bar:
        task = bar.add_task("", total=None)
        calibrated = recalibrate(
            model,
            folder,
            out=out,
            patient_pattern=patient_pattern,
            weights=weights,
            device=device,
            overwrite=overwrite,
            looks_only=looks_only,
            acquired=acquired,
            progress=lambda label, done, total: bar.update(
                task, description=label, completed=done, total=total
            ),
        )
    write_model_card(calibrated)
    looks = calibrated.header.looks
    if looks_only and looks is not None:
        measured = f"{looks.slices} slices of {looks.patients} patients"
        say(f"{calibrated.name}: what normal scans look like was measured on {measured}.")
        return {"name": calibrated.name, "sha256": calibrated.sha256, **looks.to_dict()}
    found = calibrated.calibration
    say(
        f"{calibrated.name}: calibrated on {found.slices} slices of {found.patients} patients; no "
        f"p-value lies below {found.smallest_p:.3f}."
    )
    if not found.separate:
        say("warning: it is not known that these slices had no part in the fit.")
    return {
        "name": calibrated.name,
        "sha256": calibrated.sha256,
        "smallest_p": found.smallest_p,
        **found.to_dict(),
    }


@scans_app.command()
@command
def demo(
    headless: Annotated[bool, typer.Option(help="Write files; open no window.")] = False,
    out: Annotated[Path, typer.Option(help="Where --headless writes.")] = Path("demo_out"),
    json: Json = None,
) -> dict[str, Any]:
    """Score a real brain scan with the released model and show it in napari."""
    from napari_spatial_ar.demo import run_demo

    with progress_bar() as bar:
        task = bar.add_task("", total=None)

        def show(label: str, done: int, total: int) -> None:
            bar.update(task, description=label, completed=done, total=total)

        result = run_demo(headless=headless, out=out, progress=show)
    for path in result["files"]:
        say(path)
    return result
