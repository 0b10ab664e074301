"""Which files are sent, and which are refused before anything is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pydicom
import pytest

from napari_spatial_ar.archive.results import result_files
from napari_spatial_ar.archive.sending import files_to_send
from napari_spatial_ar.errors import InputError
from tests.archive.conftest import Written


def test_folders_give_their_dicom_files(series: Written) -> None:
    (series.folder / "notes.txt").write_text("no DICOM")
    (series.folder / ".hidden").write_bytes(series.files[0].read_bytes())
    (series.folder / "deep").mkdir()
    shutil.copy(series.files[0], series.folder / "deep" / "copy")
    found = files_to_send([series.folder, series.files[1]])
    assert len(found.files) == 4
    assert found.skipped == 1
    one = next(file for file in found.files if file.path == series.files[1])
    assert one.series_uid == series.series_uid
    assert one.size == series.files[1].stat().st_size


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no DICOM", "is not a DICOM file and cannot be sent"),
        (b"", "is not a DICOM file and cannot be sent"),
        (None, "there is no such file or folder"),
    ],
)
def test_a_file_that_is_none_is_refused_before_anything_is_sent(
    series: Written, tmp_path: Path, content: bytes | None, words: str
) -> None:
    path = tmp_path / "report.pdf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=rf"report\.pdf: {words}"):
        files_to_send([series.folder, path])


def test_what_no_archive_takes(series: Written, tmp_path: Path) -> None:
    image = pydicom.dcmread(series.files[0])
    bare = tmp_path / "bare.dcm"
    pydicom.dcmwrite(bare, pydicom.Dataset(image), implicit_vr=False, little_endian=True)
    with pytest.raises(InputError, match="lacks File Meta Information"):
        files_to_send([bare])
    del image.SeriesInstanceUID
    image.save_as(tmp_path / "nameless.dcm")
    with pytest.raises(InputError, match="lacks SeriesInstanceUID"):
        files_to_send([tmp_path / "nameless.dcm"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="there is no DICOM file to send"):
        files_to_send([tmp_path / "empty"])


def test_two_files_of_one_uid(series: Written, tmp_path: Path) -> None:
    image = pydicom.dcmread(series.files[0])
    image.InstanceNumber = 99
    image.save_as(tmp_path / "other.dcm")
    with pytest.raises(InputError, match=r"has the same SOP Instance UID as .*, but differs"):
        files_to_send([series.folder, tmp_path / "other.dcm"])


def test_the_results_of_a_scan_are_its_dicom_objects(series: Written, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    (folder / "captures").mkdir(parents=True)
    (folder / "findings.csv").write_text("rank\n")
    assert result_files(folder) == ()
    shutil.copy(series.files[0], folder / "mask.dcm")
    shutil.copy(series.files[1], folder / "captures" / "0001.dcm")
    assert {file.path.name for file in result_files(folder)} == {"mask.dcm", "0001.dcm"}
