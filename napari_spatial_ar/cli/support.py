"""What every command shares: options, progress, and errors as one sentence."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from napari_spatial_ar.errors import InputError, Notice, SpatialARError, printable

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
    "show_json",
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


def _console(*, stderr: bool) -> Console:
    """Make a console that takes nothing in a text, such as a series' description, for markup."""
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


console = _console(stderr=True)

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
            with _warnings_said():
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


@contextmanager
def _warnings_said() -> Iterator[None]:
    """Say warnings that are meant for users in the way of everything else."""
    show = warnings.showwarning

    def told(message: Warning | str, category: type[Warning], *where: Any) -> None:
        if issubclass(category, Notice):
            say(f"warning: {message}")
        else:
            show(message, category, *where)

    with warnings.catch_warnings():
        warnings.simplefilter("always", Notice)
        warnings.showwarning = told  # type: ignore[assignment]
        yield


def _fail(target: object, sentence: str) -> None:
    console.print(Text.assemble(("error:", "bold red"), " ", printable(sentence)), soft_wrap=True)
    try:
        write_json(target, {"error": sentence})
    except SpatialARError as error:
        say(str(error))
    raise typer.Exit(1)


def write_json(target: object, value: dict[str, Any]) -> None:
    """Write a result where ``--json`` says, if it was given."""
    if isinstance(target, Path):
        from napari_spatial_ar.imaging.files import atomic_write_json

        atomic_write_json(target, value)


def say(text: str) -> None:
    """Print a line to standard error, as it is but for what no terminal prints."""
    console.print(printable(text), soft_wrap=True)


class _Description(ProgressColumn):
    """What is going on, as it is but for what no terminal prints."""

    def render(self, task: Task) -> Text:
        return Text(printable(task.description))


class _Rows(Table):
    """A table of texts that are shown as they are but for what no terminal prints."""

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        """Add a row; a text may have several lines."""
        shown = (
            "\n".join(map(printable, cell.split("\n"))) if isinstance(cell, str) else cell
            for cell in cells
        )
        super().add_row(*shown, **options)


def progress_bar() -> Progress:
    """Make a progress bar that goes away at the end."""
    return Progress(
        _Description(),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


def table(*columns: str) -> Table:
    """Make a table without lines."""
    return _Rows(*columns, box=None, pad_edge=False)


def show(result: Table) -> None:
    """Print a table to standard output."""
    _console(stderr=False).print(result)


def show_json(result: dict[str, Any]) -> None:
    """Print plain data to standard output, in characters that any terminal has."""
    _console(stderr=False).print_json(data=result, ensure_ascii=True)
