"""DICOMDIR: what a disc says is on it."""

from __future__ import annotations

import gc
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.fileset import FileSet

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.dicom.dicomdir import dicomdir_files, is_dicomdir
from napari_spatial_ar.imaging.reading import find_scans, read

Write = Callable[..., list[Path]]


@pytest.fixture
def disc(tmp_path: Path, write_series: Write, voxels: np.ndarray) -> Path:
    """Folder with a DICOMDIR that pydicom made, as on a disc."""
    folder = tmp_path / "disc"
    with warnings.catch_warnings():
        # pydicom leaves a temporary folder for the collector of garbage to remove.
        warnings.simplefilter("ignore", ResourceWarning)
        content = FileSet()
        for path in write_series(voxels, StudyDate="20200101", StudyTime="10", StudyID="1"):
            content.add(path)
        content.write(folder)
        del content
        gc.collect()
    return folder


def test_files_of_a_disc(disc: Path, voxels: np.ndarray) -> None:
    table = disc / "DICOMDIR"
    assert is_dicomdir(table)
    files = dicomdir_files(table)
    assert sorted(files) == sorted(
        p.resolve() for p in disc.rglob("*") if p.is_file() and p != table
    )
    assert not any(map(is_dicomdir, files))
    (scan,) = find_scans(table).scans
    np.testing.assert_array_equal(scan.read().data, voxels)


def test_a_dropped_disc_is_read_whole(disc: Path, voxels: np.ndarray) -> None:
    found = find_scans(disc)
    assert found.errors == ()
    (scan,) = found.scans
    np.testing.assert_array_equal(scan.read().data, voxels)


def test_a_table_of_contents_alone_says_so(disc: Path, tmp_path: Path) -> None:
    alone = tmp_path / "elsewhere" / "TOC"
    alone.parent.mkdir()
    shutil.copy(disc / "DICOMDIR", alone)
    assert is_dicomdir(alone)
    with pytest.raises(InputError, match="lists 4 files, none of which exists"):
        dicomdir_files(alone)


@pytest.mark.parametrize("dropped", ["", "DICOMDIR"])
def test_a_disc_copied_in_part_says_so(disc: Path, dropped: str) -> None:
    dicomdir_files(disc / "DICOMDIR")[-1].unlink()
    found = find_scans(disc / dropped)
    assert len(found.scans) == 1
    assert [e.what for e in found.errors] == [
        "this table of contents lists 4 files, and 1 of them is missing"
    ]
    assert "1 of them is missing" in read(disc / dropped)[0].warnings[-1]


def test_nothing_outside_the_disc_is_read(disc: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"x")
    table = pydicom.dcmread(disc / "DICOMDIR")
    named = [r for r in table.DirectoryRecordSequence if "ReferencedFileID" in r]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom says that this is no valid name
        named[0].ReferencedFileID = ["..", "secret"]
    pydicom.dcmwrite(disc / "DICOMDIR", table, enforce_file_format=True)
    files = dicomdir_files(disc / "DICOMDIR")
    assert len(files) == 3
    assert secret.resolve() not in files


def test_a_damaged_table_is_refused(disc: Path) -> None:
    table = disc / "DICOMDIR"
    raw = table.read_bytes()
    table.write_bytes(raw[: len(raw) // 3])
    assert is_dicomdir(table)
    with pytest.raises(InputError) as caught:
        dicomdir_files(table)
    assert caught.value.path == table
    table.write_bytes(b"")
    assert not is_dicomdir(table)


def test_a_deflated_table_is_refused_before_it_is_inflated(disc: Path) -> None:
    table = disc / "DICOMDIR"
    content = pydicom.dcmread(table)
    content.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    pydicom.dcmwrite(table, content, enforce_file_format=True)
    assert is_dicomdir(table)
    with pytest.raises(InputError, match="deflated"):
        find_scans(table)
    # The files that it names stand beside it.
    assert len(find_scans(disc).scans) == 1


def test_an_image_is_no_table(write_series: Write, voxels: np.ndarray, tmp_path: Path) -> None:
    (path,) = write_series(voxels[:1])
    assert not is_dicomdir(path)
    assert not is_dicomdir(tmp_path / "absent")
    assert not is_dicomdir(tmp_path)


def test_a_real_disc_beside_its_table(shared_data: Path) -> None:
    folder = shared_data / "readers/ct_philips_localizer"
    found = find_scans(folder)
    assert found.scans[-1].role == "localizer"
