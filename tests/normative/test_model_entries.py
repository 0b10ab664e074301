"""What the list of models says of each: usable, or in a sentence what it needs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from napari_spatial_ar.normative import library
from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.backbones.registry import BackboneSpec
from napari_spatial_ar.normative.backbones.weights import store
from napari_spatial_ar.normative.library import check_entry, list_entries, read_entry
from napari_spatial_ar.normative.model_file import MODEL_FILE, BackboneRef
from napari_spatial_ar.paths import released_models_dir, user_models_dir
from tests.normative.test_model import build
from tests.tiny import TINY, random_state


@pytest.fixture
def mine(tiny_backbone: Backbone) -> Iterator[Path]:
    """One model in the user's folder; a test changes it."""
    folder = user_models_dir() / "mine"
    build(tiny_backbone).save(folder)
    yield folder
    shutil.rmtree(user_models_dir())


def damage(folder: Path) -> None:
    file = folder / MODEL_FILE
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def test_own_models_come_first_and_say_when_they_came(mine: Path) -> None:
    (mine.parent / ".partial-x").mkdir()
    shutil.copy(mine / MODEL_FILE, mine.parent / ".partial-x")
    first, *released = list_entries()
    assert (first.name, first.released) == ("mine", False)
    assert first.header is not None
    assert first.header.training == {"images": 12, "subjects": 4}
    assert first.written is not None
    assert abs(datetime.now(UTC) - first.written) < timedelta(minutes=1)
    folder = released_models_dir()
    assert folder is not None
    assert {one.name for one in released} == {
        path.parent.name for path in folder.glob(f"*/{MODEL_FILE}")
    }
    assert all(one.released and one.written is None for one in released)


def test_a_model_is_called_whole_only_once_it_was_read(mine: Path, tiny_weights: Path) -> None:
    assert read_entry(mine).state == "unchecked"
    assert check_entry(mine, weights=True).state == "ok"
    damage(mine)
    assert read_entry(mine).state == "unchecked"
    found = check_entry(mine)
    assert (found.state, found.header is None) == ("damaged", False)
    assert found.advice == (
        "The model file is damaged: its content does not match its sha256. Delete it, and import "
        "it again from where it came from, or fit it again."
    )


def test_a_file_that_is_no_model_is_listed_too(mine: Path) -> None:
    (mine / MODEL_FILE).write_text("my notes")
    for found in (read_entry(mine), check_entry(mine)):
        assert (found.state, found.header) == ("damaged", None)
        assert found.advice.startswith("The model file is damaged or not a model")


def test_a_damaged_released_model_comes_back_by_installing(
    mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "released_models_dir", lambda: mine.parent)
    damage(mine)
    assert "Install napari-spatial-ar again." in check_entry(mine).advice


def test_a_model_says_what_weights_it_needs(mine: Path) -> None:
    found = check_entry(mine)
    assert found.state == "weights"
    assert TINY in found.advice
    assert "weights pull" in found.advice


def test_other_weights_of_the_same_name_are_found(mine: Path, tiny_spec: BackboneSpec) -> None:
    other = store(tiny_spec, random_state(tiny_spec, seed=1))
    try:
        assert check_entry(mine).state == "ok"
        found = check_entry(mine, weights=True)
    finally:
        other.unlink()
    assert found.state == "weights"
    assert found.advice.startswith("The model 'mine' was trained on other weights")
    assert str(mine) not in found.advice


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format_version": 99}, "format version is 99"),
        ({"method": "of-tomorrow"}, "method 'of-tomorrow' is not known"),
        ({"backbone": BackboneRef("dinov9", (), "0" * 64)}, "backbone dinov9"),
    ],
)
def test_a_model_of_a_newer_version(
    mine: Path, tiny_backbone: Backbone, tiny_weights: Path, changes: dict[str, Any], said: str
) -> None:
    build(tiny_backbone, **changes).save(mine)
    found = check_entry(mine)
    assert found.state == "version"
    assert said in found.advice
    assert "pdate napari-spatial-ar" in found.advice


def test_a_model_deleted_at_this_moment_is_no_error(mine: Path) -> None:
    shutil.rmtree(mine)
    found = read_entry(mine)
    assert (found.state, found.written) == ("damaged", None)
