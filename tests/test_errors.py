"""Sentences for users."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from napari_spatial_ar.errors import InputError


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (b"scan\xff.nii", "scan\\udcff.nii"),
        (b"two\nlines.nii", "two\\nlines.nii"),
        ("größe 😀.nii".encode(), "größe 😀.nii"),
    ],
)
def test_any_file_name_stands_in_a_line_that_can_be_printed(name: bytes, told: str) -> None:
    error = InputError("is cut short", path=Path(os.fsdecode(name)), fix="Copy it again")
    assert str(error) == f"{told}: is cut short. Copy it again."
    str(error).encode()
