"""A hook of MkDocs: the reference pages of the command line and of the JSON documents.

They are made when the site is built, from the same texts as ``--help`` and the JSON Schemas, so
that they cannot fall behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer
from mkdocs.structure.files import File, Files

from napari_spatial_ar.cli import app
from napari_spatial_ar.json_schemas import DOCUMENTS

_PROGRAM = "napari-spatial-ar"
_COMMANDS = """# Command line

Every command explains itself with `-h`; this page is made from the same texts. Exit codes: 0 done,
1 could not be done (one sentence says why), 2 wrong use, 130 stopped with Ctrl+C. `--json FILE`
writes [a document](json.md) for programs.
"""
_JSON = """# JSON documents

Every JSON file that the program writes names its kind and that kind's version under `schema`. A
field that is added leaves the version as it is; one that is removed or changes its meaning raises
it. Each kind has a JSON Schema.

| Kind | Where it is written | JSON Schema |
| --- | --- | --- |
"""


def _commands(group: Any, names: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, (*names, name))
        else:
            yield " ".join((*names, name)), command


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("<", "&lt;")


def _section(name: str, command: Any) -> Iterator[str]:
    """Lines on one command: what it does, how it is called, tables of its parameters."""
    context = command.make_context(name, [], resilient_parsing=True)
    usage = " ".join([_PROGRAM, name, *command.collect_usage_pieces(context)])
    yield from (f"\n## {name}\n", command.help or "", f"\n```text\n{usage}\n```\n")
    tables: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and parameter.name != "help":
            kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
            title = getattr(parameter, "rich_help_panel", None) or kind
            tables.setdefault(title, []).append(record)
    for title, records in tables.items():
        yield f"\n| {title} | |\n| --- | --- |"
        yield from (f"| `{option}` | {_cell(text)} |" for option, text in records)


def _commands_page() -> str:
    lines = [_COMMANDS]
    for name, command in _commands(typer.main.get_command(app), ()):
        lines += _section(name, command)
    return "\n".join(lines) + "\n"


def _json_page() -> str:
    rows = []
    for name, document in sorted(DOCUMENTS.items()):
        about = " ".join((document.__doc__ or "").partition("\n\n")[0].split())
        file = f"{name}.v{document.VERSION}.json"
        rows.append(f"| `{name}` | {_cell(about)} | [{file}](schema/{file}) |")
    return _JSON + "\n".join(rows) + "\n"


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages."""
    for path, text in (("commands", _commands_page()), ("json", _json_page())):
        files.append(File.generated(config, f"reference/{path}.md", content=text))
    return files
