"""Holds JSON that the program writes against docs/reference/schema, and the other way round."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema

from napari_spatial_ar.json_schemas import DOCUMENTS, Part

_FOLDER = Path(__file__).parents[1] / "docs/reference/schema"


def check(document: dict[str, Any], kind: str | None = None) -> None:
    """A document is what it says it is, and says nothing that its schema does not tell."""
    name = document["schema"]["name"].removeprefix("napari-spatial-ar/")
    assert kind is None or name == kind
    schema = json.loads((_FOLDER / f"{name}.v{document['schema']['version']}.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(document)
    more = _undocumented(DOCUMENTS[name].model_validate(document), name)
    assert not more, f"not in the schema: {more}"


def _undocumented(part: Any, where: str) -> list[str]:
    if isinstance(part, list):
        return [name for item in part for name in _undocumented(item, where)]
    if not isinstance(part, Part):
        return []
    found = [] if part.SAYS_MORE else [f"{where}.{name}" for name in part.model_extra or ()]
    for name, value in vars(part).items():
        found += _undocumented(value, f"{where}.{name}")
    return found
