"""The user's models: renamed, copied, deleted and brought back, each whole at every moment."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from napari_spatial_ar.errors import InputError, ModelFileError, StorageError
from napari_spatial_ar.normative import library
from napari_spatial_ar.normative.backbones import weights
from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.backbones.registry import BACKBONES
from napari_spatial_ar.normative.library import (
    check_models,
    delete_model,
    duplicate_model,
    list_models,
    missing_backbone,
    rename_model,
    restore_model,
    trashed_models,
)
from napari_spatial_ar.normative.model import load_model
from napari_spatial_ar.paths import released_models_dir, user_models_dir
from tests.normative.test_model import build

RELEASED = "brain-flair-focus"
ALL_RELEASED = {RELEASED, "brain-flair", "brain-flair-change", "liver-ct"}


@pytest.fixture
def models(tiny_backbone: Backbone) -> Iterator[Path]:
    """The user's models folder with one model, its card, a picture of it, and another picture."""
    root = user_models_dir()
    build(tiny_backbone).save(root / "mine")
    (root / "mine" / "README.md").write_text("# mine\n\n![losses](losses.png)\n")
    (root / "mine" / "losses.png").write_bytes(b"png")
    (root / "mine" / "holiday.png").write_bytes(b"not the card's")
    yield root
    shutil.rmtree(root)


def names() -> set[str]:
    return {info.name for info in list_models()} - ALL_RELEASED


def left_behind(root: Path) -> list[str]:
    return [path.name for path in root.iterdir() if path.name.startswith(".partial")]


def test_rename(models: Path) -> None:
    before = (models / "mine" / "model.safetensors").read_bytes()
    assert rename_model("mine", "yours") == models / "yours"
    assert names() == {"yours"}
    assert (models / "yours" / "model.safetensors").read_bytes() == before
    assert (models / "yours" / "README.md").exists()


def test_duplicate_takes_what_belongs_to_the_model(models: Path) -> None:
    duplicate_model("mine", "copy")
    assert names() == {"mine", "copy"}
    copied = {path.name for path in (models / "copy").iterdir()}
    assert copied == {"model.safetensors", "README.md", "losses.png"}
    assert load_model("copy", device="cpu").sha256 == load_model("mine", device="cpu").sha256
    duplicate_model(RELEASED, "mine-of-brains")
    assert "mine-of-brains" in names()


@pytest.mark.parametrize("change", [rename_model, duplicate_model])
def test_a_name_that_is_taken_or_none_is_refused(models: Path, change: object) -> None:
    duplicate_model("mine", "other")
    kept = (models / "other" / "model.safetensors").read_bytes()
    with pytest.raises(InputError, match="already exists"):
        change("mine", "other")  # type: ignore[operator]
    ugly = ("a\nb", "a\x1b[31mb", "a\u202eb", "a\udcff", "a:b", "nul.x", "a.", " a", "a?")
    for bad in ("", "../escape", "a/b", ".hidden", "a\\b", *ugly):
        with pytest.raises(InputError, match="is not a valid name"):
            change("mine", bad)  # type: ignore[operator]
    with pytest.raises(ModelFileError, match="no model"):
        change("nobody", "new")  # type: ignore[operator]
    assert names() == {"mine", "other"}
    assert (models / "other" / "model.safetensors").read_bytes() == kept


def test_a_folder_that_came_meanwhile_is_not_replaced(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    duplicate_model("mine", "other")
    monkeypatch.setattr(library, "free_folder", lambda name: models / name)  # as of a moment ago
    with pytest.raises(InputError, match="already exists"):
        rename_model("mine", "other")
    with pytest.raises(InputError, match="already exists"):
        duplicate_model("mine", "other")
    assert names() == {"mine", "other"}
    assert not left_behind(models)


def test_deleted_models_come_back(models: Path) -> None:
    assert delete_model("mine").parent == models / ".trash"
    assert names() == set()
    assert [trashed.name for trashed in trashed_models()] == ["mine"]
    with pytest.raises(InputError, match=r"no model 'other' in the trash\. It holds: mine"):
        restore_model("other")
    restore_model("mine")
    assert names() == {"mine"}
    assert (models / "mine" / "losses.png").exists()
    assert trashed_models() == []


def test_the_last_one_deleted_comes_back_first(models: Path) -> None:
    duplicate_model("mine", "second")
    (models / "second" / "README.md").write_text("second")
    delete_model("mine")
    rename_model("second", "mine")
    delete_model("mine")
    (models / ".trash" / "notes").mkdir()
    restore_model("mine")
    assert (models / "mine" / "README.md").read_text() == "second"
    with pytest.raises(InputError, match="already exists"):
        restore_model("mine")
    restore_model("mine", "first")
    assert "losses" in (models / "first" / "README.md").read_text()


def test_released_models_stay_as_they_are(models: Path) -> None:
    released = released_models_dir()
    assert released is not None
    for change in (lambda: rename_model(RELEASED, "x"), lambda: delete_model(RELEASED)):
        with pytest.raises(InputError, match="came with the package"):
            change()
    with pytest.raises(ModelFileError, match="no model"):
        delete_model(str(released / RELEASED))
    assert (released / RELEASED / "model.safetensors").exists()


def test_nothing_is_left_of_a_copy_that_fails(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, target: Path) -> None:
        Path(target).write_bytes(b"half")
        assert "copy" not in names(), "a model is listed before it is whole"
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as now:
        now.setattr(shutil, "copyfile", full)
        with pytest.raises(StorageError, match="disk is full"):
            duplicate_model("mine", "copy")
    assert names() == {"mine"}
    assert not left_behind(models)
    # A crash leaves the folder behind, which is no model.
    shutil.copytree(models / "mine", models / ".partial-1")
    assert names() == {"mine"}
    assert [found.name for found in check_models()] == ["mine", *sorted(ALL_RELEASED)]


def test_damage_is_found(models: Path, tiny_weights: Path) -> None:
    duplicate_model("mine", "bad")
    file = models / "bad" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    found = {model.name: model for model in check_models()}
    assert found["mine"].damage is None
    assert found["mine"].sha256 == load_model("mine", device="cpu").sha256
    assert found["mine"].needs is None
    assert found["bad"].damage is not None
    assert "sha256" in found["bad"].damage
    file.write_bytes(b"nothing")
    (bad,) = check_models("bad")
    assert bad.damage is not None
    with pytest.raises(ModelFileError, match="not a valid safetensors file"):
        duplicate_model(models / "bad", "copy")
    delete_model("bad")
    assert "bad" not in {model.name for model in check_models()}


def test_a_model_says_which_backbone_it_needs(
    models: Path, tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = build(tiny_backbone).header
    needs = missing_backbone(header)
    assert needs is not None
    assert tiny_backbone.spec.name in needs
    assert "weights pull" in needs
    monkeypatch.setattr(weights, "local_file", lambda spec: Path("here"))
    assert missing_backbone(header) is None
    monkeypatch.delitem(BACKBONES, tiny_backbone.spec.name)
    assert "is unknown here" in str(missing_backbone(header))
