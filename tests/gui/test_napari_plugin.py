"""The manifest's readers, writers and sample through napari itself."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from napari.layers import Image
from npe2 import PluginManager
from PIL import Image as Picture

from napari_spatial_ar.gui.layers import mask_layer, volume_layer_kwargs
from napari_spatial_ar.gui.napari_plugin import get_reader

PLUGIN = "napari-spatial-ar"


def save(lab: Any, path: Path, codes: str = "LPS", degrees: float = 0.0) -> Path:
    image = nib.Nifti1Image(lab.voxels().T, lab.affine(codes, (1.0, 1.5, 3.0), degrees))
    nib.save(image, path)
    return path


# Patients lie in the scanner as they like: axial, coronal and sagittal acquisitions, straight and
# oblique.
@pytest.mark.parametrize(
    ("codes", "degrees"),
    [("LPS", 0), ("RAS", 0), ("LSP", 0), ("PSR", 0), ("AIL", 0), ("LPS", 14), ("PSR", -11)],
)
def test_a_painted_voxel_lands_at_its_place_in_the_patient(
    lab: Any, make_napari_viewer: Any, tmp_path: Path, codes: str, degrees: float
) -> None:
    source = save(lab, tmp_path / "DOE_JANE.nii.gz", codes, degrees)
    viewer = make_napari_viewer()
    (layer,) = viewer.open(source, plugin=PLUGIN)
    assert "DOE" not in layer.name
    volume = layer.metadata[PLUGIN]["volume"]
    labels = mask_layer(layer, volume, np.zeros(lab.shape, np.uint8))
    viewer.add_layer(labels)
    # A voxel known by its value in the scan, found again in the layer as it is drawn.
    k, j, i = 6, 10, 25
    drawn = np.argwhere(np.asarray(layer.data) == 100)
    spl = {tuple(layer.data_to_world(at)): tuple(at) for at in drawn}
    wanted = nib.load(source).affine @ [i, j, k, 1]
    if degrees == 0:
        where = np.array([wanted[2], -wanted[1], -wanted[0]])
        at = min(spl.values(), key=lambda a: np.linalg.norm(layer.data_to_world(a) - where))
        assert np.allclose(layer.data_to_world(at), where)
    else:
        at = next(a for a in spl.values() if volume_index(volume, a) == (k, j, i))
    labels.data_setitem(tuple(np.array([x]) for x in at), 1)
    out = tmp_path / "mask.nii.gz"
    assert labels.save(str(out), plugin=PLUGIN) == [str(out)]
    written = nib.load(out)
    assert np.array_equal(written.affine, nib.load(source).affine)
    assert written.get_data_dtype() == np.uint8
    assert written.header.get_intent()[::2] == (
        "label",
        "mask" if "mask" in labels.name else "labels",
    )
    (voxel,) = np.argwhere(np.asarray(written.dataobj))
    assert np.allclose(written.affine @ [*voxel, 1], wanted)


def volume_index(volume: Any, at: tuple[int, ...]) -> tuple[int, ...]:
    marked = np.zeros(volume.geometry.display_shape, bool)
    marked[at] = True
    return tuple(int(v) for v in np.argwhere(volume.geometry.from_display(marked))[0])


def test_a_heatmap_is_written_as_float32(lab: Any, make_napari_viewer: Any, tmp_path: Path) -> None:
    viewer = make_napari_viewer()
    (layer,) = viewer.open(save(lab, tmp_path / "a.nii.gz", "PSR"), plugin=PLUGIN)
    layer.save(str(tmp_path / "copy.nii.gz"), plugin=PLUGIN)
    written = nib.load(tmp_path / "copy.nii.gz")
    assert written.get_data_dtype() == np.float32
    assert np.array_equal(np.asarray(written.dataobj).T, lab.voxels())


def test_many_labels_keep_their_numbers(make_napari_viewer: Any, tmp_path: Path) -> None:
    viewer = make_napari_viewer()
    data = np.zeros((3, 4, 5), np.int64)
    data[1, 2, 3] = 400
    labels = viewer.add_labels(data, scale=(3, 2, 1))
    labels.save(str(tmp_path / "l.nii.gz"), plugin=PLUGIN)
    written = nib.load(tmp_path / "l.nii.gz")
    assert np.asarray(written.dataobj)[3, 2, 1] == 400
    assert written.header.get_zooms() == (1, 2, 3)


def test_folders_pictures_and_dicom_without_extension_open(
    lab: Any, make_napari_viewer: Any, tmp_path: Path, shared_data: Path
) -> None:
    viewer = make_napari_viewer()
    folder = tmp_path / "pictures"
    folder.mkdir()
    for n in range(3):
        Picture.fromarray(lab.voxels()[n + 4].astype(np.uint8)).save(folder / f"{n}.png")
    (layer,) = viewer.open(folder, plugin=PLUGIN)
    assert layer.data.shape == (3, *lab.shape[1:])
    series = next((shared_data / "readers" / "mr_sagittal_HFS").rglob("*.dcm"))
    bare = tmp_path / "00000001"
    shutil.copy(series, bare)
    (layer,) = viewer.open(bare, plugin=PLUGIN)
    assert layer.ndim == 3


def test_what_cannot_be_read_is_refused_quietly(lab: Any, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("no scan")
    (tmp_path / "empty").mkdir()
    assert get_reader(str(tmp_path / "notes")) is None
    assert get_reader(str(tmp_path / "empty")) is None
    assert get_reader(str(tmp_path / "missing.nii")) is None
    for name in ("disk.img", "terrain.vol", "picture.hdr"):
        (tmp_path / name).write_bytes(bytes(2048))
        assert get_reader(str(tmp_path / name)) is None
    assert get_reader([]) is None
    assert get_reader(str(save(lab, tmp_path / "x.nii"))) is not None
    (tmp_path / "oct.vol").write_bytes(b"HSF-OCT-103" + bytes(2037))
    assert get_reader(str(tmp_path / "oct.vol")) is not None
    (tmp_path / "a.nhdr").write_bytes(b"NRRD0004\n")
    assert get_reader(str(tmp_path / "a.nhdr")) is not None


@pytest.mark.parametrize(
    "name",
    [
        *("IM0001", "1.2.840.113619.2", "MR.1.2.840.7", "A.DCM", "a.nii.gz", "DICOMDIR"),
        *("a.nrrd", "a.nhdr", "a.mha", "a.mhd", "a.vol", "A.E2E", "a.fda", "a.fds", "a.img"),
    ],
)
def test_names_that_scans_have_reach_the_reader(name: str) -> None:
    assert PLUGIN in readers_of(name)


@pytest.mark.parametrize("name", ["table.csv", "notes.txt", "movie.mp4", "points.json"])
def test_other_plugins_files_do_not(name: str) -> None:
    assert PLUGIN not in readers_of(name)


def readers_of(name: str) -> set[str]:
    manager = PluginManager.instance()
    manager.discover()  # napari does, and may not have run in this process
    found = manager.iter_compatible_readers([f"/nowhere/{name}"])
    return {reader.plugin_name for reader in found}


def test_the_sample_opens(make_napari_viewer: Any) -> None:
    viewer = make_napari_viewer()
    (layer,) = viewer.open_sample(PLUGIN, "flair")
    assert isinstance(layer, Image)
    assert layer.data.shape == (32, 256, 256)
    assert {str(u) for u in layer.units} == {"millimeter"}


@pytest.mark.parametrize("name", ["Review", "Training"])
def test_the_docks_open_from_the_manifest(make_napari_viewer: Any, name: str, models: Any) -> None:
    viewer = make_napari_viewer()
    _, widget = viewer.window.add_plugin_dock_widget(PLUGIN, name)
    assert type(widget).__name__ == f"{name}Dock"


def test_volume_kwargs_share_memory_with_the_scan(lab: Any) -> None:
    volume = lab.make_volume("PSR")
    assert np.shares_memory(volume_layer_kwargs(volume)["data"], volume.data)
