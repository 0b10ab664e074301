"""Commands that measure models on labelled slices: evaluate, compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from napari_spatial_ar.cli.support import (
    Device,
    Json,
    PatientPattern,
    Weights,
    chosen_backbone,
    command,
    progress_bar,
    say,
    show,
    table,
)
from napari_spatial_ar.errors import InputError

if TYPE_CHECKING:
    from napari_spatial_ar.evaluation.evaluate import Split

__all__ = ["evaluation_app"]

evaluation_app = typer.Typer()

DataSet = Annotated[Path, typer.Argument(help="Data set in the BMAD layout.")]
SplitName = Annotated[str, typer.Option(help="test or valid.")]
Fpr = Annotated[float, typer.Option(help="For the calibrated threshold.")]
Draws = Annotated[int, typer.Option(min=1, help="Resampled sets of patients for intervals.")]


def _split(name: str) -> Split:
    if name not in ("test", "valid"):
        raise InputError(f"there is no split '{name}'", fix="Choose test or valid")
    return "valid" if name == "valid" else "test"


def _modality(name: str) -> Literal["mri", "ct", "oct"]:
    match name:
        case "mri" | "ct" | "oct":
            return name
        case _:
            raise InputError(f"modality must be mri, ct or oct, not '{name}'")


@evaluation_app.command()
@command
def evaluate(
    dataset: DataSet,
    model: Annotated[str, typer.Option(help="A model's name or folder.")],
    split: SplitName = "test",
    fpr: Fpr = 0.01,
    draws: Draws = 1000,
    patient_pattern: PatientPattern = None,
    weights: Weights = None,
    device: Device = "auto",
    engine: Annotated[
        str, typer.Option(help="What computes the backbone: see the command speed.")
    ] = "float32",
    json: Json = None,
) -> dict[str, Any]:
    """Measure a model on labelled slices, with 95 % intervals over patients."""
    wanted = _split(split)
    from napari_spatial_ar.evaluation.evaluate import evaluate as measure
    from napari_spatial_ar.normative.model import load_model

    loaded = load_model(model, weights=weights, device=device)
    loaded.use_engine(engine)
    with progress_bar() as bar:
        task = bar.add_task("Scoring", total=None)
        result = measure(
            dataset,
            loaded,
            split=wanted,
            fpr=fpr,
            draws=draws,
            patient_pattern=patient_pattern,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        ).to_dict()
    rows = table("figure", "value", "95 % interval")
    for name, value in result.items():
        if name == "intervals":
            continue
        ends = result["intervals"].get(name)
        rows.add_row(
            name.replace("_", " "),
            f"{value:.4f}" if isinstance(value, float) else str(value),
            "" if ends is None else f"{ends[0]:.4f} to {ends[1]:.4f}",
        )
    show(rows)
    return {"model": loaded.name, "model_sha256": loaded.sha256, "engine": engine, **result}


@evaluation_app.command()
@command
def compare(
    dataset: DataSet,
    out: Annotated[Path, typer.Option(help="Folder for results.json, report.md, report.html.")],
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A model's name or folder, again for each; NAME-seed0 and NAME-seed1 count as "
            "two seeds of one method. Ratios are those of the first."
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="A method to fit here, again for each, with settings of 'fit' after a colon: "
            "spatial-ar:dilation=1. Models go to OUT/models and are found there again."
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Of --method and --anomalib, with commas.")] = "0",
    modality: Annotated[str, typer.Option(help="Of these: mri, ct or oct.")] = "mri",
    backbone: Annotated[
        str | None, typer.Option(help="Of --method; by default that of 'fit'.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Of --method.")] = 40,
    batch_size: Annotated[int, typer.Option(help="Of --method.")] = 64,
    smoothing: Annotated[
        int | None,
        typer.Option(help="One for all; by default the best of each on valid, by pixel AUPR."),
    ] = None,
    anomalib: Annotated[
        list[str] | None,
        typer.Option(
            help="A method of the anomalib library to fit here, again for each: patchcore, padim, "
            "reverse-distillation, stfpm, cfa, cflow or draem, with settings of its own after a "
            "colon."
        ),
    ] = None,
    split: SplitName = "test",
    fpr: Fpr = 0.01,
    draws: Draws = 1000,
    patient_pattern: PatientPattern = None,
    weights: Weights = None,
    device: Device = "auto",
    json: Json = None,
) -> dict[str, Any]:
    """Compare methods on one data set: figures with intervals, ratios, curves, examples."""
    wanted, scans = _split(split), _modality(modality)
    from napari_spatial_ar.evaluation.anomalib_methods import anomalib_method
    from napari_spatial_ar.evaluation.anomalib_models import fit_anomalib
    from napari_spatial_ar.evaluation.compare import compare as compare_methods
    from napari_spatial_ar.evaluation.report import write_report
    from napari_spatial_ar.evaluation.rivals import fit_rival, grouped
    from napari_spatial_ar.imaging.files import claimed
    from napari_spatial_ar.normative.fitting import FitProgress
    from napari_spatial_ar.normative.model import load_model

    try:
        numbers = [int(part) for part in seeds.split(",")]
    except ValueError as error:
        raise InputError(
            f"'{seeds}' is no list of seeds", fix="Write whole numbers with commas: 0,1,2"
        ) from error
    with claimed(out), progress_bar() as bar:
        task = bar.add_task("", total=None)

        def at(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total or None)

        others = []
        for name in anomalib or ():  # what cannot run is said before anything takes long
            at(f"Getting ready anomalib's {name}", 0, 0)
            others.append(anomalib_method(name))
        rivals = grouped([load_model(name, weights=weights, device=device) for name in model or ()])
        chosen = chosen_backbone(backbone, weights) if method else ""
        for name in method or ():

            def fitting(step: FitProgress, name: str = name) -> None:
                at(f"{name}: {step.message}", step.done, step.total)

            rivals.append(
                fit_rival(
                    dataset,
                    name,
                    numbers,
                    out / "models",
                    progress=fitting,
                    modality=scans,
                    backbone=chosen,
                    epochs=epochs,
                    batch_size=batch_size,
                    patient_pattern=patient_pattern,
                    weights=weights,
                    device=device,
                )
            )
        rivals += [
            fit_anomalib(
                dataset,
                other,
                numbers,
                out / "models",
                modality=scans,
                patient_pattern=patient_pattern,
                device=device,
                progress=at,
            )
            for other in others
        ]
        result = compare_methods(
            dataset,
            rivals,
            split=wanted,
            smoothing=smoothing,
            fpr=fpr,
            patient_pattern=patient_pattern,
            draws=draws,
            progress=at,
        )
        paths = write_report(result, out)
    rows = table("method", "smoothing", "pixel AUPR", "95 %", "pixel AUROC", "image AUROC")
    for one in result.results:
        ends = one.interval("pixel_aupr")
        rows.add_row(
            one.rival.name,
            str(one.smoothing),
            _number(one.mean("pixel_aupr")),
            "" if ends is None else f"{ends[0]:.3f}-{ends[1]:.3f}",
            _number(one.mean("pixel_auroc")),
            _number(one.mean("image_auroc")),
        )
    show(rows)
    for note in result.notes:
        say(note)
    for path in paths:
        say(str(path))
    return {"files": [str(path) for path in paths], **result.to_dict()}


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
