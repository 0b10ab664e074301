"""Common parts of all commands: options, output, and errors as one sentence."""

from __future__ import annotations

import errno
import functools
import inspect
import os
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, NoReturn, ParamSpec

import typer
from rich.console import Console
from rich.measure import Measurement
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

from napari_spatial_ar.cli.choices import (
    Modality,
    PlaneName,
    complete_backbone,
    complete_device,
    complete_method,
    complete_model,
)
from napari_spatial_ar.errors import InputError, Notice, SpatialARError, printable
from napari_spatial_ar.normative.fitting.config import COMPUTING, SECTIONS, FitConfig

__all__ = [
    "COMPUTING",
    "SENT_OBJECTS",
    "Acquired",
    "CalibrationFraction",
    "Device",
    "FitWindow",
    "Json",
    "MinBody",
    "Modalities",
    "ModelName",
    "ModelOption",
    "NotAllDone",
    "Overwrite",
    "Part",
    "PatientPattern",
    "SliceRange",
    "SlicesOf",
    "Weights",
    "chosen_backbone",
    "command",
    "dicom_kinds",
    "odd",
    "patients",
    "print_message",
    "progress",
    "setting",
    "show",
    "table",
    "with_settings",
]

#: DICOM objects that go to an archive unless others are chosen.
SENT_OBJECTS = "seg,sr,capture"

P = ParamSpec("P")
#: Shows what is being done, how much of it is done, and of how much.
Bar = Callable[[str, int, int | None], None]
#: Environment variable that shows where an unexpected error came from.
_TRACEBACK = "NAPARI_SPATIAL_AR_TRACEBACK"
_STDOUT = Path("-")
_UNLIMITED = 100_000
_INTERRUPTED = 130  # 128 + SIGINT, by convention of shells

# Whether JSON goes to standard output, where nothing else may be printed.
_json_alone: ContextVar[bool] = ContextVar("_json_alone", default=False)


class NotAllDone(Exception):
    """Raised by a command that completed only a part of its work, which it has reported.

    Parameters
    ----------
    result : dict
        Result of the completed part.
    """

    def __init__(self, result: dict[str, Any]) -> None:
        super().__init__()
        self.result = result


