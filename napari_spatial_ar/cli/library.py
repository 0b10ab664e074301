"""Commands about models and weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from napari_spatial_ar.cli.support import Json, Weights, command, progress_bar, say, show, table

__all__ = ["models_app", "weights_app"]

models_app = typer.Typer(help="Normative models.", no_args_is_help=True)
weights_app = typer.Typer(help="Backbone weights.", no_args_is_help=True)


@models_app.command("list")
@command
def models_list(json: Json = None) -> dict[str, Any]:
    """List the models at hand."""
    from napari_spatial_ar.normative.model import list_models

    found = list_models()
    rows = table("name", "modality", "method", "backbone", "trained on")
    for info in found:
        rows.add_row(info.name, info.modality, info.method, info.backbone, info.summary)
    show(rows)
    fields = ("name", "path", "modality", "method", "backbone", "summary")
    return {"models": [{f: str(getattr(info, f)) for f in fields} for info in found]}


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
@command
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
    say(f"Imported as {path.parent.name}.")
    return {"name": path.parent.name, "path": str(path)}


@weights_app.command("list")
@command
def weights_list(json: Json = None) -> dict[str, Any]:
    """List the backbones and where their weights are."""
    from napari_spatial_ar.normative.weights import list_weights

    rows = table("backbone", "licence", "weights")
    found = list_weights()
    for info in found:
        rows.add_row(
            info.name,
            info.licence,
            str(info.path or ("hub cache" if info.in_hub_cache else "not at hand")),
        )
    show(rows)
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
@command
def weights_pull(
    name: Annotated[str, typer.Argument(help="A backbone, see 'weights list'.")],
    force: Annotated[bool, typer.Option(help="Fetch again what is there.")] = False,
    json: Json = None,
) -> dict[str, Any]:
    """Fetch a backbone's weights."""
    from napari_spatial_ar.normative.weights import pull

    with progress_bar() as bar:
        task = bar.add_task(f"Fetching {name}", total=None)
        source = pull(
            name,
            force=force,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    say(f"{name}: {source}")
    return {"name": name, "source": source}


@weights_app.command("add")
@command
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
    say(f"Added as {path}.")
    return {"path": str(path)}
