"""A model as one file: out and in again, and nothing but a model gets in."""

from __future__ import annotations

import shutil
import stat
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from napari_spatial_ar.errors import InputError, ModelFileError, StorageError
from napari_spatial_ar.normative import archive, model_file
from napari_spatial_ar.normative.archive import export_model
from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.importing import import_model
from napari_spatial_ar.paths import user_models_dir
from tests.normative.test_model import build


@pytest.fixture
def folder(tiny_backbone: Backbone, tmp_path: Path) -> Iterator[Path]:
    """A model with its card and a picture."""
    folder = tmp_path / "mine"
    build(tiny_backbone).save(folder)
    (folder / "README.md").write_text("![losses](losses.png)")
    (folder / "losses.png").write_bytes(b"png")
    (folder / "private.png").write_bytes(b"not the card's")
    yield folder
    shutil.rmtree(user_models_dir(), ignore_errors=True)


def packed(tmp_path: Path, **files: bytes) -> Path:
    """Archive with these files."""
    path = tmp_path / "made.zip"
    with zipfile.ZipFile(path, "w") as made:
        for name, data in files.items():
            made.writestr(name, data)
    return path


def nothing_came_in() -> bool:
    root = user_models_dir()
    return not root.exists() or not list(root.iterdir())


def test_out_and_in_again(folder: Path, tmp_path: Path) -> None:
    path = export_model(folder, tmp_path / "handed-on")
    assert path.name == "handed-on.zip"
    imported = import_model(path)
    assert imported == user_models_dir() / "mine" / "model.safetensors"
    assert imported.read_bytes() == (folder / "model.safetensors").read_bytes()
    names = {file.name for file in imported.parent.iterdir()}
    assert names == {"model.safetensors", "README.md", "losses.png"}
    with pytest.raises(InputError, match="already exists"):
        import_model(path)
    assert import_model(path, "again").parent.name == "again"
    with pytest.raises(InputError, match="already exists"):
        export_model(folder, path)
    export_model(folder, path, pictures=False, overwrite=True)
    with zipfile.ZipFile(path) as made:
        assert made.namelist() == ["mine/model.safetensors", "mine/README.md"]


