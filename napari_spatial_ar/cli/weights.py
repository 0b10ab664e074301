"""Commands about backbone weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_spatial_ar.cli.support import (
    Json,
    Overwrite,
    command,
    progress_bar,
    say,
    show,
    table,
)

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
                "own": info.own,
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


Triple = Annotated[
    str | None,
    typer.Option(
        metavar="R,G,B",
        help="Normalisation of grey values in 0..1 that it was trained with, where its files do "
        "not say: three numbers, or one for all channels.",
    ),
]


@weights_app.command("add")
@command
def weights_add(
    path: Annotated[
        Path,
        typer.Argument(
            help="A file of weights, or a folder of transformers, timm or open_clip; told by "
            "content. JSON files beside the weights are read too."
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(
            help="Which backbone, if the file's name does not say. Any other name makes it a "
            "backbone of your own."
        ),
    ] = None,
    mean: Triple = None,
    std: Triple = None,
    heads: Annotated[int | None, typer.Option(help="Attention heads.")] = None,
    activation: Annotated[
        str | None, typer.Option(help="Of the MLPs: gelu or quick_gelu (OpenAI's CLIP).")
    ] = None,
    patch: Annotated[
        int | None, typer.Option(help="Side of a patch in pixels, to be compared with its weights.")
    ] = None,
    licence: Annotated[str, typer.Option(help="Licence of the weights, for the list.")] = "",
    overwrite: Overwrite = False,
    json: Json = None,
) -> dict[str, Any]:
    """Add weights that are here, or a backbone of your own: 'fit --backbone NAME' then uses it."""
    from napari_spatial_ar.normative.weights import Said, add, spec_of

    said = Said(patch, heads, activation, _numbers("--mean", mean), _numbers("--std", std), licence)
    stored = add(path, name, said=said, overwrite=overwrite)
    spec = spec_of(stored.stem)
    say(f"Added as {stored}.")
    if spec.own:
        say(
            f"{spec.name}: {spec.config['num_hidden_layers']} blocks of {spec.width} channels, "
            f"patches of {spec.patch} pixels, "
            f"{spec.config.get('num_register_tokens', 0)} registers, mean {_shown(spec.mean)}, "
            f"standard deviation {_shown(spec.std)}."
        )
    return {
        "path": str(stored),
        "name": spec.name,
        "own": spec.own,
        "sha256": spec.pinned_sha256,
        "family": spec.family,
        "patch": spec.patch,
        "width": spec.width,
        "mean": list(spec.mean),
        "std": list(spec.std),
        "config": spec.config,
    }


def _numbers(option: str, text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(
            f"{option} takes one number or three with commas, not '{text}'."
        ) from error


def _shown(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
