"""Commands about models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_spatial_ar.cli.choices import (
    METHOD_NAMES,
    ContextName,
    Modality,
    complete_backbone,
    complete_model,
    complete_own_model,
)
from napari_spatial_ar.cli.options import (
    Device,
    Json,
    ModelName,
    NotAllDone,
    Overwrite,
    PatientPattern,
    Weights,
    command,
    patients,
    print_message,
    progress,
    show,
    table,
)
from napari_spatial_ar.cli.pages import App
from napari_spatial_ar.errors import InputError

if TYPE_CHECKING:
    from napari_spatial_ar.normative.calibration.calibration import Calibration

__all__ = ["models_app"]

models_app = App(help="List, show, share and compare models.", no_args_is_help=True)


_PTH = "Checkpoints of the paper's authors"
# Hex digits of a scan's key in a table, enough to identify it.
_KEY_SHOWN = 12

OwnModel = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="Name of one of your models.", autocompletion=complete_own_model
    ),
]
NewName = Annotated[str, typer.Argument(metavar="NEW_NAME", help="The new name.")]


@models_app.command("list")
@command
def models_list(
    trash: Annotated[bool, typer.Option(help="List deleted models instead.")] = False,
    json: Json = None,
) -> dict[str, Any]:
    """List your models and those of the package."""
    from napari_spatial_ar.json_schemas import ModelsTrash, stamped
    from napari_spatial_ar.normative.library import list_entries, list_models, trashed_models

    if trash:
        deleted = trashed_models()
        rows = table("name", "deleted (UTC)")
        for one in deleted:
            rows.add_row(one.name, f"{one.deleted:%Y-%m-%d %H:%M:%S}")
        show(rows)
        listed = [{"name": m.name, "deleted": m.deleted.isoformat()} for m in deleted]
        return stamped(ModelsTrash, {"trash": listed})
    found = list_models()
    rows = table("name", "modality", "method", "backbone", "trained on")
    for model in found:
        rows.add_row(model.name, model.modality, model.method, model.backbone, model.summary)
    show(rows)
    unreadable = [entry for entry in list_entries() if entry.header is None]
    for entry in unreadable:
        print_message(str(entry.damage))
    return {
        "models": [
            {
                "name": model.name,
                "path": str(model.file),
                "modality": model.modality,
                "method": model.method,
                "backbone": model.backbone,
                "summary": model.summary,
            }
            for model in found
        ],
        "unreadable": [
            {"name": entry.name, "path": str(entry.file), "damage": entry.damage}
            for entry in unreadable
        ],
    }


@models_app.command("methods")
@command
def models_methods(json: Json = None) -> dict[str, Any]:
    """List the methods of 'fit' and 'compare', with their options."""
    from napari_spatial_ar.normative.detectors import DETECTORS

    rows = table("method", "what it measures", "options and defaults", "after")
    found = []
    for name in METHOD_NAMES:
        method = DETECTORS[name]
        options = method.described_options()
        settings = [f"{o.name}={o.default}" + (f" ({o.rule})" if o.rule else "") for o in options]
        rows.add_row(
            name, f"{method.summary}\n({method.cost})", "\n".join(settings), method.reference
        )
        found.append(
            {
                "name": name,
                "summary": method.summary,
                "unit": method.unit,
                "cost": method.cost,
                "reference": method.reference,
                "options": method.options(),
                "allowed": {option.name: option.rule for option in options if option.rule},
            }
        )
    show(rows)
    return {"methods": found}


@models_app.command("show")
@command
def models_show(model: ModelName, json: Json = None) -> dict[str, Any]:
    """Show what a model is: training, method, calibration.

    'models show MODEL --json FILE' writes everything in the model file.
    """
    from napari_spatial_ar.normative.library import missing_backbone
    from napari_spatial_ar.normative.model import load_model
    from napari_spatial_ar.review.model_card import model_facts

    loaded = load_model(model, device="cpu")
    needs = missing_backbone(loaded.header)
    facts = {
        "Name": loaded.name,
        "Folder": str(loaded.folder or ""),
        "Modality": loaded.modality.upper(),
        **model_facts(loaded),
        **_calibration_facts(loaded.header.calibration),
        "Needs": needs or "",
    }
    rows = table("", "")
    for name, text in facts.items():
        if text:
            rows.add_row(name, text.replace("`", ""))
    show(rows)
    header = loaded.header.to_dict()
    return {
        "name": loaded.name,
        "sha256": loaded.sha256,
        "unit": loaded.unit,
        "needs": needs,
        **header,
    }


def _calibration_facts(found: Calibration | None) -> dict[str, str]:
    """Describe the basis of a model's thresholds and p-values."""
    if found is None:
        return {"Calibration": "none: run 'calibrate' with normal scans"}
    least = found.smallest_p
    shares = list(zip(found.fpr, found.thresholds, strict=True))
    regions = found.regions
    counts = [(share, regions.count(value) or 0) for share, value in shares] if regions else []
    return {
        "Calibration": f"{found.slices} normal slices of {patients(found.patients)}"
        + ("" if found.separate else ", possibly used in the fit"),
        "P-values": "none" if least is None else f"smallest {least:.3f}",
        "Thresholds": ", ".join(f"{100 * share:g} %: {value:.4g}" for share, value in shares),
        f"Regions a normal {regions.per if regions else 'scan'}": ", ".join(
            f"{100 * share:g} %: {count:.2g}" for share, count in counts
        ),
    }


