"""Reading JSON that may be damaged, or made to do harm."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeVar, overload

from pydantic import TypeAdapter, ValidationError

__all__ = ["parse_json"]

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
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{where}: {first['msg']}" if where else first["msg"]) from error


@lru_cache(maxsize=64)
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
