"""Reading JSON that may be damaged, or made to do harm."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeVar, cast, overload

from pydantic import TypeAdapter, ValidationError

__all__ = ["from_plain", "parse_json"]

Kind = TypeVar("Kind")


@overload
def parse_json(text: str | bytes) -> Any: ...
@overload
def parse_json(text: str | bytes, kind: type[Kind]) -> Kind: ...
def parse_json(text: str | bytes, kind: Any = Any) -> Any:
    """Read JSON.

    Parameters
    ----------
    text : str or bytes
        What was written.
    kind : type, optional
        What has to stand in it: a dataclass, a model of pydantic, or a type of plain values, all
        without conversions. What a dataclass or model does not name is passed over. By default
        plain values, whatever they are.

    Raises
    ------
    ValueError
        If it is no JSON or of another kind, or nested so deeply (some 200 times) that what walks
        through it would fail: in a sentence that names the field and not its value.
    """
    try:
        return _adapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        raise ValueError(_clause(error)) from error


def from_plain(values: Any, kind: type[Kind]) -> Kind:
    """Make what JSON was written of from the plain values in it: lists become tuples and so on.

    Parameters
    ----------
    values : dict
        Of one with a ``to_dict``, what that gave.
    kind : type
        As for `parse_json`.

    Raises
    ------
    ValueError
        If they do not fit: in a sentence that names the field and not its value.
    """
    try:
        found: Kind = _adapter(cast(Any, kind)).validate_python(values)
        return found
    except ValidationError as error:
        raise ValueError(_clause(error)) from error


def _clause(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    where, what = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
    return f"{where}: {what}" if where else what


@lru_cache(maxsize=64)
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
