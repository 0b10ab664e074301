"""The command that finds the fastest engine."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from napari_spatial_ar.cli.options import (
    Device,
    Json,
    ModelName,
    Weights,
    command,
    print_message,
    show,
    table,
)
from napari_spatial_ar.cli.pages import App

__all__ = ["speed_app"]

speed_app = App()


@speed_app.command(rich_help_panel="Measurements")
@command
def speed(
    model: ModelName,
    compiled: Annotated[
        bool, typer.Option(help="Try torch.compile too, which takes minutes.")
    ] = False,
    json: Json = None,
    weights: Weights = None,
    device: Device = "auto",
) -> dict[str, Any]:
    """Find the fastest engine for a model on this machine and use it from now on.

    Engines of lower precision than float32 are tried too: if one is chosen, the last digits of
    scores change. Without this command, scoring chooses among float32 engines only.
    """
    from napari_spatial_ar.normative.backbones.engines import ENGINES, available
    from napari_spatial_ar.normative.backbones.fastest_engine import (
        AGREEMENT,
        fastest,
        remember,
        trials,
    )
    from napari_spatial_ar.normative.model import load_model

    loaded = load_model(model, weights=weights, device=device)
    wanted = [name for name in available(loaded.device) if compiled or name != "compiled"]
    tried = list(trials(loaded, wanted))
    chosen = fastest(tried)
    remember(loaded, chosen)
    rows = table("engine", "ms", "times as fast", "rank correlation", "")
    for trial in tried:
        if trial.problem:
            rows.add_row(trial.engine, "", "", "", trial.problem)
            continue
        note = "used from now on" if trial.engine == chosen else ""
        if not trial.agrees:
            note = f"its maps differ from those of float32 (below {AGREEMENT:g})"
        rows.add_row(
            trial.engine,
            f"{1000 * trial.seconds:.1f}",
            f"{tried[0].seconds / trial.seconds:.2f}",
            f"{trial.agreement:.6f}",
            note,
        )
    left = {
        name: reason for name, kind in ENGINES.items() if (reason := kind.why_not(loaded.device))
    }
    show(rows)
    for name, reason in left.items():
        print_message(f"Not tried: {name}, {reason}.")
    return {
        "model": loaded.name,
        "device": str(loaded.device),
        "chosen": chosen,
        "trials": [asdict(trial) for trial in tried],
        "not_tried": left,
    }