def test_a_damaged_model_is_not_handed_on(folder: Path, tmp_path: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(ModelFileError):
        export_model(folder, tmp_path / "out.zip")
    assert not (tmp_path / "out.zip").exists()


@pytest.mark.parametrize(
    "names",
    [
        ("../model.safetensors",),
        ("/model.safetensors",),
        ("a/../../model.safetensors",),
        ("a/b/model.safetensors",),
        ("model.safetensors",),
        ("..\\a/model.safetensors",),
        ("a/model.safetensors", "b/README.md"),
        ("a/model.safetensors", "a/run.py"),
        ("a/model.safetensors", "a/..\\x.png"),
        ("a/README.md",),
        ("a/model.safetensors", *(f"a/{n}.png" for n in range(64))),
        ("C:\\a/model.safetensors",),
        ("C:/model.safetensors",),
        ("nul/model.safetensors",),
        ("a\x1b[31m/model.safetensors",),
        ("a\nb/model.safetensors",),
        ("a\u202eb/model.safetensors",),
        ("a./model.safetensors",),
        (".trash/model.safetensors",),
        ("a/model.safetensors", "a/x\x07.png"),
        ("a/model.safetensors", "a/x.png", "a/X.png"),
        ("a/model.safetensors", "a/con.png"),
        (),
    ],
)
def test_other_archives_are_refused(folder: Path, tmp_path: Path, names: tuple[str, ...]) -> None:
    data = (folder / "model.safetensors").read_bytes()
    path = packed(tmp_path, **dict.fromkeys(names, data))
    with pytest.raises(ModelFileError, match="no exported model"):
        import_model(path, "new")
    assert nothing_came_in()
    assert not list(tmp_path.parent.glob("model.safetensors"))


def test_sizes_are_looked_at_before_unpacking(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = (folder / "model.safetensors").read_bytes()
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("a/model.safetensors", data)
        made.writestr("a/x.png", bytes(33 << 20))
    with pytest.raises(ModelFileError, match="too large"):
        import_model(path)
    monkeypatch.setattr(archive, "_LARGEST_MODEL", 100)
    with pytest.raises(ModelFileError, match="too large"):
        import_model(packed(tmp_path, **{"a/model.safetensors": data}))
    assert nothing_came_in()


def test_damaged_archives_and_models_are_refused(folder: Path, tmp_path: Path) -> None:
    path = export_model(folder, tmp_path / "out.zip")
    data = bytearray(path.read_bytes())
    at = data.find((folder / "model.safetensors").read_bytes()[-64:])
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match="archive is damaged"):
        import_model(path)
    model = bytearray((folder / "model.safetensors").read_bytes())
    model[-1] ^= 1
    with pytest.raises(ModelFileError, match=r"made\.zip.*sha256"):
        import_model(packed(tmp_path, **{"a/model.safetensors": bytes(model)}))
    assert nothing_came_in()


def test_unknown_versions_and_methods_say_what_they_need(
    tiny_backbone: Backbone, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as later:
        later.setattr(model_file, "FORMAT_VERSION", 5)
        build(tiny_backbone, format_version=5).save(folder)
        path = export_model(folder, tmp_path / "later.zip")
    with pytest.raises(ModelFileError, match=r"version is 5.*Update napari-spatial-ar"):
        import_model(path)
    build(tiny_backbone, method="oracle").save(folder)
    path = packed(tmp_path, **{"a/model.safetensors": (folder / "model.safetensors").read_bytes()})
    with pytest.raises(ModelFileError, match=r"method 'oracle' is not known.*Update"):
        import_model(path)
    assert nothing_came_in()


def test_names_that_stand_twice_are_refused(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "twice.zip"
    with zipfile.ZipFile(path, "w") as made:
        made.write(folder / "model.safetensors", "a/model.safetensors")
        with pytest.warns(UserWarning, match="Duplicate name"):
            made.writestr("a/model.safetensors", b"another")
    with pytest.raises(ModelFileError, match="no exported model"):
        import_model(path, "new")
    assert nothing_came_in()


def claiming(path: Path, size: int) -> Path:
    """Write into an archive's directory that its first file has another size."""
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.rfind(b"PK\x01\x02") + 24, size)  # APPNOTE.TXT 4.3.12
    path.write_bytes(data)
    return path


def test_more_than_the_disk_has_room_for_is_refused_before_anything_is_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = packed(tmp_path, **{"a/model.safetensors": (folder / "model.safetensors").read_bytes()})
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(StorageError, match=r"files in the archive need .* and 1\.0 kB are free"):
        import_model(path, "new")
    assert nothing_came_in()


@pytest.mark.parametrize("change", [-100, 100])
def test_a_size_that_is_not_true_is_damage(folder: Path, tmp_path: Path, change: int) -> None:
    data = (folder / "model.safetensors").read_bytes()
    path = packed(tmp_path, **{"a/model.safetensors": data})
    with pytest.raises(ModelFileError, match="archive is damaged"):
        import_model(claiming(path, len(data) + change), "new")
    assert nothing_came_in()


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_archives_of_other_kinds_are_refused(folder: Path, tmp_path: Path, kind: int) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", kind) as made:
        made.write(folder / "model.safetensors", "a/model.safetensors")
    with pytest.raises(ModelFileError, match="no exported model"):
        import_model(tmp_path / "a.zip")
    assert nothing_came_in()


def test_links_in_an_archive_become_plain_files(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "link.zip"
    link = zipfile.ZipInfo("a/README.md")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as made:
        made.write(folder / "model.safetensors", "a/model.safetensors")
        made.writestr(link, "/etc/passwd")
    card = import_model(path).parent / "README.md"
    assert not card.is_symlink()
    assert card.read_text() == "/etc/passwd"


def test_what_is_no_model_is_told_what_one_is(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("my notes")
    weights = tmp_path / "weights.safetensors"
    save_file({"a": torch.zeros(1)}, weights)
    for file, what in ((notes, "not a valid safetensors file"), (weights, "no napari-spatial-ar")):
        with pytest.raises(ModelFileError, match=what) as caught:
            import_model(file)
        assert caught.value.path == file
        assert "Give the folder that 'fit' wrote, the model.safetensors in it" in str(caught.value)
        assert "a .zip of 'models export'" in str(caught.value)
    assert "'weights add'" in str(caught.value)
    assert nothing_came_in()