@models_app.command("rename")
@command
def models_rename(model: OwnModel, new_name: NewName, json: Json = None) -> dict[str, Any]:
    """Rename one of your models."""
    from napari_spatial_ar.normative.library import rename_model

    folder = rename_model(model, new_name)
    print_message(f"{model} is now named {folder.name}.")
    return {"name": folder.name, "path": str(folder)}


@models_app.command("duplicate")
@command
def models_duplicate(model: ModelName, new_name: NewName, json: Json = None) -> dict[str, Any]:
    """Copy a model, its card included, into your models."""
    from napari_spatial_ar.normative.library import duplicate_model

    folder = duplicate_model(model, new_name)
    print_message(f"Copied as {folder.name}.")
    return {"name": folder.name, "path": str(folder)}


@models_app.command("delete")
@command
def models_delete(model: OwnModel, json: Json = None) -> dict[str, Any]:
    """Move one of your models to the trash."""
    from napari_spatial_ar.normative.library import delete_model

    folder = delete_model(model)
    print_message(f"{model} is in the trash: restore it with 'models restore {model}'.")
    return {"name": model, "path": str(folder)}


@models_app.command("restore")
@command
def models_restore(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name of a deleted model.")],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Restore it under another name.")
    ] = None,
    json: Json = None,
) -> dict[str, Any]:
    """Restore a deleted model, the latest of that name."""
    from napari_spatial_ar.normative.library import restore_model

    folder = restore_model(model, name)
    print_message(f"{folder.name} is restored.")
    return {"name": folder.name, "path": str(folder)}


@models_app.command("export")
@command
def models_export(
    model: ModelName,
    out: Annotated[Path, typer.Option(metavar="FILE", help="File to write.")],
    pictures: Annotated[
        bool, typer.Option(help="Include the figures of the card, which show normal slices.")
    ] = True,
    overwrite: Overwrite = False,
    json: Json = None,
) -> dict[str, Any]:
    """Write a model and its card to one file, for 'models import'."""
    from napari_spatial_ar.normative.archive import export_model

    path = export_model(model, out, pictures=pictures, overwrite=overwrite)
    print_message(f"Exported as {path}.")
    return {"path": str(path)}


@models_app.command("check")
@command
def models_check(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="Model: its name or folder.",
            show_default="all",
            autocompletion=complete_model,
        ),
    ] = None,
    json: Json = None,
) -> dict[str, Any]:
    """Verify the content of models and what they need to score."""
    from napari_spatial_ar.normative.library import check_models

    found = check_models(model)
    rows = table("name", "sha256", "found")
    for one in found:
        rows.add_row(one.name, one.sha256[:16], one.damage or one.needs or "whole")
    show(rows)
    fields = ("name", "sha256", "damage", "needs")
    result = {"models": [{name: getattr(one, name) for name in fields} for one in found]}
    if any(one.damage for one in found):
        raise NotAllDone(result)
    return result


