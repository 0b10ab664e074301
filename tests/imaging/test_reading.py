"""Opening anything, told by content."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.reading import find_scans, find_sources, read

GREY = np.random.default_rng(3).integers(0, 256, (8, 9)).astype(np.uint8)


def save_nifti(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4)), path)
    return path


def save_png(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(GREY).save(path, format="png")
    return path


@pytest.fixture
def mixed(tmp_path: Path, write_series: Callable[..., list[Path]], voxels: np.ndarray) -> Path:
    """Folder with one of everything, nested, with odd names."""
    write_series(voxels, folder="mixed/deep/er/dicom")
    root = tmp_path / "mixed"
    save_nifti(root / "b.nii.gz")
    save_nifti(root / "deep/a.nii").rename(root / "deep/no_suffix")
    for number in range(3):
        save_png(root / f"pictures/{number}.bin")
    save_png(root / "other/1.png")
    (root / "notes.txt").write_text("hello")
    (root / ".hidden").write_bytes((root / "other/1.png").read_bytes())
    save_png(root / ".git/1.png")
    save_png(root / "__MACOSX/1.png")
    (root / "deep/Thumbs.db").write_bytes(b"\0" * 300)
    return root


def test_a_folder_of_everything(mixed: Path) -> None:
    volumes = read(mixed)
    assert [(v.series.label, v.data.shape) for v in volumes] == [
        ("NIfTI scan 3 x 4 x 5", (5, 4, 3)),
        ("NIfTI scan 3 x 4 x 5", (5, 4, 3)),
        ("MR series 4", (4, 5, 6)),
        ("Picture 9 x 8", (1, 8, 9)),
        ("Stack 9 x 8 x 3", (3, 8, 9)),
    ]
    assert volumes[0].warnings == ()


def test_a_string_several_files_and_repeats(mixed: Path) -> None:
    assert len(read(str(mixed / "b.nii.gz"))) == 1
    assert len(read([mixed / "b.nii.gz", mixed / "other", mixed / "b.nii.gz"])) == 2


def test_sources_are_found_without_reading(mixed: Path) -> None:
    assert [(s.format, len(s.files)) for s in find_sources(mixed)] == [
        ("nifti", 1),
        ("nifti", 1),
        ("dicom", 4),
        ("raster", 1),
        ("raster", 3),
    ]


def test_bad_files_are_left_out_with_a_count_but_no_name(
    mixed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (mixed / "DOE_JOHN.nii.gz").write_bytes((mixed / "b.nii.gz").read_bytes()[:100])
    (mixed / "doe.dcm").write_bytes(b"nothing")
    volumes = read(mixed)
    assert len(volumes) == 5
    assert "2 inputs are left out" in volumes[0].warnings[0]
    assert "left out 2 inputs" in caplog.text
    assert "doe" not in (caplog.text + str(volumes[0].warnings)).lower()


@pytest.mark.parametrize("name", ["bad.nii.gz", "bad.dcm", "bad.png"])
def test_when_all_fail_the_first_error_is_raised(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(InputError) as caught:
            read(path)
        assert caught.value.path == tmp_path / name


def test_each_way_of_giving_nothing_has_its_own_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(InputError, match="the folder is empty"):
        read(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match="there is no image in it"):
        read(tmp_path)
    with pytest.raises(InputError, match="is not an image"):
        read(tmp_path / "notes.txt")
    with pytest.raises(InputError, match="no file was given"):
        read([])
    with pytest.raises(InputError, match="no such file or folder"):
        read("a\0b")


def test_a_folder_of_hidden_files_is_empty(tmp_path: Path) -> None:
    save_png(tmp_path / ".cache/a.png")
    with pytest.raises(InputError, match="the folder is empty"):
        read(tmp_path)


def test_a_real_dicomdir_whose_files_were_not_all_copied(shared_data: Path) -> None:
    (volume,) = read(shared_data / "readers/ct_philips_localizer")
    assert volume.series.label == "CT series 401"
    assert "of them are missing" in volume.warnings[-1]


def test_a_dicom_series_wins_over_its_neighbours(shared_data: Path) -> None:
    volumes = read(shared_data / "readers/generic/anatomical")
    assert [v.modality for v in volumes] == ["unknown", "unknown", "mri", "mri"]


def test_nrrd_and_oct_files_stand_beside_the_others(mixed: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.GetImageFromArray(np.arange(60, dtype=np.int16).reshape(5, 4, 3))
    for name in ("one.nrrd", "two.mha", "three.mhd"):
        sitk.WriteImage(image, str(mixed / name))
    cube = mixed / "cube_OD_.img"
    with open(cube, "wb") as file:
        file.truncate(200 * 1024 * 200)
    found = find_scans(mixed)
    assert [(scan.series.label, scan.geometry.shape) for scan in found.scans[5:]] == [
        ("NRRD scan 3 x 4 x 5", (5, 4, 3)),
        ("MetaImage scan 3 x 4 x 5", (5, 4, 3)),
        ("MetaImage scan 3 x 4 x 5", (5, 4, 3)),
        ("OCT, right eye", (200, 1024, 200)),
    ]
    assert found.errors == ()


def test_a_scan_in_two_files_is_one_source_however_it_is_given(tmp_path: Path) -> None:
    nib.save(
        nib.Nifti1Pair(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4)),
        tmp_path / "a.hdr",
    )
    for given in (
        tmp_path,
        tmp_path / "a.img",
        tmp_path / "a.hdr",
        [tmp_path / "a.img", tmp_path / "a.hdr"],
    ):
        assert [s.files for s in find_sources(given)] == [(tmp_path / "a.hdr",)]
        assert len(read(given)) == 1


def test_files_of_other_kinds_are_passed_over(mixed: Path) -> None:
    for name, content in (
        ("._b.nii.gz", b"\0\5\x16\7"),
        (".DS_Store", b"\0\0\0\1Bud1"),
        ("desktop.ini", b"[.ShellClassInfo]"),
        ("report.pdf", b"%PDF-1.7"),
        ("table.xlsx", b"PK\3\4"),
        ("empty", b""),
        ("scan.json", b"{}"),
        (
            "DICOMDIR.dcm",
            b"\0" * 128 + b"DICM\2\0\2\0UI\x14\0" + b"1.2.840.10008.1.3.10",
        ),
    ):
        (mixed / name).write_bytes(content)
    found = find_scans(mixed)
    assert (len(found.scans), found.errors) == (5, ())


def test_links_round_in_a_circle_and_to_nowhere_do_no_harm(tmp_path: Path) -> None:
    save_png(tmp_path / "deep/a.png")
    (tmp_path / "deep/up").symlink_to(tmp_path)
    (tmp_path / "deep/nowhere.png").symlink_to(tmp_path / "gone.png")
    os.mkfifo(tmp_path / "pipe.png")
    assert [s.files for s in find_sources(tmp_path)] == [(tmp_path / "deep/a.png",)]


def test_a_folder_that_may_not_be_opened(tmp_path: Path, close: Callable[[Path], None]) -> None:
    save_png(tmp_path / "open/a.png")
    close(tmp_path / "closed")
    assert [s.format for s in find_sources(tmp_path)] == ["raster", "closed"]
    found = find_scans(tmp_path)
    assert len(found.scans) == 1
    (error,) = found.errors
    assert str(error).startswith(f"{tmp_path / 'closed'}: may not be opened")
    with pytest.raises(InputError, match="may not be opened"):
        find_sources(tmp_path / "closed")
    (tmp_path / "open/a.png").rename(tmp_path / "open/a.txt")
    (tmp_path / "open/a.txt").write_text("no image")
    with pytest.raises(InputError, match="closed: may not be opened"):
        find_sources(tmp_path)


def test_a_file_is_looked_into_once(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    real = open

    def noting(file: object, *rest: object, **more: object) -> object:
        seen.append(Path(str(file)).name)
        return real(file, *rest, **more)  # type: ignore[call-overload]

    monkeypatch.setattr("builtins.open", noting)
    find_sources(mixed)
    # What is told by its first bytes is opened once.
    assert {name: seen.count(name) for name in ("b.nii.gz", "no_suffix", "1.png", "0.bin")} == {
        "b.nii.gz": 1,
        "no_suffix": 1,
        "1.png": 1,
        "0.bin": 1,
    }
