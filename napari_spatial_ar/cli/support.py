"""What every command shares: options, progress, and errors as one sentence."""

from __future__ import annotations

import functools
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from napari_spatial_ar.errors import InputError, SpatialARError

if TYPE_CHECKING:
    from napari_spatial_ar.imaging.windows import Window

__all__ = [
    "Acquired",
    "CalibrationFraction",
    "Device",
    "FitWindow",
    "Json",
    "MinBody",
    "Overwrite",
    "PaperName",
    "PatientPattern",
    "PlaneName",
    "SliceRange",
    "SlicesOf",
    "Weights",
    "chosen_backbone",
    "command",
    "parse_window",
    "progress_bar",
    "say",
    "show",
    "table",
    "write_json",
]

P = ParamSpec("P")


class PaperName(Enum):
    """What --pdf takes."""

    a4 = "A4"
    letter = "Letter"


class PlaneName(Enum):
    """What --plane takes."""

    as_acquired = "as-acquired"
    axial = "axial"
    coronal = "coronal"
    sagittal = "sagittal"


console = Console(stderr=True, highlight=False)

Json = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write the result as JSON.")
]
Weights = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Backbone weights, where not yet added.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
SlicesOf = Annotated[
    PlaneName,
    typer.Option(
        "--plane",
        help="Cut volumes into slices of this plane; nothing is interpolated. Pictures have no "
        "plane, and are left out where one is asked for.",
    ),
]
SliceRange = Annotated[
    str,
    typer.Option(
        "--slices",
        metavar="LOW:HIGH",
        help="Part of each volume's stack to learn from, such as 0.2:0.8: slices whose middle "
        "lies in it, both ends included, counted from inferior, anterior or right.",
    ),
]
MinBody = Annotated[
    float, typer.Option(help="Leave out slices of which body covers a smaller share.")
]
CalibrationFraction = Annotated[
    float,
    typer.Option(
        help="Share of the slices, by whole patients, to calibrate on and for nothing else; 0: on "
        "those for validation."
    ),
]
Acquired = Annotated[
    str,
    typer.Option(
        metavar="WORDS",
        help="How scans were acquired whose headers and file names do not say, such as pictures: "
        "'axial FLAIR'. Scans that differ are marked before they are scored.",
    ),
]
PatientPattern = Annotated[
    str | None, typer.Option(help="Regular expression that finds the patient in a path.")
]
FitWindow = Annotated[
    str | None,
    typer.Option(
        metavar="WINDOW",
        help="What the model sees as black and white: a CT preset (brain, liver, lung, bone, 'soft "
        "tissue'), LOW:HIGH in the scan's unit, or percentiles such as p0.5:99.5. By default soft "
        "tissue for CT, else p0.5:99.5.",
    ),
]
Overwrite = Annotated[bool, typer.Option(help="Replace what an earlier run wrote.")]


def parse_window(text: str) -> Window:
    """Read what ``--window`` says: a preset's name, LOW:HIGH, or percentiles as pLOW:HIGH.

    Raises
    ------
    InputError
        If it is none of these.
    """
    from napari_spatial_ar.imaging.windows import CT_PRESETS, Window

    preset = CT_PRESETS.get(text.strip().lower().replace("-", " ").replace("_", " "))
    if preset is not None:
        return preset
    low, colon, high = text.strip().lower().removeprefix("p").partition(":")
    try:
        ends = float(low), float(high.removeprefix("p"))
    except ValueError:
        colon = ""
    if not colon:
        raise InputError(
            f"there is no window '{text}'",
            fix=f"Say {', '.join(CT_PRESETS)}, LOW:HIGH, or percentiles such as p0.5:99.5",
        )
    return Window("percentile" if text.strip().lower().startswith("p") else "fixed", *ends)


def chosen_backbone(named: str | None, weights: Path | None) -> str:
    """Name of the backbone to use; where none is named, one is chosen, and a line says which."""
    from napari_spatial_ar.normative.weights import default_backbone, default_note

    if named:
        return named
    chosen = default_backbone(weights)
    say(default_note(chosen))
    return chosen


def command(
    function: Callable[P, dict[str, Any]],
) -> Callable[P, None]:
    """Turn a function that returns its result into a command that reports it, or its error."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        target = kwargs.get("json")
        try:
            result = function(*args, **kwargs)
            write_json(target, result)
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
    console.print(f"[bold red]error:[/] {escape(sentence)}", soft_wrap=True)
    try:
        write_json(target, {"error": sentence})
    except SpatialARError as error:
        console.print(str(error), markup=False, soft_wrap=True)
    raise typer.Exit(1)


def write_json(target: object, value: dict[str, Any]) -> None:
    """Write a result where ``--json`` says, if it was given."""
    if isinstance(target, Path):
        from napari_spatial_ar.imaging.files import atomic_write_json

        atomic_write_json(target, value)


def say(text: str) -> None:
    """Print a line to standard error, as it is."""
    console.print(text, markup=False, soft_wrap=True)


def progress_bar() -> Progress:
    """Make a progress bar that goes away at the end."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


def table(*columns: str) -> Table:
    """Make a table without lines."""
    return Table(*columns, box=None, pad_edge=False)


def show(result: Table) -> None:
    """Print a table to standard output."""
    Console(highlight=False).print(result)
