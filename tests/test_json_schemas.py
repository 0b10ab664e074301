"""Every JSON that the program writes says what it is, and says no more than its schema tells."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer

from napari_spatial_ar.cli import app
from napari_spatial_ar.json_schemas import DOCUMENTS, stamped
from tests.json_check import check

ROOT = Path(__file__).parents[1]


def test_the_schemas_in_the_docs_are_those_of_the_models() -> None:
    path = ROOT / "docs/make_schemas.py"
    spec = importlib.util.spec_from_file_location("make_schemas", path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    there = {path.name: path.read_text(encoding="utf-8") for path in made.FOLDER.iterdir()}
    assert there == made.pages(), "run python docs/make_schemas.py"


@pytest.mark.parametrize("kind", sorted(DOCUMENTS))
def test_each_schema_is_one_and_refuses_another_kind(kind: str) -> None:
    schema = json.loads((ROOT / f"docs/reference/schema/{kind}.v1.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    other = {**stamped(DOCUMENTS[kind], {}), "schema": {"name": "another", "version": 1}}
    errors = list(jsonschema.Draft202012Validator(schema).iter_errors(other))
    assert any(list(error.path) == ["schema", "name"] for error in errors)


def test_each_command_has_a_schema_of_its_name() -> None:
    def names(group: Any, before: tuple[str, ...] = ()) -> list[str]:
        found = []
        for name, one in group.commands.items():
            is_group = hasattr(one, "commands")
            found += names(one, (*before, name)) if is_group else ["-".join((*before, name))]
        return found

    assert set(names(typer.main.get_command(app))) <= set(DOCUMENTS)


def test_what_a_schema_does_not_tell_is_found() -> None:
    document = stamped(DOCUMENTS["error"], {"error": "why", "more": 1})
    with pytest.raises(AssertionError, match="more"):
        check(document, "error")
