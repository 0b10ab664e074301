"""JSON that may be damaged is read as what it has to be, or refused in a sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from napari_spatial_ar.imaging.json_text import parse_json


@dataclass(frozen=True)
class Part:
    name: str
    sizes: tuple[float, ...] = ()


@dataclass(frozen=True)
class Whole:
    parts: dict[str, Part]
    count: int = 0


def test_plain_values() -> None:
    assert parse_json(b'{"a": [1, 2.5, null, "x", true]}') == {"a": [1, 2.5, None, "x", True]}
    with pytest.raises(ValueError, match="JSON"):
        parse_json("{")
    with pytest.raises(ValueError, match="recursion"):
        parse_json("[" * 100_000)


def test_a_dataclass_and_what_later_versions_add_to_it() -> None:
    text = '{"parts": {"a": {"name": "n", "sizes": [1, 2.5], "later": 1}}, "schema": "x/1"}'
    assert parse_json(text, Whole) == Whole({"a": Part("n", (1.0, 2.5))})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"parts": {}, "count": "5"}', "count: Input should be a valid integer"),
        ('{"parts": {"a": {"name": "secret", "sizes": [1, "secret"]}}}', r"parts\.a\.sizes\.1: "),
        ("{}", "parts: "),
        ("[]", "Input should be"),
        ("null", "Input should be"),
    ],
)
def test_another_kind_is_refused_by_the_name_of_its_field(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said}") as caught:
        parse_json(text, Whole)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_type_of_plain_values() -> None:
    assert parse_json('{"a": 1}', dict[str, Any]) == {"a": 1}
    with pytest.raises(ValueError, match="an object"):
        parse_json("[1]", dict[str, Any])
