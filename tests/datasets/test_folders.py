"""Folders as training slices, and the BMAD layout."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_spatial_ar.datasets import survey
from napari_spatial_ar.datasets.folders import (
    bmad_items,
    content_key,
    find_slices,
    iter_slices,
    split_by_group,
)
from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.reading import Source
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.windows import Window, default_window

GREY = np.random.default_rng(3).integers(0, 256, (16, 18)).astype(np.uint8)


def save_png(path: Path, image: np.ndarray | None = None) -> Path:
    """Save a picture; where none is given, one that no other path gets."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(str(path)) if image is None else image).save(path)
    return path


def noise(name: str) -> np.ndarray:
    seed = list(name.encode())
    return np.random.default_rng(seed).integers(0, 256, (16, 18)).astype(np.uint8)


def save_scan(path: Path, brightness: int = 1000) -> Path:
    """Seven 20 x 20 axial slices, the first and last three with air only or almost only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.zeros((20, 20, 7), dtype=np.int16)
    voxels[0, 0, 0] = len(str(path)) + sum(str(path).encode())  # no two are alike
    voxels[4:16, 2:16, 2:5] = brightness
    voxels[4:16, 2:16, 2] = brightness // 2
    voxels[4, 2:6, 2:5] = brightness // 10
    voxels[:4, :4, 5] = brightness  # 4 % of the slice
    nib.save(nib.Nifti1Image(voxels, np.diag([-1.0, -1.0, 3.0, 1.0])), path)
    return path


def groups(folder: Path, **options: str) -> list[str]:
    return [ref.group for ref in find_slices(folder, **options).train]


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("TCGA_CS_4942_19970222_06.png", "TCGA_CS_4942_19970222"),
        ("vol000_0064.png", "vol000"),
        ("1221_OD_o_2.png", "1221"),
        ("1221_OI_o_1.png", "1221"),
        ("patient-3-slice 12.png", "patient-3-slice"),
        ("0001.png", "0001"),
        ("scan.png", "scan"),
    ],
)
def test_the_patient_in_a_file_name(tmp_path: Path, name: str, group: str) -> None:
    save_png(tmp_path / name)
    assert groups(tmp_path) == [group]


def test_sub_folders_are_patients(tmp_path: Path) -> None:
    for name in ("data/p1/a/1.png", "data/p1/b/2.png", "data/p2/1.png"):
        save_png(tmp_path / name)
    assert groups(tmp_path) == ["p1", "p1", "p2"]


def test_a_pattern_overrules(tmp_path: Path) -> None:
    for name in ("x/sub-01_a.png", "x/sub-02_a.png", "y/sub-01_b.png"):
        save_png(tmp_path / name)
    assert groups(tmp_path, patient_pattern=r"sub-\d+") == ["sub-01", "sub-02", "sub-01"]
    assert groups(tmp_path, patient_pattern=r"^(\w)/") == ["x", "x", "y"]
    with pytest.raises(InputError, match="does not match this file"):
        groups(tmp_path, patient_pattern="nobody")
    with pytest.raises(InputError, match="not a regular expression"):
        groups(tmp_path, patient_pattern="(")


def test_slices_of_volumes_need_a_body(tmp_path: Path) -> None:
    path = save_scan(tmp_path / "a.nii.gz")
    refs = find_slices(tmp_path).train
    assert [ref.index for ref in refs] == [2, 3, 4]
    assert {ref.path for ref in refs} == {path}


def test_nifti_patients(tmp_path: Path) -> None:
    save_scan(tmp_path / "flat/a.nii.gz")
    save_scan(tmp_path / "flat/b.nii.gz")
    assert sorted(set(groups(tmp_path / "flat"))) == ["a.nii.gz", "b.nii.gz"]
    save_scan(tmp_path / "deep/p1/t1.nii.gz")
    save_scan(tmp_path / "deep/p1/flair.nii.gz")
    save_scan(tmp_path / "deep/p2/flair.nii.gz")
    assert Counter(groups(tmp_path / "deep")) == {"p1": 6, "p2": 3}


def test_dicom_patients_are_hashed(
    tmp_path: Path, write_series: Callable[..., list[Path]], voxels: np.ndarray
) -> None:
    voxels = np.kron(voxels, np.ones((1, 4, 4), np.uint16))
    write_series(voxels, folder="d/1")
    write_series(voxels, folder="d/2", SeriesInstanceUID="7", PatientID="other")
    write_series(voxels, folder="d/3", SeriesInstanceUID="8")
    refs = find_slices(tmp_path / "d").train
    assert len(refs) == 12
    one, two, three = (refs[i].group for i in (0, 4, 8))
    assert one == three != two
    assert "4711" not in one
    assert [ref.path.name for ref in refs[:4]] == ["004", "003", "002", "001"]


def test_pages_of_a_tiff_are_slices(tmp_path: Path) -> None:
    pages = np.stack([GREY, GREY // 2, GREY // 3])
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack")
    refs = find_slices(tmp_path).train
    assert [ref.index for ref in refs] == [0, 1, 2]
    images = [image for _, image, _ in iter_slices(refs, Window("full8"))]
    np.testing.assert_array_equal(images, pages)


def test_a_mixed_folder_is_read_in_full(tmp_path: Path) -> None:
    save_scan(tmp_path / "scans/a.nii.gz")
    save_png(tmp_path / "pictures/b_1.png")
    (tmp_path / "pictures/notes.txt").write_text("hello")
    refs = find_slices(tmp_path).train
    assert [ref.index for ref in refs] == [2, 3, 4, None]


def test_bad_scans_are_left_out_and_counted(tmp_path: Path) -> None:
    save_scan(tmp_path / "a.nii.gz")
    (tmp_path / "doe.nii.gz").write_bytes(b"")
    (tmp_path / "doe.dcm").write_bytes(b"")
    found = find_slices(tmp_path)
    assert len(found.train) == 3
    assert "2 inputs are left out" in found.warnings[0]
    assert "doe" not in found.warnings[0]


def test_a_folder_without_slices_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        find_slices(tmp_path / "nowhere")
    with pytest.raises(InputError, match="empty"):
        find_slices(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match="no image"):
        find_slices(tmp_path)
    save_scan(tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match=r"be used\. 7 slices excluded: little body"):
        find_slices(tmp_path, window=Window("fixed", 5000, 6000))


def test_a_bmad_root_brings_its_own_validation(tmp_path: Path) -> None:
    save_png(tmp_path / "train/good/vol1_1.png")
    save_png(tmp_path / "valid/good/img/vol2_1.png")
    save_png(tmp_path / "valid/good/label/vol2_1.png")
    save_png(tmp_path / "valid/Ungood/img/vol3_1.png")
    save_png(tmp_path / "test/good/img/vol4_1.png")
    found = find_slices(tmp_path)
    assert [ref.group for ref in found.train] == ["vol1"]
    assert [ref.group for ref in found.valid] == ["vol2"]


def test_slices_come_with_the_window_of_their_whole_volume(tmp_path: Path) -> None:
    save_scan(tmp_path / "a.nii.gz", 1000)
    save_scan(tmp_path / "b.nii.gz", 3000)
    save_png(tmp_path / "c.png", GREY)
    refs = find_slices(tmp_path).train
    read = list(iter_slices(refs, default_window("mri")))
    assert [ref for ref, _, _ in read] == list(refs)
    assert [high for _, _, (_, high) in read] == [1000] * 3 + [3000] * 3 + [255]
    assert all(image.dtype == np.float32 for _, image, _ in read)
    np.testing.assert_array_equal(read[-1][1], GREY)
    assert read[0][1].shape == (20, 20)
    expected = nib.load(refs[0].path).get_fdata()[:, :, 2].T
    np.testing.assert_array_equal(read[0][1], expected)


def test_slices_are_upright(tmp_path: Path) -> None:
    coronal = np.zeros((20, 3, 24), dtype=np.int16)  # R, A, S
    coronal[:, :, 16:] = 700  # above
    coronal[:10, :, 16:] = 900  # above, at the patient's left
    nib.save(nib.Nifti1Image(coronal, np.diag([1.0, 4.0, 1.0, 1.0])), tmp_path / "a.nii")
    (_, image, _), *_ = iter_slices(find_slices(tmp_path).train, default_window("mri"))
    assert image.shape == (24, 20)
    assert (image[:8, 10:] == 900).all()
    assert (image[:8, :10] == 700).all()
    assert (image[8:] == 0).all()


def test_each_volume_is_opened_once_whatever_the_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_scan(tmp_path / "a.nii.gz")
    save_scan(tmp_path / "b.nii.gz")
    refs = list(find_slices(tmp_path).train)
    opened = []
    original = Scan.read
    monkeypatch.setattr(Scan, "read", lambda scan: opened.append(scan) or original(scan))
    shuffled = [refs[i] for i in (4, 0, 3, 2, 5, 1)]
    seen = [ref for ref, _, _ in iter_slices(shuffled, default_window("mri"))]
    assert sorted(map(repr, seen)) == sorted(map(repr, refs))
    assert len(opened) == 2


def test_localizers_and_derived_series_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        save_scan(tmp_path / f"{name}.nii.gz")
    roles = {"a.nii.gz": "localizer", "b.nii.gz": "original", "c.nii.gz": "derived"}
    original = survey.scans_in

    def with_roles(source: Source) -> list[Scan]:
        return [replace(scan, role=roles[source.files[0].name]) for scan in original(source)]

    monkeypatch.setattr(survey, "scans_in", with_roles)
    slices = find_slices(tmp_path)
    assert {ref.path.name for ref in slices.train} == {"b.nii.gz"}
    assert any("excluded" in text for text in slices.warnings)


def test_a_picture_that_turns_bad_is_named_when_it_is_read(tmp_path: Path) -> None:
    path = save_png(tmp_path / "a_1.png")
    slices = find_slices(tmp_path)
    save_png(path, np.full((16, 18), 5, np.uint8))
    with pytest.raises(InputError, match="same value") as caught:
        list(iter_slices(slices.train, Window("full8")))
    assert caught.value.path == path


def test_a_split_never_parts_a_patient(tmp_path: Path) -> None:
    for patient in range(10):
        for number in range(1 + patient):
            save_png(tmp_path / f"p{patient}x_{number}.png")
    refs = find_slices(tmp_path).train
    train, valid = split_by_group(refs, 0.2, seed=0)
    assert sorted(map(repr, train + valid)) == sorted(map(repr, refs))
    assert not {r.group for r in train} & {r.group for r in valid}
    assert 0.2 <= len(valid) / len(refs) <= 0.4
    assert split_by_group(refs[::-1], 0.2, seed=0)[1] == valid[::-1]
    assert any(split_by_group(refs, 0.2, seed=s)[1] != valid for s in range(1, 5))


def test_each_side_of_a_split_gets_a_patient(tmp_path: Path) -> None:
    for name in ("a_1", "a_2", "a_3", "b_1"):
        save_png(tmp_path / f"{name}.png")
    refs = find_slices(tmp_path).train
    for fraction in (0.001, 0.999):
        assert all(split_by_group(refs, fraction, seed=1))


def test_one_patient_cannot_be_split(tmp_path: Path) -> None:
    for number in range(3):
        save_png(tmp_path / f"a_{number}.png")
    with pytest.raises(InputError, match="all 3 slices seem to be of one patient"):
        split_by_group(find_slices(tmp_path).train, 0.2, seed=0)


def test_a_content_key_follows_the_content(tmp_path: Path) -> None:
    path = save_png(tmp_path / "a_1.png", GREY)
    (ref,) = find_slices(tmp_path).train
    before = content_key(ref)
    path.rename(tmp_path / "b_1.png")
    (moved,) = find_slices(tmp_path).train
    assert content_key(moved) == before
    status = (tmp_path / "b_1.png").stat()
    save_png(tmp_path / "b_1.png", np.flipud(GREY))
    os.utime(tmp_path / "b_1.png", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert content_key(moved) != before
    (tmp_path / "b_1.png").unlink()
    with pytest.raises(InputError, match="can no longer be read"):
        content_key(moved)


def test_slices_of_a_volume_have_keys_of_their_own(tmp_path: Path) -> None:
    save_scan(tmp_path / "a.nii.gz")
    keys = [content_key(ref) for ref in find_slices(tmp_path).train]
    assert len(set(keys)) == 3


def test_bmad_items(tmp_path: Path) -> None:
    save_png(tmp_path / "train/good/vol1_1.png")
    for kind, stem in (("good", "vol2_10"), ("good", "vol2_9"), ("Ungood", "vol3_1")):
        save_png(tmp_path / f"test/{kind}/img/{stem}.png").rename(
            tmp_path / f"test/{kind}/img/{stem}.jpg"
        )
        save_png(tmp_path / f"test/{kind}/label/{stem}.png")
    items = bmad_items(tmp_path, "test")
    assert [(i.image.name, i.label.name, i.abnormal, i.group) for i in items if i.label] == [
        ("vol2_9.jpg", "vol2_9.png", False, "vol2"),
        ("vol2_10.jpg", "vol2_10.png", False, "vol2"),
        ("vol3_1.jpg", "vol3_1.png", True, "vol3"),
    ]
    assert [i.image.name for i in bmad_items(tmp_path, "train")] == ["vol1_1.png"]
    with pytest.raises(InputError, match="no images in valid/good"):
        bmad_items(tmp_path, "valid")


@pytest.mark.parametrize(
    ("name", "train", "good", "abnormal", "labelled"),
    [
        ("brain_flair", 469, 77, 171, True),
        ("liver_ct", 420, 130, 130, True),
        ("retina_oct", None, 42, 86, False),
    ],
)
def test_the_real_sets(
    shared_data: Path, name: str, train: int | None, good: int, abnormal: int, labelled: bool
) -> None:
    root = shared_data / "bench" / name
    items = bmad_items(root, "test")
    assert Counter(i.abnormal for i in items) == {False: good, True: abnormal}
    assert all((i.label is not None) == labelled for i in items)
    found = find_slices(root)
    if train:
        assert len(found.train) == train
    train_patients = {ref.group for ref in found.train}
    valid_patients = {ref.group for ref in found.valid}
    assert not train_patients & valid_patients
    assert not (train_patients | valid_patients) & {item.group for item in items}


def test_the_patient_rule_fits_the_real_names(shared_data: Path) -> None:
    for name, patient in {
        "brain_flair": lambda stem: "_".join(stem.split("_")[:4]),
        "liver_ct": lambda stem: stem[:6],
        "retina_oct": lambda stem: stem.split("_")[0],
    }.items():
        for ref in find_slices(shared_data / "bench" / name).train:
            assert ref.group == patient(ref.path.stem)