@models_app.command("suspects")
@command
def models_suspects(
    model: ModelName,
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="FOLDER", help="Folders that the model was fitted on."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for suspects.png and suspects.csv."),
    ] = None,
    top: Annotated[int, typer.Option(metavar="N", min=1, help="How many scans to list.")] = 20,
    overwrite: Overwrite = False,
    json: Json = None,
    patient_pattern: PatientPattern = None,
    weights: Weights = None,
    device: Device = "auto",
) -> dict[str, Any]:
    """List the training outliers: the scans least like those of other patients.

    Check them before relying on the model; exclude one with 'fit --exclude KEY'. Whatever the
    model's method, each scan is compared with a half of the patients that excludes its own.
    """
    from napari_spatial_ar.imaging.files import locked
    from napari_spatial_ar.normative.fitting.outliers import UNIT, find_outliers
    from napari_spatial_ar.normative.model import load_model
    from napari_spatial_ar.review.outliers import COLUMNS, outlier_rows, write_outliers
    from napari_spatial_ar.steps import finish

    loaded = load_model(model, weights=weights, device=device)
    steps = find_outliers(loaded, folders, top=top, patient_pattern=patient_pattern)
    with progress() as bar:
        found = finish(steps, lambda step: bar(step.message, step.done, step.total))
    listed, rows = table(*COLUMNS), outlier_rows(found)
    for *shown, key in rows:
        listed.add_row(*shown, key[:_KEY_SHOWN])
    show(listed)
    print_message(f"The {len(rows)} strongest outliers of {found.scans} scans; scores are {UNIT}.")
    if out is not None:
        with locked(out):
            write_outliers(found, out, overwrite=overwrite)
        print_message(f"See {out / 'suspects.png'}.")
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
    scan: Annotated[
        Path, typer.Argument(metavar="SCAN", help="Scan: a file, or a folder with one series.")
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for compare.png and compare.json.")
    ],
    share: Annotated[
        float,
        typer.Option(
            metavar="SHARE", min=0, max=1, help="Share of normal tissue that each mask may flag."
        ),
    ] = 0.01,
    overwrite: Overwrite = False,
    json: Json = None,
    device: Device = "auto",
) -> dict[str, Any]:
    """Score one scan with two models and show how well they agree."""
    from napari_spatial_ar.imaging.files import locked
    from napari_spatial_ar.imaging.reading import read
    from napari_spatial_ar.normative.model import load_model
    from napari_spatial_ar.review.model_comparison import compare_models

    volumes = read(scan)
    if len(volumes) > 1:
        raise InputError(f"it contains {len(volumes)} scans", path=scan, fix="Give one of them")
    one, other = (load_model(name, device=device) for name in (first, second))
    with locked(out), progress() as bar:
        result = compare_models(
            one,
            other,
            volumes[0],
            out,
            share=share,
            overwrite=overwrite,
            progress=lambda name, done, total: bar(f"Scoring with {name}", done, total),
        )
    summary = result.to_dict()
    print_message(
        f"In {result.unit}: rank correlation {_digits(summary['rank_correlation'])}, Dice "
        f"{_digits(summary['dice'])} of masks at {share:g}. See {result.files['png']}."
    )
    for sentence in volumes[0].warnings:
        print_message(f"warning: {sentence}")
    for sentence in result.shift_warnings:
        print_message(f"warning: {sentence}")
    return {**summary, "files": {kind: str(path) for kind, path in result.files.items()}}


@models_app.command("import")
@command
def models_import(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="Model file or folder, export, or checkpoint of the paper's authors (.pth).",
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name of the model.", show_default="from the source"),
    ] = None,
    json: Json = None,
    modality: Annotated[
        Modality | None, typer.Option(help="Modality of the scans.", rich_help_panel=_PTH)
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            metavar="BACKBONE",
            help="Backbone: see 'weights list'.",
            autocompletion=complete_backbone,
            rich_help_panel=_PTH,
        ),
    ] = None,
    dilation: Annotated[
        str | None,
        typer.Option(
            "--dilation",
            "--dilations",
            metavar="N|N-N-...",
            help="4 (dilated), 1 (standard), or its --dilation_schedule: 1-2-4-8.",
            rich_help_panel=_PTH,
        ),
    ] = None,
    context: Annotated[
        ContextName | None,
        typer.Option(
            help="Context of the network, checked against the file.",
            show_default="read from the file",
            rich_help_panel=_PTH,
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            metavar="PIXELS",
            min=1,
            help="Its --img_size.",
            show_default="read from the file, if it contains it",
            rich_help_panel=_PTH,
        ),
    ] = None,
    weights: Weights = None,
) -> dict[str, Any]:
    """Import a model from elsewhere.

    A checkpoint of the paper's authors does not contain modality, backbone and dilations: give them
    as options.
    """
    from napari_spatial_ar.normative.importing import import_model, is_reference_checkpoint

    if is_reference_checkpoint(source):
        path = _import_reference(source, name, modality, backbone, dilation, context, size, weights)
    else:
        path = import_model(source, name)
    print_message(f"Imported as {path.parent.name}.")
    return {"name": path.parent.name, "path": str(path)}


def _import_reference(
    source: Path,
    name: str | None,
    modality: Modality | None,
    backbone: str | None,
    dilation: str | None,
    context: ContextName | None,
    size: int | None,
    weights: Path | None,
) -> Path:
    from napari_spatial_ar.normative.importing import import_reference
    from napari_spatial_ar.normative.reference_checkpoint import (
        read_dilations,
        read_reference_checkpoint,
    )

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
        dilations = "-".join(map(str, found.folder_dilations))
        hint = f" (its folder's name has {found.folder_backbone}, {dilations})" if dilations else ""
        raise InputError(
            f"a checkpoint of the paper's authors does not contain its {' and '.join(words)}{hint}",
            path=source,
            fix=f"Add {'; '.join(missing)}",
        )
    return import_reference(
        source,
        name or source.stem,
        modality=modality.value,
        backbone=backbone,
        weights=weights,
        dilation=read_dilations(dilation),
        context=None if context is None else context.value,
        size=size,
    )


def _digits(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"
