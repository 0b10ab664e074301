"""Help pages of commands in sections, as plain text unless a wide terminal shows them.

typer draws boxes with rich if it is installed (`Typer.rich_markup_mode`). Its plain pages have no
sections and truncate the summaries of commands; those here do neither.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from inspect import cleandoc
from shutil import get_terminal_size
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

__all__ = ["App", "is_wide_terminal"]

# Columns needed for typer's boxes.
_BOXES = 80


def is_wide_terminal() -> bool:
    """Whether both outputs go to a terminal that is wide enough and can show boxes and colours."""
    seen = all(stream is not None and stream.isatty() for stream in (sys.stdout, sys.stderr))
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return seen and not plain and get_terminal_size().columns >= _BOXES


def _sections(page: Any, context: Any, formatter: Any) -> None:
    """Write parameters under the titles that typer uses for boxes."""
    found: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
    for param in page.get_params(context):
        record = param.get_help_record(context)
        if record is not None:
            kind = "Arguments" if param.param_type_name == "argument" else "Options"
            found.setdefault(getattr(param, "rich_help_panel", None) or kind, []).append(record)
    for title, records in found.items():
        if records:
            with formatter.section(title):
                formatter.write_dl(records)


def _without_types(params: list[Any]) -> list[Any]:
    """Parameters, without a truth value for flags or a Python type for arguments."""
    for param in params:
        if getattr(param, "is_flag", False):
            param.metavar = ""
        elif param.param_type_name == "argument":
            param.display_type = lambda ctx: ""
    return params


def _unwrapped(text: str | None) -> str:
    """Text with one line per paragraph: rich keeps line breaks."""
    paragraphs = cleandoc(text or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


class _Command(TyperCommand):
    def get_params(self, ctx: Any) -> list[Any]:
        return _without_types(super().get_params(ctx))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _sections(self, ctx, formatter)


class _Group(TyperGroup):
    def get_params(self, ctx: Any) -> list[Any]:
        return _without_types(super().get_params(ctx))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _sections(self, ctx, formatter)
        found: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            title = getattr(command, "rich_help_panel", None) or "Commands"
            summary = " ".join((command.help or "").partition("\n\n")[0].split())
            found.setdefault(title, []).append((name, summary))
        for title, rows in found.items():
            with formatter.section(title):
                formatter.write_dl(rows)


class App(typer.Typer):
    """A typer application whose help pages are those of this module."""

    def __init__(self, **settings: Any):
        super().__init__(
            cls=_Group,
            pretty_exceptions_enable=False,
            context_settings={"help_option_names": ["-h", "--help"]},
            rich_markup_mode=None,
            **settings,
        )

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Any], Any]:
        """Return a decorator that registers a command with this module's help page."""

        def register(function: Any) -> Any:
            page = _unwrapped(function.__doc__)
            return super(App, self).command(name, cls=_Command, help=page, **settings)(function)

        return register
