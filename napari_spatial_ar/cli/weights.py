"""Commands about backbone weights."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_spatial_ar.cli.choices import complete_backbone
from napari_spatial_ar.cli.options import (
    Json,
    Overwrite,
    command,
    print_message,
    progress,
    show,
    table,
)
from napari_spatial_ar.cli.pages import App

if TYPE_CHECKING:
    from napari_spatial_ar.normative.backbones.weights import WeightsInfo

__all__ = ["weights_app"]

_OWN = "A backbone of your own"

weights_app = App(help="List, download and add backbone weights.", no_args_is_help=True)


@weights_app.command("list")
@command
def weights_list(json: Json = None) -> dict[str, Any]:
    """List the backbones, their licences and where their weights are."""
    from napari_spatial_ar.normative.backbones.weights import list_weights

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
    return "; ".join(places) or "not installed"


@weights_app.command("pull")
@command
def weights_pull(
    name: Annotated[
        str,
        typer.Argument(
            metavar="BACKBONE", help="See 'weights list'.", autocompletion=complete_backbone
        ),
    ],
    force: Annotated[bool, typer.Option(help="Download weights even if installed.")] = False,
    json: Json = None,
) -> dict[str, Any]:
    """Download the weights of a backbone."""
    from napari_spatial_ar.normative.backbones.weights import pull

    with progress(label := f"Downloading {name}") as bar:
        source = pull(
            name,
            force=force,
            progress=partial(bar, label),
        )
    print_message(f"{name}: {source}")
    return {"name": name, "source": source}


Triple = Annotated[
    str | None,
    typer.Option(
        metavar="R,G,B",
        help="Normalisation of intensities in 0..1 that it was trained with: three numbers, or one "
        "for all channels.",
        show_default="read from its files",
        rich_help_panel=_OWN,
    ),
]


@weights_app.command("add")
@command
def weights_add(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help="File of weights, or folder of transformers, timm or open_clip; detected by "
            "content. JSON files beside the weights are read too.",
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Which backbone; any new name makes it a backbone of your own.",
            show_default="from the file name",
            autocompletion=complete_backbone,
        ),
    ] = None,
    overwrite: Overwrite = False,
    json: Json = None,
    mean: Triple = None,
    std: Triple = None,
    heads: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Attention heads.",
            show_default="read from its files",
            rich_help_panel=_OWN,
        ),
    ] = None,
    activation: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Activation of the MLPs: gelu, or quick_gelu (OpenAI's CLIP).",
            show_default="read from its files",
            rich_help_panel=_OWN,
        ),
    ] = None,
    patch: Annotated[
        int | None,
        typer.Option(
            metavar="PIXELS",
            min=1,
            help="Side of a patch, checked against the weights.",
            show_default="read from the weights",
            rich_help_panel=_OWN,
        ),
    ] = None,
    licence: Annotated[
        str,
        typer.Option(
            metavar="TEXT",
            help="Licence of the weights, for 'weights list'.",
            show_default=False,
            rich_help_panel=_OWN,
        ),
    ] = "",
) -> dict[str, Any]:
    """Add weights from a file, or a backbone of your own.

    'fit --backbone NAME' then uses them.
    """
    from napari_spatial_ar.normative.backbones.weights import BackboneOverrides, add, spec_of

    overrides = BackboneOverrides(
        patch, heads, activation, _numbers("--mean", mean), _numbers("--std", std), licence
    )
    stored = add(path, name, overrides=overrides, overwrite=overwrite)
    spec = spec_of(stored.stem)
    print_message(f"Added as {stored}.")
    if spec.own:
        print_message(
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
