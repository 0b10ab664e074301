"""Commands that measure models on labelled slices: evaluate, compare."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from napari_spatial_ar.cli.choices import (
    ANOMALIB_NAMES,
    EngineName,
    Modality,
    SplitName,
    complete_anomalib,
    complete_backbone,
    complete_method,
    complete_model,
)
from napari_spatial_ar.cli.options import (
    COMPUTING,
    Device,
    Json,
    ModelOption,
    Part,
    Weights,
    chosen_backbone,
    command,
    odd,
    print_message,
    progress,
    show,
    table,
)
from napari_spatial_ar.cli.pages import App
from napari_spatial_ar.errors import InputError

__all__ = ["evaluation_app"]

evaluation_app = App()

_FITTING = "Methods fitted here"

DataSet = Annotated[
    Path, typer.Argument(metavar="DATASET", help="Folder of a dataset in the BMAD layout.")
]
Splits = Annotated[SplitName, typer.Option(help="Labelled slices to measure on.")]
Fpr = Annotated[
    float,
    typer.Option(
        metavar="SHARE",
        min=0,
        max=1,
        help="Share of normal tissue that the calibrated threshold may flag.",
    ),
]
Draws = Annotated[
    int,
    typer.Option(metavar="N", min=1, help="Bootstrap samples of patients for the intervals."),
]
PatientPattern = Annotated[
    str | None,
    typer.Option(
        metavar="REGEX",
        help="Regular expression that finds the patient in a path: its first group, or all of it.",
    ),
]


@evaluation_app.command(rich_help_panel="Measurements")
@command
def evaluate(
    dataset: DataSet,
    model: ModelOption,
    split: Splits = SplitName.test,
    fpr: Fpr = 0.01,
    draws: Draws = 1000,
    patient_pattern: PatientPattern = None,
    part: Part = None,
    weights: Weights = None,
    device: Device = "auto",
    engine: Annotated[
        EngineName,
        typer.Option(
            metavar="ENGINE",
            help=f"Engine of the backbone: {', '.join(EngineName)}. 'speed' compares them.",
            rich_help_panel=COMPUTING,
        ),
    ] = EngineName.float32,
    json: Json = None,
) -> dict[str, Any]:
    """Measure a model on labelled slices, with 95 % intervals."""
    from napari_spatial_ar.evaluation.evaluate import evaluate as measure
    from napari_spatial_ar.normative.model import load_model

    loaded = load_model(model, weights=weights, device=device, part=part)
    loaded.use_engine(engine.value)
    with progress("Scoring") as bar:
        result = measure(
            dataset,
            loaded,
            split=split.value,
            fpr=fpr,
            draws=draws,
            patient_pattern=patient_pattern,
            progress=partial(bar, "Scoring"),
        ).to_dict()
    rows = table("figure", "value", "95 % interval")
    shown = {name: v for name, v in result.items() if not isinstance(v, dict | list | tuple)}
    for rate, value in result["lesion_sensitivity_at"].items():
        shown[f"lesion_sensitivity at {rate} false positives"] = value
    for sizes in result["lesion_sizes"]:
        pixels = f"{sizes['smallest']} to {sizes['largest']} pixels"
        shown[f"lesion_sensitivity, {pixels}"] = sizes["sensitivity"]
    for name, value in shown.items():
        ends = result["intervals"].get(name)
        rows.add_row(
            name.replace("_", " "),
            "-" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value),
            "" if ends is None else f"{ends[0]:.4f} to {ends[1]:.4f}",
        )
    show(rows)
    return {"model": loaded.name, "model_sha256": loaded.sha256, "engine": engine.value, **result}


@evaluation_app.command(rich_help_panel="Measurements")
@command
def compare(
    dataset: DataSet,
    out: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Folder for results.json, report.md and report.html."),
    ],
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL",
            help="Model: its name or folder. Repeatable; NAME-seed0 and NAME-seed1 count as two "
            "seeds of one method. Ratios are relative to the first.",
            autocompletion=complete_model,
        ),
    ] = None,
    split: Splits = SplitName.test,
    smoothing: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            callback=odd,
            help="Side of the mean filter over patch scores, the same for all.",
            show_default="the best of each on valid, by pixel AUPR",
        ),
    ] = None,
    fpr: Fpr = 0.01,
    draws: Draws = 1000,
    patient_pattern: PatientPattern = None,
    json: Json = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METHOD",
            help="Method to fit on the dataset, with settings of 'fit' after a colon: "
            "spatial-ar:dilation=1. Repeatable. Models go to OUT/models and are reused.",
            autocompletion=complete_method,
            rich_help_panel=_FITTING,
        ),
    ] = None,
    anomalib: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help=f"Method of anomalib to fit, with its own settings after a colon: "
            f"{', '.join(ANOMALIB_NAMES)}. Repeatable; needs the extra 'anomalib'.",
            autocompletion=complete_anomalib,
            rich_help_panel=_FITTING,
        ),
    ] = None,
    seeds: Annotated[
        str,
        typer.Option(metavar="N,N,...", help="Seeds to fit each with.", rich_help_panel=_FITTING),
    ] = "0",
    modality: Annotated[
        Modality, typer.Option(help="Modality of the scans.", rich_help_panel=_FITTING)
    ] = Modality.mri,
    backbone: Annotated[
        str | None,
        typer.Option(
            metavar="BACKBONE",
            help="Backbone for --method.",
            show_default="that of 'fit'",
            autocompletion=complete_backbone,
            rich_help_panel=_FITTING,
        ),
    ] = None,
    epochs: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Epochs of spatial-ar.", rich_help_panel=_FITTING),
    ] = 40,
    batch_size: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, help="Slices per step of spatial-ar.", rich_help_panel=_FITTING
        ),
    ] = 64,
    weights: Weights = None,
    device: Device = "auto",
) -> dict[str, Any]:
    """Compare methods on one dataset, in one report."""
    from napari_spatial_ar.datasets.folders import bmad_items
    from napari_spatial_ar.evaluation.anomalib_models import anomalib_method, fit_anomalib
    from napari_spatial_ar.evaluation.baselines import check_method, fit_method, grouped
    from napari_spatial_ar.evaluation.compare import compare as compare_methods
    from napari_spatial_ar.evaluation.report import write_report
    from napari_spatial_ar.imaging.files import locked
    from napari_spatial_ar.normative.fitting.plan import FitProgress
    from napari_spatial_ar.normative.model import load_model

    try:
        numbers = [int(part) for part in seeds.split(",")]
    except ValueError as error:
        raise InputError(
            f"'{seeds}' is not a list of seeds", fix="Write whole numbers with commas: 0,1,2"
        ) from error
    settings: dict[str, Any] = {
        "modality": modality.value,
        "backbone": chosen_backbone(backbone, weights) if method else "",
        "epochs": epochs,
        "batch_size": batch_size,
        "patient_pattern": patient_pattern,
        "weights": weights,
    }
    # Invalid requests are reported before anything slow.
    bmad_items(dataset, split.value, patient_pattern=patient_pattern)
    for name in method or ():
        for seed in numbers:
            check_method(name, **settings, seed=seed)
    with locked(out), progress() as bar:
        others = []
        for name in anomalib or ():
            bar(f"Preparing anomalib's {name}", 0, 0)
            others.append(anomalib_method(name))
        methods = grouped(
            [load_model(name, weights=weights, device=device) for name in model or ()]
        )
        for name in method or ():

            def fitting(step: FitProgress, name: str = name) -> None:
                bar(f"{name}: {step.message}", step.done, step.total)

            methods.append(
                fit_method(
                    dataset,
                    name,
                    numbers,
                    out / "models",
                    progress=fitting,
                    device=device,
                    **settings,
                )
            )
        methods += [
            fit_anomalib(
                dataset,
                other,
                numbers,
                out / "models",
                modality=modality.value,
                patient_pattern=patient_pattern,
                device=device,
                progress=bar,
            )
            for other in others
        ]
        result = compare_methods(
            dataset,
            methods,
            split=split.value,
            smoothing=smoothing,
            fpr=fpr,
            patient_pattern=patient_pattern,
            draws=draws,
            progress=bar,
        )
        paths = write_report(result, out)
    rows = table("method", "smoothing", "pixel AUPR", "95 %", "pixel AUROC", "image AUROC")
    for one in result.results:
        ends = one.interval("pixel_aupr")
        rows.add_row(
            one.method.name,
            str(one.smoothing),
            _number(one.mean("pixel_aupr")),
            "" if ends is None else f"{ends[0]:.3f}-{ends[1]:.3f}",
            _number(one.mean("pixel_auroc")),
            _number(one.mean("image_auroc")),
        )
    show(rows)
    for note in result.notes:
        print_message(note)
    for path in paths:
        print_message(str(path))
    return {"files": [str(path) for path in paths], **result.to_dict()}


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
