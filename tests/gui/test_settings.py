"""Several folders in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from napari_spatial_ar.gui.settings import folders_in, joined_folders


@pytest.mark.parametrize(
    "names",
    [["a"], ["a", "b"], ["a; b"], ["a", "a; b"], ["a; b", "a"], ["a; b; c", "b", "c; d"], []],
    ids=repr,
)
def test_folders_are_found_also_where_a_name_holds_what_stands_between_them(
    tmp_path: Path, names: list[str]
) -> None:
    folders = [str(tmp_path / name) for name in names]
    for folder in folders:
        Path(folder).mkdir()
    assert folders_in(joined_folders(folders)) == folders


def test_folders_that_are_not_there_are_told_apart_as_written() -> None:
    assert folders_in(" /nowhere/a ;  /nowhere/b; ") == ["/nowhere/a", "/nowhere/b"]
