"""Commands that create models: fit, calibrate; and the demonstration."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from napari_spatial_ar.cli.choices import ContextName, Modality
from napari_spatial_ar.cli.cluster import (
    LocalCluster,
    Resource,
    Scheduler,
    TlsFiles,
    cluster_of,
)
from napari_spatial_ar.cli.options import (
    Acquired,
    Device,
    Json,
    ModelName,
    Overwrite,
    PatientPattern,
    Weights,
    chosen_backbone,
    command,
    patients,
    print_message,
    progress,
    with_settings,
)
from napari_spatial_ar.cli.pages import App
from napari_spatial_ar.normative.fitting.config import FitConfig, read_settings

__all__ = ["fit_app"]

fit_app = App()

_SPATIAL_AR = "Method spatial-ar"


@fit_app.command(rich_help_panel="Models")
@command
@with_settings(after="recipe")
def fit(
    ctx: typer.Context,
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FOLDER",
            help="Folders of normal scans.",
            show_default="those of the recipe",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of the new model.",
            show_default="a new one among your models, named after modality and backbone",
        ),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Settings saved by the Training dock. Options given here override them.",
        ),
    ] = None,
    estimate: Annotated[
        bool,
        typer.Option(
            "--estimate",
            help="Only estimate how long the fit would take, from a few seconds of measurement.",
        ),
    ] = False,
    overwrite: Overwrite = False,
    json: Json = None,
    dilation: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Dilation of the convolutions: 4 is the paper's dilated network, 1 its standard "
            "one.",
            show_default="4",
            rich_help_panel=_SPATIAL_AR,
        ),
    ] = None,
    context: Annotated[
        ContextName | None,
        typer.Option(
            help="Predict a patch from those before it, or from all around it.",
            show_default="causal",
            rich_help_panel=_SPATIAL_AR,
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Passes over the slices.",
            show_default="40",
            rich_help_panel=_SPATIAL_AR,
        ),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help="Stop after N epochs without improvement on held-out slices; 0: never.",
            show_default="0",
            rich_help_panel=_SPATIAL_AR,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Slices per step.",
            show_default="64",
            rich_help_panel=_SPATIAL_AR,
        ),
    ] = None,
    device: Device = "auto",
    scheduler: Scheduler = "",
    local_cluster: LocalCluster = 0,
    resource: Resource = "",
    tls: TlsFiles = "",
    **settings: Any,
) -> dict[str, Any]:
    """Learn a normative model from folders of normal scans.

    After Ctrl+C, run the same command again to resume. With a cluster, slices are embedded there
    and the model is trained here.
    """
    from functools import partial

    from napari_spatial_ar.distributed.embedding import extract_on
    from napari_spatial_ar.imaging.windows import read_window
    from napari_spatial_ar.json_schemas import FitEstimate, stamped
    from napari_spatial_ar.normative.detectors import DETECTORS
    from napari_spatial_ar.normative.fitting import estimate as fit_estimate
    from napari_spatial_ar.normative.fitting.feature_store import FeatureStore
    from napari_spatial_ar.normative.fitting.fit import fit_steps
    from napari_spatial_ar.normative.fitting.plan import FitProgress, format_duration
    from napari_spatial_ar.normative.fitting.recipe import read_recipe
    from napari_spatial_ar.review.model_card import write_model_card
    from napari_spatial_ar.steps import finish

    name, _, own = (settings["method"] or "").partition(":")
    options = read_settings(own, list(DETECTORS[name].options())) if name in DETECTORS else {}
    settings |= {
        "method": name or None,
        "window": read_window(settings["window"]) if settings["window"] else None,
        "dilation": dilation,
        "context": None if context is None else context.value,
        "epochs": epochs,
        "patience": patience,
        "batch_size": batch_size,
    }
    if recipe is None:
        settings["backbone"] = chosen_backbone(settings["backbone"], settings["weights"])
        config = FitConfig.of(folders or (), **settings, options=options)
    else:
        given = {key: value for key, value in settings.items() if _is_given(ctx, key)}
        if folders:
            given["folders"] = tuple(map(str, folders))
        config = read_recipe(recipe).changed({**given, "options": options})
    if not config.folders:
        raise typer.BadParameter("Give a folder of normal scans, or a recipe that names one.")
    if estimate:
        found = fit_estimate.estimate(config, out=out, device=device)
        print_message(f"{found} Not counted: {fit_estimate.NOT_COUNTED}.")
        return stamped(FitEstimate, {**asdict(found), "seconds": found.seconds})
    with cluster_of(scheduler, local_cluster, resource, tls) as cluster, progress() as bar:

        def show(step: FitProgress) -> None:
            left = (
                ""
                if step.seconds_left is None
                else f", {format_duration(step.seconds_left)} left in all"
            )
            bar(f"{step.message}{left}", step.done, step.total)

        extract = FeatureStore.extract
        if cluster is not None:
            extract = partial(extract_on, cluster.run, weights=config.weights, device=device)
        steps = fit_steps(config, out=out, device=device, overwrite=overwrite, extract=extract)
        model = finish(steps, show)
    write_model_card(model)
    training = {k: v for k, v in model.header.training.items() if k != "history"}
    learned = f"{training['images']} slices of {patients(training['subjects'])}"
    print_message(f"Saved in {model.folder}: {learned}.")
    for warning in training["warnings"]:
        print_message(f"warning: {warning}")
    return {
        "model": str(model.folder),
        "sha256": model.sha256,
        "method": model.header.method,
        "unit": model.unit,
        "training": model.header.training,
    }


def _is_given(ctx: typer.Context, name: str) -> bool:
    """Whether an option was given on the command line."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


