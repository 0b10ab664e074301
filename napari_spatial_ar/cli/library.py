"""Commands about models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from napari_spatial_ar.cli.support import (
    Device,
    Json,
    Overwrite,
    PatientPattern,
    Weights,
    command,
    progress_bar,
    say,
    show,
    show_json,
    table,
    write_json,
)
from napari_spatial_ar.errors import InputError

__all__ = ["models_app"]

models_app = typer.Typer(help="Normative models.", no_args_is_help=True)


# Hex digits of a scan's key in a table, enough to tell it by.
_KEY_SHOWN = 12

ModelName = Annotated[str, typer.Argument(help="A model's name or folder.")]
OwnModel = Annotated[str, typer.Argument(help="Name of one of your models.")]
NewName = Annotated[str, typer.Argument(help="The new name.")]


@models_app.command("list")
@command
def models_list(
    trash: Annotated[bool, typer.Option(help="List deleted models instead.")] = False,
    json: Json = None,
) -> dict[str, Any]:
    """List the models at hand."""
    from napari_spatial_ar.normative.library import trashed_models
    from napari_spatial_ar.normative.model_lookup import list_models, unreadable_models

    if trash:
        deleted = trashed_models()
        rows = table("name", "deleted (UTC)")
        for model in deleted:
            rows.add_row(model.name, f"{model.deleted:%Y-%m-%d %H:%M:%S}")
        show(rows)
        return {
            "trash": [{"name": m.name, "deleted": m.deleted.isoformat()} for m in deleted],
        }
    found = list_models()
    rows = table("name", "modality", "method", "backbone", "trained on")
    for info in found:
        rows.add_row(info.name, info.modality, info.method, info.backbone, info.summary)
    show(rows)
    unreadable = unreadable_models()
    for _, why in unreadable:
        say(why)
    fields = ("name", "path", "modality", "method", "backbone", "summary")
    return {
        "models": [{f: str(getattr(info, f)) for f in fields} for info in found],
        "unreadable": [
            {"name": path.parent.name, "path": str(path), "damage": why} for path, why in unreadable
        ],
    }


@models_app.command("methods")
@command
def models_methods(json: Json = None) -> dict[str, Any]:
    """List the methods that 'fit' and 'compare' know, with their options and defaults."""
    from napari_spatial_ar.normative.methods import DETECTORS

    rows = table("method", "what is unusual for it", "options and defaults", "after")
    found = []
    for name, method in DETECTORS.items():
        options = method.options()
        said = "\n".join(f"{key}={value}" for key, value in options.items())
        rows.add_row(name, f"{method.summary}\n({method.cost})", said, method.reference)
        about = {"summary": method.summary, "unit": method.unit, "cost": method.cost}
        found.append({"name": name, **about, "reference": method.reference, "options": options})
    show(rows)
    return {"methods": found}


@models_app.command("show")
@command
def models_show(model: ModelName, json: Json = None) -> dict[str, Any]:
    """Show everything a model file says of the model."""
    from napari_spatial_ar.normative.library import missing_backbone
    from napari_spatial_ar.normative.model import load_model
    from napari_spatial_ar.review.provenance import model_summary

    loaded = load_model(model, device="cpu")
    needs = missing_backbone(loaded.header)
    show_json(model_summary(loaded))
    calibration = loaded.header.calibration
    if calibration is not None:
        least = calibration.smallest_p
        say(
            f"Calibrated on {calibration.slices} normal slices of {calibration.patients} patients; "
            + ("without p-values." if least is None else f"no p-value lies below {least:.3f}.")
        )
    if needs:
        say(needs)
    header = loaded.header.to_dict()
    return {"name": loaded.name, "sha256": loaded.sha256, "needs": needs, **header}


@models_app.command("rename")
@command
def models_rename(model: OwnModel, new_name: NewName, json: Json = None) -> dict[str, Any]:
    """Rename one of your models."""
    from napari_spatial_ar.normative.library import rename_model

    folder = rename_model(model, new_name)
    say(f"{model} is called {folder.name} now.")
    return {"name": folder.name, "path": str(folder)}


@models_app.command("duplicate")
@command
def models_duplicate(model: ModelName, new_name: NewName, json: Json = None) -> dict[str, Any]:
    """Copy a model, its card included, into your models."""
    from napari_spatial_ar.normative.library import duplicate_model

    folder = duplicate_model(model, new_name)
    say(f"Copied as {folder.name}.")
    return {"name": folder.name, "path": str(folder)}


@models_app.command("delete")
@command
def models_delete(model: OwnModel, json: Json = None) -> dict[str, Any]:
    """Move one of your models to the trash."""
    from napari_spatial_ar.normative.library import delete_model

    folder = delete_model(model)
    say(f"{model} is in the trash: 'models restore {model}' brings it back.")
    return {"name": model, "path": str(folder)}


@models_app.command("restore")
@command
def models_restore(
    model: Annotated[str, typer.Argument(help="Name of a deleted model.")],
    name: Annotated[str | None, typer.Option(help="Bring it back under another name.")] = None,
    json: Json = None,
) -> dict[str, Any]:
    """Bring a deleted model back, the one deleted last where several had the name."""
    from napari_spatial_ar.normative.library import restore_model

    folder = restore_model(model, name)
    say(f"{folder.name} is back.")
    return {"name": folder.name, "path": str(folder)}


@models_app.command("export")
@command
def models_export(
    model: ModelName,
    out: Annotated[Path, typer.Option(help="The file to write.")],
    pictures: Annotated[
        bool, typer.Option(help="Take the card's pictures along, which show normal slices.")
    ] = True,
    overwrite: Overwrite = False,
    json: Json = None,
) -> dict[str, Any]:
    """Write a model with its card into one file, which 'models import' takes in."""
    from napari_spatial_ar.normative.archive import export_model

    path = export_model(model, out, pictures=pictures, overwrite=overwrite)
    say(f"Exported as {path}.")
    return {"path": str(path)}


@models_app.command("check")
@command
def models_check(
    model: Annotated[str | None, typer.Argument(help="One model; all by default.")] = None,
    json: Json = None,
) -> dict[str, Any]:
    """Compare the content of models with their sha256, and say what they need to score."""
    from dataclasses import asdict

    from napari_spatial_ar.normative.library import check_models

    found = check_models(model)
    rows = table("name", "sha256", "found")
    for one in found:
        rows.add_row(one.name, one.sha256[:16], one.damage or one.needs or "whole")
    show(rows)
    result = {"models": [asdict(one) for one in found]}
    if any(one.damage for one in found):
        write_json(json, result)
        raise typer.Exit(1)
    return result


@models_app.command("suspects")
@command
def models_suspects(
    model: ModelName,
    folders: Annotated[list[Path], typer.Argument(help="Folders that it was fitted on.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for suspects.png and suspects.csv.")
    ] = None,
    top: Annotated[int, typer.Option(help="How many scans.")] = 20,
    patient_pattern: PatientPattern = None,
    weights: Weights = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    json: Json = None,
) -> dict[str, Any]:
    """List the scans of a fit that are least like those of the other patients.

    Look at them before you trust the model: 'fit --exclude KEY' leaves one out. Each is compared
    with one half of the patients, its own being in the other, whatever the model's method.
    """
    from napari_spatial_ar.imaging.files import claimed
    from napari_spatial_ar.normative.model import load_model
    from napari_spatial_ar.normative.suspects import UNIT, Suspects, find_suspects
    from napari_spatial_ar.review.suspects import COLUMNS, suspect_rows, write_suspects

    loaded = load_model(model, weights=weights, device=device)
    steps = find_suspects(loaded, folders, top=top, patient_pattern=patient_pattern)
    with progress_bar() as bar:
        task = bar.add_task("", total=None)
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                found: Suspects = end.value
                break
            bar.update(
                task, description=step.message, completed=step.done, total=step.total or None
            )
    listed, rows = table(*COLUMNS), suspect_rows(found)
    for *shown, key in rows:
        listed.add_row(*shown, key[:_KEY_SHOWN])
    show(listed)
    say(f"The {len(rows)} most surprising of {found.scans} scans; scores are {UNIT}.")
    if out is not None:
        with claimed(out):
            write_suspects(found, out, overwrite=overwrite)
        say(f"See {out / 'suspects.png'}.")
    names = ("key", "patient", "label", "slices", "place", "score")
    return {
        "scans": found.scans,
        "unit": UNIT,
        "suspects": [{name: getattr(one, name) for name in names} for one in found.ranked],
    }


@models_app.command("compare")
@command
def models_compare(
    first: ModelName,
    second: ModelName,
    scan: Annotated[Path, typer.Argument(help="A scan: a file or a folder with one series.")],
    out: Annotated[Path, typer.Option(help="Folder for compare.png and compare.json.")],
    share: Annotated[
        float, typer.Option(help="Share of normal tissue that each mask may flag.")
    ] = 0.01,
    device: Device = "auto",
    overwrite: Overwrite = False,
    json: Json = None,
) -> dict[str, Any]:
    """Score one scan with two models: heatmaps in one unit side by side, and how far they agree."""
    from napari_spatial_ar.imaging.files import claimed
    from napari_spatial_ar.imaging.reading import read
    from napari_spatial_ar.normative.model import load_model
    from napari_spatial_ar.review.model_comparison import compare_models

    volumes = read(scan)
    if len(volumes) > 1:
        raise InputError(f"it holds {len(volumes)} scans", path=scan, fix="Give one of them")
    one, other = (load_model(name, device=device) for name in (first, second))
    with claimed(out), progress_bar() as bar:
        task = bar.add_task("", total=None)
        result = compare_models(
            one,
            other,
            volumes[0],
            out,
            share=share,
            overwrite=overwrite,
            progress=lambda name, done, total: bar.update(
                task, description=f"Scoring with {name}", completed=done, total=total
            ),
        )
    said = result.to_dict()
    say(
        f"In {result.unit}: rank correlation {said['rank_correlation']}, Dice {said['dice']} of "
        f"masks at {share:g}. See {result.files['png']}."
    )
    for sentence in result.unlike:
        say(f"warning: {sentence}")
    return {**said, "files": {kind: str(path) for kind, path in result.files.items()}}


@models_app.command("import")
@command
def models_import(
    source: Annotated[
        Path, typer.Argument(help="A model, its folder, an exported file, or an authors' .pth.")
    ],
    name: Annotated[str | None, typer.Option(help="Name of the model.")] = None,
    modality: Annotated[str | None, typer.Option(help="Of a .pth: mri, ct or oct.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Of a .pth, see 'weights list'.")] = None,
    dilation: Annotated[
        str | None,
        typer.Option(
            "--dilation",
            "--dilations",
            help="Of a .pth: 4 dilated, 1 standard, or its --dilation_schedule: 1-2-4-8.",
        ),
    ] = None,
    context: Annotated[
        str | None,
        typer.Option(help="Of a .pth, to be sure: causal or bidirectional; the file says it."),
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Of a .pth that does not say it: its --img_size.")
    ] = None,
    weights: Weights = None,
    json: Json = None,
) -> dict[str, Any]:
    """Take a model in from elsewhere.

    A checkpoint of the paper's authors (.pth) says sizes and context; it does not say its modality,
    backbone and dilations, which have to be given.
    """
    from napari_spatial_ar.normative.importing import import_model, is_reference_checkpoint

    if is_reference_checkpoint(source):
        path = _import_reference(source, name, modality, backbone, dilation, context, size, weights)
    else:
        path = import_model(source, name)
    say(f"Imported as {path.parent.name}.")
    return {"name": path.parent.name, "path": str(path)}


def _import_reference(
    source: Path,
    name: str | None,
    modality: str | None,
    backbone: str | None,
    dilation: str | None,
    context: str | None,
    size: int | None,
    weights: Path | None,
) -> Path:
    from napari_spatial_ar.normative.importing import import_reference
    from napari_spatial_ar.normative.reference_checkpoint import (
        read_dilations,
        read_reference_checkpoint,
    )

    for option, value, choices in (
        ("modality", modality, ("mri", "ct", "oct")),
        ("context", context, ("causal", "bidirectional")),
    ):
        if value not in (None, *choices):
            raise InputError(f"{option} must be {' or '.join(choices)}, not '{value}'")
    found = read_reference_checkpoint(source)
    wanted = {
        "--modality mri, ct or oct": modality is None,
        "--backbone NAME": backbone is None,
        "--dilation 4, 1 or a schedule such as 1-2-4-8": dilation is None,
        "--size PIXELS": size is None and found.size is None,
    }
    missing = [option for option, is_missing in wanted.items() if is_missing]
    if modality is None or backbone is None or dilation is None or missing:
        *words, last = (option.split()[0].removeprefix("--") for option in missing)
        words = [", ".join(words), last] if words else [last]
        said = "-".join(map(str, found.folder_dilations))
        hint = f" (its folder's name says {found.folder_backbone}, {said})" if said else ""
        raise InputError(
            f"a checkpoint of the paper's authors does not say its {' and '.join(words)}{hint}",
            path=source,
            fix=f"Add {'; '.join(missing)}",
        )
    return import_reference(
        source,
        name or source.stem,
        modality=modality,  # type: ignore[arg-type]
        backbone=backbone,
        weights=weights,
        dilation=read_dilations(dilation),
        context=context,  # type: ignore[arg-type]
        size=size,
    )
