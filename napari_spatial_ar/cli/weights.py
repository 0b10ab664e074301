"""Commands about backbone weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_spatial_ar.cli.support import Json, command, progress_bar, say, show, table

if TYPE_CHECKING:
    from napari_spatial_ar.normative.weights import WeightsInfo

__all__ = ["weights_app"]

weights_app = typer.Typer(help="Backbone weights.", no_args_is_help=True)


@weights_app.command("list")
@command
def weights_list(json: Json = None) -> dict[str, Any]:
    """List the backbones and where their weights are."""
    from napari_spatial_ar.normative.weights import list_weights

    rows = table("backbone", "licence", "weights")
    found = list_weights()
    for info in found:
        rows.add_row(info.name, info.licence, _where(info))
    show(rows)
    return {
        "weights": [
            {
                "name": info.name,
                "licence": info.licence,
                "path": str(info.path) if info.path else None,
                "in_hub_cache": info.in_hub_cache,
                "embedded_blocks": info.embedded_blocks,
                "at_hand": info.at_hand,
            }
            for info in found
        ]
    }


def _where(info: WeightsInfo) -> str:
    places = [f"blocks 1 to {info.embedded_blocks} with the package"] * bool(info.embedded_blocks)
    places += ["hub cache"] * info.in_hub_cache if info.path is None else [str(info.path)]
    return "; ".join(places) or "not at hand"


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