@fit_app.command(rich_help_panel="Models")
@command
def calibrate(
    model: ModelName,
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="Normal scans that the model was not trained on."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for the calibrated model.",
            show_default="the model itself is changed",
        ),
    ] = None,
    patient_pattern: PatientPattern = None,
    acquired: Acquired = "",
    looks_only: Annotated[
        bool,
        typer.Option(
            "--looks-only",
            help="Keep the calibration; measure only the appearance of normal scans, so that a "
            "domain shift can be detected.",
        ),
    ] = False,
    smoothing_z: Annotated[
        float | None,
        typer.Option(
            metavar="MM",
            min=0,
            help="SD in mm of a Gaussian mean over neighbouring slices of a volume; 0: none.",
            show_default="the model's own",
        ),
    ] = None,
    weights: Weights = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    json: Json = None,
) -> dict[str, Any]:
    """Calibrate a model on normal scans that it was not trained on."""
    from napari_spatial_ar.normative.calibration.calibrate import recalibrate
    from napari_spatial_ar.review.model_card import write_model_card

    with progress() as bar:
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
            smoothing_z=smoothing_z,
            progress=bar,
        )
    write_model_card(calibrated)
    for warning in calibrated.warnings:
        print_message(f"warning: {warning}")
    looks = calibrated.header.looks
    if looks_only and looks is not None:
        measured = f"{looks.slices} slices of {patients(looks.patients)}"
        print_message(f"{calibrated.name}: measured the appearance of normal scans on {measured}.")
        return {
            "name": calibrated.name,
            "sha256": calibrated.sha256,
            "unit": calibrated.unit,
            **looks.to_dict(),
        }
    found = calibrated.calibration
    print_message(
        f"{calibrated.name}: calibrated on {found.slices} slices of {patients(found.patients)}; "
        f"the smallest p-value is {found.smallest_p:.3f}."
    )
    if not found.separate:
        print_message("warning: these slices may have been used in the fit.")
    return {
        "name": calibrated.name,
        "sha256": calibrated.sha256,
        "unit": calibrated.unit,
        "smallest_p": found.smallest_p,
        **found.to_dict(),
    }


@fit_app.command(rich_help_panel="Scans")
@command
def demo(
    headless: Annotated[
        bool, typer.Option(help="Write files instead of opening a window.")
    ] = False,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for the files of --headless.")
    ] = Path("demo_out"),
    modality: Annotated[
        Modality,
        typer.Option(
            help="Modality of the scan. Only an MRI comes with the program; for CT, use 'score "
            "SCAN --model liver-ct' on a scan of your own."
        ),
    ] = Modality.mri,
    json: Json = None,
) -> dict[str, Any]:
    """Score a real brain scan and show it in napari."""
    from napari_spatial_ar.demo import check_modality, run_demo

    check_modality(modality.value)
    with progress() as bar:
        result = run_demo(headless=headless, out=out, progress=bar)
    for path in result["files"]:
        print_message(path)
    return result