class _Console(Console):
    """A console that never interprets text, such as a series' description, as markup."""

    def __init__(self, *, stderr: bool):
        plain = "NO_COLOR" in os.environ and os.environ["NO_COLOR"] != ""
        super().__init__(
            stderr=stderr,
            highlight=False,
            markup=False,
            emoji=False,
            color_system=None if plain else "auto",
        )

    @property
    def is_seen(self) -> bool:
        """Whether it prints to a terminal; FORCE_COLOR and the like do not make a pipe one."""
        return bool(self.file.isatty()) and not self.is_dumb_terminal

    def on_broken_pipe(self) -> None:
        """Discard further output: the reader has closed the pipe, the work continues."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())

    def write(self, text: str) -> None:
        """Print lines unchanged, including tabs, however wide."""
        try:
            self.file.write(text)
            self.file.flush()
        except BrokenPipeError:
            self.on_broken_pipe()
        except OSError as error:
            from napari_spatial_ar.imaging.files import storage_error

            raise storage_error(error, "standard output") from error


console = _Console(stderr=True)


def odd(side: int | None) -> int | None:
    """See that the side of a filter is odd, so that it has a centre (`BadParameter`)."""
    if side is not None and side % 2 == 0:
        raise typer.BadParameter(f"{side} is not an odd number.")
    return side


# What of a setting only the command line knows: names to complete, and checks before any work.
_COMPLETED = {"backbone": complete_backbone, "method": complete_method}
_CHECKED = {"smoothing": odd}


def setting(name: str) -> Any:
    """Option of a command for a field of `FitConfig`, named, explained and limited as there."""
    offered = FitConfig.offered()[name]
    return typer.Option(
        *([offered.flag] if offered.flag else []),
        metavar=offered.metavar,
        min=offered.least,
        max=offered.most,
        help=offered.help,
        show_default=offered.shown_default or offered.shown_default is not None,
        autocompletion=_COMPLETED.get(name),
        callback=_CHECKED.get(name),
        rich_help_panel=offered.section or None,
    )


def with_settings(
    *, after: str
) -> Callable[[Callable[P, dict[str, Any]]], Callable[P, dict[str, Any]]]:
    """Give a command that takes ``**settings`` an option for each setting that `FitConfig` offers.

    Parameters
    ----------
    after : str
        Parameter of the command that they follow, within their section of its help.
    """

    def decorated(function: Callable[P, dict[str, Any]]) -> Callable[P, dict[str, Any]]:
        signature = inspect.signature(function, eval_str=True)
        found = []
        for name, own in signature.parameters.items():
            if own.kind is not own.VAR_KEYWORD:
                found.append(own.replace(kind=own.KEYWORD_ONLY))
            if name == after:
                found += [_parameter(setting) for setting in FitConfig.offered()]
        found.sort(key=lambda parameter: SECTIONS.index(_section(parameter)))
        function.__signature__ = signature.replace(parameters=found)  # type: ignore[attr-defined]
        return function

    return decorated


def _parameter(name: str) -> inspect.Parameter:
    """Make the parameter of a command for a setting; None is left to its default by `FitConfig`."""
    field, offered = FitConfig.model_fields[name], FitConfig.offered()[name]
    default = None if offered.shown_default else offered.default or field.default
    default = None if default == () else default
    kind: Any = offered.kind or field.annotation
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind | None if default is None else kind, setting(name)],
    )


def _section(parameter: inspect.Parameter) -> str:
    found = getattr(parameter.annotation, "__metadata__", ())
    return next((option.rich_help_panel or "" for option in found), "")


Json = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", help="Write the result as JSON; -: to standard output."),
]
Modalities = Annotated[Modality, setting("modality")]
ModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="Model: its name or folder.", autocompletion=complete_model
    ),
]
ModelOption = Annotated[
    str,
    typer.Option(
        "--model", metavar="MODEL", help="Model: its name or folder.", autocompletion=complete_model
    ),
]
Part = Annotated[
    str | None,
    typer.Option(
        metavar="PART",
        help="Score by one part of the method alone, in its own unit: nll or change of "
        "spatial-ar-change.",
        show_default="all of it",
    ),
]
Weights = Annotated[Path | None, setting("weights")]
Device = Annotated[
    str,
    typer.Option(
        metavar="DEVICE",
        help="auto, cpu, cuda, cuda:N or mps.",
        autocompletion=complete_device,
        rich_help_panel=COMPUTING,
    ),
]
SlicesOf = Annotated[PlaneName, setting("plane")]
SliceRange = Annotated[str, setting("slice_range")]
MinBody = Annotated[float, setting("min_body")]
CalibrationFraction = Annotated[float, setting("calibration_fraction")]
Acquired = Annotated[str, setting("acquired")]
PatientPattern = Annotated[str | None, setting("patient_pattern")]
FitWindow = Annotated[str | None, setting("window")]
Overwrite = Annotated[bool, typer.Option(help="Replace the output of an earlier run.")]


def patients(count: int, kind: str = "") -> str:
    """Format a number of patients, with the right plural."""
    return f"1 {kind}patient" if count == 1 else f"{count} {kind}patients"


def dicom_kinds(default: bool, kinds: str) -> bool | tuple[str, ...]:
    """Kinds of DICOM objects to write; the default ones only if no kinds are given."""
    from napari_spatial_ar.review.dicom_objects import DICOM_OBJECTS, chosen_objects

    if not kinds:
        return default
    named = [kind.strip().lower() for kind in kinds.split(",") if kind.strip()]
    unknown = sorted({*named} - {*DICOM_OBJECTS, "all"})
    if unknown or not named:
        choice = ", ".join((*DICOM_OBJECTS, "all"))
        raise typer.BadParameter(
            f"--dicom-objects: {', '.join(unknown) or 'nothing'} is none of {choice}."
        )
    return DICOM_OBJECTS if "all" in named else chosen_objects(named)


def chosen_backbone(named: str | None, weights: Path | None) -> str:
    """Name of the backbone to use; without a given one, one is chosen and reported."""
    from napari_spatial_ar.normative.backbones.weights import default_backbone, default_note

    if named:
        return named
    chosen = default_backbone(weights)
    print_message(
        default_note(chosen) if weights is None else f"Backbone: {chosen}, from {weights}."
    )
    return chosen


def command(
    function: Callable[P, dict[str, Any]],
) -> Callable[P, None]:
    """Turn a function that returns its result into a command that prints it, or its error."""
    name = function.__name__.replace("_", "-")

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        target = kwargs.get("json")
        try:
            _check_writable(target)
        except SpatialARError as error:
            _fail(None, str(error))
        token = _json_alone.set(target == _STDOUT)
        try:
            code = 0
            with _show_warnings():
                try:
                    result = function(*args, **kwargs)
                except NotAllDone as partly:
                    result, code = partly.result, 1
            _write_json(target, name, result)
            if code:
                raise typer.Exit(code)
        except (typer.Exit, typer.BadParameter):
            raise
        except SpatialARError as error:
            _fail(target, str(error))
        except KeyboardInterrupt:
            sentence = "Stopped. Finished work is kept: run the same command again to resume."
            _fail(target, sentence, _INTERRUPTED)
        except OSError as error:
            _fail(target, f"{error.filename or 'A file'}: {error.strerror or error}.")
        except MemoryError:
            _fail(target, "There is not enough memory for this scan or setting.")
        except Exception as error:  # noqa: BLE001 -- a fault of this program, reported as a sentence
            if os.environ.get(_TRACEBACK):
                traceback.print_exc()
            what = f"{type(error).__name__}: {error}".rstrip(": .")
            _fail(
                target,
                f"This should not have happened ({what}). Please report it, with the output of "
                f"{_TRACEBACK}=1.",
            )
        finally:
            _json_alone.reset(token)

    return run


@contextmanager
def _show_warnings() -> Iterator[None]:
    """Print warnings meant for users, formatted like other messages."""
    show = warnings.showwarning

    def show_notice(message: Warning | str, category: type[Warning], *where: Any) -> None:
        if issubclass(category, Notice):
            print_message(f"warning: {message}")
        else:
            show(message, category, *where)

    with warnings.catch_warnings():
        warnings.simplefilter("always", Notice)
        warnings.showwarning = show_notice  # type: ignore[assignment]
        yield


def _fail(target: object, sentence: str, code: int = 1) -> NoReturn:
    console.print(Text.assemble(("error:", "bold red"), " ", printable(sentence)), soft_wrap=True)
    try:
        _write_json(target, None, {"error": sentence})
    except SpatialARError as error:
        if str(error) != sentence:
            print_message(str(error))
    raise typer.Exit(code)


def _check_writable(target: object) -> None:
    """Check that ``--json`` can be written, as far as possible before the work is done."""
    if not isinstance(target, Path) or target == _STDOUT or not (target := target.resolve()).name:
        return
    if target.is_dir():
        raise InputError("this is a folder, but --json writes a file", path=target)
    if target.exists() and not target.is_file():
        return
    above = next(folder for folder in target.parents if folder.exists())
    if not above.is_dir():
        raise InputError("this is a file, not a folder", path=above, fix="Choose another place")
    if not os.access(above, os.W_OK):
        from napari_spatial_ar.imaging.files import storage_error

        raise storage_error(PermissionError(errno.EACCES, ""), target)


def _write_json(target: object, name: str | None, value: dict[str, Any]) -> None:
    """Write the result of a command, or an error, to the file given by ``--json``, if any."""
    if not isinstance(target, Path):
        return
    from napari_spatial_ar.imaging.files import atomic_write_json, storage_error, strict_json
    from napari_spatial_ar.json_schemas import DOCUMENTS, ErrorResult, stamped

    kind = DOCUMENTS[name] if name else ErrorResult
    value = value if "schema" in value else stamped(kind, value)
    try:
        if target == _STDOUT:
            _Console(stderr=False).write(strict_json(value))
        elif target.exists() and not target.is_file():  # a pipe or a device must not be replaced
            target.write_text(strict_json(value), encoding="utf-8", errors="backslashreplace")
        else:
            atomic_write_json(target.resolve(), value)
    except OSError as error:
        raise storage_error(error, target) from error


def print_message(text: str) -> None:
    """Print a line to standard error, with unprintable characters escaped."""
    console.print(printable(text), soft_wrap=True)


class _Description(ProgressColumn):
    """Describe what is being done, with unprintable characters escaped."""

    def render(self, task: Task) -> Text:
        return Text(printable(task.description), no_wrap=True, overflow="ellipsis")


class Rows:
    """A table of texts shown unchanged, except for unprintable characters.

    Parameters
    ----------
    columns : tuple of str
        Titles; omitted if all are empty.
    """

    def __init__(self, columns: tuple[str, ...]):
        self.columns = columns
        self.rows: list[list[str]] = []

    def add_row(self, *cells: str) -> None:
        """Add a row; a text may have several lines."""
        self.rows.append(["\n".join(map(printable, cell.split("\n"))) for cell in cells])

    def on(self, terminal: Console) -> Table:
        """Lay out for a terminal; if it is too narrow for a word, each cell gets a line."""
        shown = _grid(self.columns, self.rows)
        wide = terminal.options.update(max_width=_UNLIMITED)
        if Measurement.get(terminal, wide, shown).minimum <= terminal.width:
            return shown
        pairs = [
            pair
            for row in self.rows
            for pair in [*zip(self.columns, row, strict=True), ("", "")]
            if pair[1] or not pair[0]
        ]
        return _grid(("", ""), pairs)

    def plain(self) -> str:
        """Write as lines with tabs between their cells, for pipes and files."""
        titles = [list(self.columns)] if any(self.columns) else []
        lines = ("\t".join("; ".join(c.split("\n")) for c in row) for row in titles + self.rows)
        return "".join(f"{line}\n" for line in lines)


def _grid(columns: tuple[str, ...], rows: Sequence[Sequence[str]]) -> Table:
    made = Table(box=None, pad_edge=False, show_header=any(columns))
    for title in columns:
        made.add_column(title, overflow="fold")
    for row in rows:
        made.add_row(*map(Text, row))
    return made


@contextmanager
def progress(label: str = "") -> Iterator[Bar]:
    """Show a progress bar within the block, on a terminal only.

    Parameters
    ----------
    label : str
        Text before the first step.

    Yields
    ------
    callable
        Takes what is being done, how much of it is done, and of how much: 0 or None if that is
        unknown.
    """
    with Progress(
        _Description(),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_seen,
    ) as shown:
        task = shown.add_task(label, total=None)

        def bar(label: str, done: int, total: int | None) -> None:
            shown.update(task, description=label, completed=done, total=total or None)

        yield bar


def table(*columns: str) -> Rows:
    """Make a table without lines."""
    return Rows(columns)


def show(result: Rows) -> None:
    """Print a table to standard output: laid out on a terminal, else full lines with tabs."""
    if _json_alone.get():
        return
    output = _Console(stderr=False)
    if output.is_seen:
        output.print(result.on(output))
    else:
        output.write(result.plain())
