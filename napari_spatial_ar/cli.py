"""The command line: fit, score, evaluate and the rest, one scan or thousands.

Every command writes its result as JSON with ``--json FILE`` and exits with 0 (done), 1 (could
not) or 2 (wrong use). Errors are one sentence, never a traceback.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ParamSpec

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from napari_spatial_ar import __version__
from napari_spatial_ar.errors import SpatialARError

__all__ = ["app", "main"]

P = ParamSpec("P")
app = typer.Typer(
    name="napari-spatial-ar",
    help="Show where an MRI, CT or OCT scan departs from normal. For research use, not for "
    "diagnosis.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
models_app = typer.Typer(help="Normative models.", no_args_is_help=True)
weights_app = typer.Typer(help="Backbone weights.", no_args_is_help=True)
app.add_typer(models_app, name="models")
app.add_typer(weights_app, name="weights")

console = Console(stderr=True, highlight=False)

Json = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write the result as JSON.")
]
Weights = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Backbone weights, where not yet added.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Overwrite = Annotated[bool, typer.Option(help="Replace what an earlier run wrote.")]


def _command(
    function: Callable[P, dict[str, Any]],
) -> Callable[P, None]:
    """Turn a function that returns its result into a command that reports it, or its error."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        target = kwargs.get("json")
        try:
            result = function(*args, **kwargs)
            _write_json(target, result)
        except SpatialARError as error:
            _fail(target, str(error))
        except KeyboardInterrupt:
            _fail(target, "Stopped. What was finished is kept: run the same command to go on.")
        except OSError as error:
            _fail(target, f"{error.filename or 'A file'}: {error.strerror or error}.")
        except MemoryError:
            _fail(target, "There is not enough memory for this scan or setting.")

    return run


def _fail(target: object, sentence: str) -> None:
    console.print(f"[bold red]error:[/] {sentence}", markup=True, soft_wrap=True)
    try:
        _write_json(target, {"error": sentence})
    except SpatialARError as error:
        console.print(str(error), markup=False, soft_wrap=True)
    raise typer.Exit(1)


def _write_json(target: object, value: dict[str, Any]) -> None:
    if isinstance(target, Path):
        from napari_spatial_ar.imaging.files import atomic_write_json

        atomic_write_json(target, value)


