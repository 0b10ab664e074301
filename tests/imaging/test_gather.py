"""Names of files that may be shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.gather import left_out, safe_name


@pytest.mark.parametrize(
    "name", ["01.dcm", "IM-0001-0012-0001.dcm", "I10", "000012", "slice_7.png", "Image (3).tif"]
)
def test_a_name_that_only_numbers_a_file_is_shown(name: str) -> None:
    assert safe_name(Path("Doe John") / name) == name
    error = InputError("is damaged", path=Path("Doe John") / name)
    assert left_out([error]) == (
        f"1 input is left out; the reason (of the first, {name}): is damaged.",
    )


@pytest.mark.parametrize(
    "name",
    [
        *("doe.dcm", "Lee1.dcm", "19700131.dcm", "4711082.png", "MR.1.2.840.10008.dcm", "1\n.dcm"),
        *("Müller 1.dcm", "dcm", "0" * 40),
    ],
)
def test_any_other_name_is_not(name: str) -> None:
    assert safe_name(Path(name)) == ""
    assert name not in " ".join(left_out([InputError("is damaged", path=Path(name))]))
