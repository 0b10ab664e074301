"""Reading JSON that may be damaged, or made to do harm."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter, ValidationError

__all__ = ["parse_json"]

_ANY: TypeAdapter[Any] = TypeAdapter(Any)


def parse_json(text: str | bytes) -> Any:
    """Read JSON, whatever stands in it, as plain values.

    Raises
    ------
    ValueError
        If it is none, or nested so deeply (some 200 times) that what walks through it would fail.
    """
    try:
        return _ANY.validate_json(text)
    except ValidationError as error:
        raise ValueError(error.errors(include_url=False)[0]["msg"]) from error