def _say(text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


def _table(*columns: str) -> Table:
    return Table(*columns, box=None, pad_edge=False)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    del version


@app.command()
@_command
def inspect(
    input: Annotated[Path, typer.Argument(help="A file or folder.")], json: Json = None
) -> dict[str, Any]:
    """List the series found: shape, spacing, orientation, modality, files, warnings."""
    from napari_spatial_ar.imaging.reading import read

    series = []
    table = _table(
        "series", "modality", "shape Z,Y,X", "spacing Z,Y,X", "axes i,j,k", "plane", "files"
    )
    for volume in read(input):
        geometry = volume.geometry
        series.append(
            {
                "label": volume.series.label,
                "modality": volume.modality,
                "intensity": volume.intensity,
                "shape": list(geometry.shape),
                "spacing_mm": list(geometry.spacing) if geometry.spacing_known else None,
                "affine": geometry.affine.tolist(),
                "orientation": geometry.orientation,
                "plane": geometry.plane,
                "files": [str(path) for path in volume.series.files],
                "warnings": list(volume.warnings),
            }
        )
        spacing = " x ".join(f"{s:.3g}" for s in geometry.spacing)
        table.add_row(
            volume.series.label,
            volume.modality,
            " x ".join(map(str, geometry.shape)),
            f"{spacing} mm" if geometry.spacing_known else "not known",
            geometry.orientation,
            geometry.plane,
            str(len(volume.series.files)),
        )
    Console(highlight=False).print(table)
    for entry in series:
        for warning in entry["warnings"]:
            _say(f"warning: {entry['label']}: {warning}")
    return {"series": series}


@app.command()
@_command
def convert(
    input: Annotated[Path, typer.Argument(help="A file or folder.")],
    out: Annotated[Path, typer.Option(help="Folder for the NIfTI files.")],
    overwrite: Overwrite = False,
    json: Json = None,
) -> dict[str, Any]:
    """Write each volume found as NIfTI, on its own grid."""
    from napari_spatial_ar.errors import InputError
    from napari_spatial_ar.imaging.nifti import write_nifti
    from napari_spatial_ar.imaging.reading import read
    from napari_spatial_ar.review.outputs import scan_folder_name

    written: dict[str, Path] = {}
    for volume in read(input):
        name = scan_folder_name(volume, written)
        path = out / f"{name}.nii.gz"
        if path.exists() and not overwrite:
            raise InputError("this file is there already", path=path, fix="Say --overwrite")
        write_nifti(path, volume.data, volume.geometry)
        written[name] = path
        _say(f"{path}")
    return {"files": [str(path) for path in written.values()]}


@app.command()
@_command
def fit(
    folder: Annotated[Path, typer.Argument(help="Folder of normal scans.")],
    out: Annotated[Path, typer.Option(help="Folder of the new model.")],
    modality: Annotated[str, typer.Option(help="mri, ct or oct.")] = "mri",
    backbone: Annotated[str, typer.Option(help="See 'weights list'.")] = "dinov3_vits16",
    method: Annotated[str, typer.Option(help="spatial-ar or memory-bank.")] = "spatial-ar",
    dilation: Annotated[int, typer.Option(help="4: dilated; 1: standard.")] = 4,
    context: Annotated[str, typer.Option(help="causal or bidirectional.")] = "causal",
    epochs: Annotated[int, typer.Option(help="Passes over the slices.")] = 40,
    batch_size: Annotated[int, typer.Option(help="Slices a step.")] = 64,
    seed: Annotated[int, typer.Option(help="Same seed, same weights.")] = 0,
    smoothing: Annotated[int, typer.Option(help="Mean filter over patch scores; 1: none.")] = 3,
    patient_pattern: Annotated[
        str | None, typer.Option(help="Regular expression that finds the patient in a path.")
    ] = None,
    weights: Weights = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    json: Json = None,
) -> dict[str, Any]:
    """Learn what normal looks like from a folder of normal scans.

    Interrupted with Ctrl+C, the same command goes on where it stopped.
    """
    from napari_spatial_ar.normative.fitting import FitProgress
    from napari_spatial_ar.normative.fitting import fit as fit_model

    with _bar() as bar:
        task = bar.add_task("", total=None)

        def show(step: FitProgress) -> None:
            bar.update(
                task, description=step.message, completed=step.done, total=step.total or None
            )

        model = fit_model(
            folder,
            progress=show,
            out=out,
            modality=modality,
            backbone=backbone,
            method=method,
            dilation=dilation,
            context=context,
            epochs=epochs,
            batch_size=batch_size,
            seed=seed,
            smoothing=smoothing,
            patient_pattern=patient_pattern,
            weights=weights,
            device=device,
            overwrite=overwrite,
        )
    training = {k: v for k, v in model.header.training.items() if k != "history"}
    _say(f"Saved in {out}: {training['images']} slices of {training['subjects']} patients.")
    for warning in training["warnings"]:
        _say(f"warning: {warning}")
    return {"model": str(out), "sha256": model.sha256, "training": model.header.training}


@app.command()
@_command
def score(
    inputs: Annotated[list[Path], typer.Argument(help="Scans: files or folders.")],
    model: Annotated[str, typer.Option(help="A model's name or folder.")],
    out: Annotated[Path, typer.Option(help="Folder for the results, one folder a scan.")],
    fpr: Annotated[
        float, typer.Option(help="Share of normal tissue that the mask may flag.")
    ] = 0.01,
    threshold: Annotated[
        float | None, typer.Option(help="Instead of --fpr: a threshold in the model's unit.")
    ] = None,
    min_size_mm3: Annotated[float, typer.Option(help="Leave smaller regions out.")] = 0.0,
    montage: Annotated[bool, typer.Option(help="Also write a picture of the top slices.")] = True,
    keep_uids: Annotated[bool, typer.Option(help="Write series UIDs instead of hashes.")] = False,
    weights: Weights = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    json: Json = None,
) -> dict[str, Any]:
    """Score scans: heatmap, mask, findings and provenance for each, on the scan's own grid."""
    from napari_spatial_ar.review.batch import score_scans

    with _bar() as bar:
        task = bar.add_task("", total=None)

        def show(label: str, done: int, total: int) -> None:
            bar.update(task, description=f"Scoring {label}", completed=done, total=total)

        result = score_scans(
            inputs,
            model,
            out,
            fpr=fpr,
            threshold=threshold,
            min_size_mm3=min_size_mm3,
            montage=montage,
            keep_uids=keep_uids,
            weights=weights,
            device=device,
            overwrite=overwrite,
            progress=show,
        )
    for scan in result["scans"]:
        _say(f"{scan['folder']}: {scan['findings']} findings, backbone from {result['backbone']}")
    for failure in result["failed"]:
        _say(f"could not be scored: {failure}")
    if result["failed"]:
        _write_json(json, result)
        raise typer.Exit(1)
    return result


@app.command()
@_command
def evaluate(
    dataset: Annotated[Path, typer.Argument(help="Data set in the BMAD layout.")],
    model: Annotated[str, typer.Option(help="A model's name or folder.")],
    split: Annotated[str, typer.Option(help="test or valid.")] = "test",
    fpr: Annotated[float, typer.Option(help="For the calibrated threshold.")] = 0.01,
    patient_pattern: Annotated[
        str | None, typer.Option(help="Regular expression that finds the patient in a path.")
    ] = None,
    weights: Weights = None,
    device: Device = "auto",
    json: Json = None,
) -> dict[str, Any]:
    """Measure a model on labelled slices."""
    from napari_spatial_ar.errors import InputError
    from napari_spatial_ar.evaluation.evaluate import evaluate as measure
    from napari_spatial_ar.normative.model import load_model

    if split not in ("test", "valid"):
        raise InputError(f"there is no split '{split}'", fix="Choose test or valid")
    loaded = load_model(model, weights=weights, device=device)
    with _bar() as bar:
        task = bar.add_task("Scoring", total=None)
        result = measure(
            dataset,
            loaded,
            split="valid" if split == "valid" else "test",
            fpr=fpr,
            patient_pattern=patient_pattern,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        ).to_dict()
    table = _table("figure", "value")
    for name, value in result.items():
        table.add_row(name, f"{value:.4f}" if isinstance(value, float) else str(value))
    Console(highlight=False).print(table)
    return {"model": loaded.name, "model_sha256": loaded.sha256, **result}


@app.command()
@_command
def demo(
    headless: Annotated[bool, typer.Option(help="Write files; open no window.")] = False,
    out: Annotated[Path, typer.Option(help="Where --headless writes.")] = Path("demo_out"),
    json: Json = None,
) -> dict[str, Any]:
    """Score a real brain scan with the released model and show it in napari."""
    from napari_spatial_ar.demo import run_demo

    with _bar() as bar:
        task = bar.add_task("", total=None)

        def show(label: str, done: int, total: int) -> None:
            bar.update(task, description=label, completed=done, total=total)

        result = run_demo(headless=headless, out=out, progress=show)
    for path in result["files"]:
        _say(path)
    return result


@models_app.command("list")
@_command
def models_list(json: Json = None) -> dict[str, Any]:
    """List the models at hand."""
    from napari_spatial_ar.normative.model import list_models

    found = list_models()
    table = _table("name", "modality", "method", "backbone", "trained on")
    for info in found:
        table.add_row(info.name, info.modality, info.method, info.backbone, info.summary)
    Console(highlight=False).print(table)
    fields = ("name", "path", "modality", "method", "backbone", "summary")
    return {"models": [{f: str(getattr(info, f)) for f in fields} for info in found]}


@models_app.command("show")
@_command
def models_show(
    model: Annotated[str, typer.Argument(help="A model's name or folder.")], json: Json = None
) -> dict[str, Any]:
    """Show everything a model file says of the model."""
    from napari_spatial_ar.normative.model import load_model

    loaded = load_model(model, device="cpu")
    result = {"name": loaded.name, "sha256": loaded.sha256, **loaded.header.to_dict()}
    shown = {**result, "training": {k: v for k, v in result["training"].items() if k != "history"}}
    Console(highlight=False).print_json(data=shown)
    return result


@models_app.command("import")
@_command
def models_import(
    source: Annotated[Path, typer.Argument(help="A model, its folder, or an authors' .pth.")],
    name: Annotated[str | None, typer.Option(help="Name of the model.")] = None,
    modality: Annotated[str, typer.Option(help="Of a .pth: mri, ct or oct.")] = "mri",
    backbone: Annotated[str, typer.Option(help="Of a .pth.")] = "dinov3_vits16",
    dilation: Annotated[int, typer.Option(help="Of a .pth: 4 dilated, 1 standard.")] = 4,
    weights: Weights = None,
    json: Json = None,
) -> dict[str, Any]:
    """Take a model in from elsewhere."""
    from napari_spatial_ar.errors import InputError
    from napari_spatial_ar.normative.importing import import_model, import_reference

    if source.suffix in (".pth", ".pt"):
        if modality not in ("mri", "ct", "oct"):
            raise InputError(f"modality must be mri, ct or oct, not '{modality}'")
        path = import_reference(
            source,
            name or source.stem,
            modality=modality,  # type: ignore[arg-type]
            backbone=backbone,
            weights=weights,
            dilation=dilation,
        )
    else:
        path = import_model(source, name)
    _say(f"Imported as {path.parent.name}.")
    return {"name": path.parent.name, "path": str(path)}


@weights_app.command("list")
@_command
def weights_list(json: Json = None) -> dict[str, Any]:
    """List the backbones and where their weights are."""
    from napari_spatial_ar.normative.weights import list_weights

    table = _table("backbone", "licence", "weights")
    found = list_weights()
    for info in found:
        table.add_row(
            info.name,
            info.licence,
            str(info.path or ("hub cache" if info.in_hub_cache else "not at hand")),
        )
    Console(highlight=False).print(table)
    return {
        "weights": [
            {
                "name": info.name,
                "licence": info.licence,
                "path": str(info.path) if info.path else None,
                "in_hub_cache": info.in_hub_cache,
            }
            for info in found
        ]
    }


@weights_app.command("pull")
@_command
def weights_pull(
    name: Annotated[str, typer.Argument(help="A backbone, see 'weights list'.")],
    force: Annotated[bool, typer.Option(help="Fetch again what is there.")] = False,
    json: Json = None,
) -> dict[str, Any]:
    """Fetch a backbone's weights."""
    from napari_spatial_ar.normative.weights import pull

    with _bar() as bar:
        task = bar.add_task(f"Fetching {name}", total=None)
        source = pull(
            name,
            force=force,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    _say(f"{name}: {source}")
    return {"name": name, "source": source}


@weights_app.command("add")
@_command
def weights_add(
    file: Annotated[Path, typer.Argument(help="A .pth or safetensors file.")],
    name: Annotated[
        str | None, typer.Option(help="Which backbone, if the name does not say.")
    ] = None,
    json: Json = None,
) -> dict[str, Any]:
    """Add weights downloaded elsewhere."""
    from napari_spatial_ar.normative.weights import add

    path = add(file, name)
    _say(f"Added as {path}.")
    return {"path": str(path)}


def main() -> None:
    """Entry point of ``napari-spatial-ar``."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a console without UTF-8 shows ? instead
    app()
