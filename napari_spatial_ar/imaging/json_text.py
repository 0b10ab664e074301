"""Reading JSON that may be damaged or malicious."""

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
        The JSON text.
    kind : type, optional
        The expected type: a dataclass, a pydantic model, or a type of plain values, all without
        conversions. Fields that a dataclass or model does not define are ignored. By default any
        plain values.

    Raises
    ------
    ValueError
        If it is not JSON or of another type, or nested so deeply (about 200 levels) that code
        walking through it would fail; the message names the field but not its value.
    """
    try:
        return _adapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        raise ValueError(_clause(error)) from error


def from_plain(values: Any, kind: type[Kind]) -> Kind:
    """Build an object from the plain values of its JSON: lists become tuples, and so on.

    Parameters
    ----------
    values : dict
        As returned by ``to_dict``.
    kind : type
        As for `parse_json`.

    Raises
    ------
    ValueError
        If they do not fit; the message names the field but not its value.
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
