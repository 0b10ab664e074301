"""The same by both protocols, against a real server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import requests
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

import napari_spatial_ar as nsar
from napari_spatial_ar.archive.access import Access, Credentials
from napari_spatial_ar.archive.entries import DateRange, StudyQuery
from napari_spatial_ar.archive.interface import Archive
from napari_spatial_ar.archive.opening import open_archive
from napari_spatial_ar.archive.retrieval import Retrieved, get_series, the_series
from napari_spatial_ar.archive.sending import files_to_send, send
from napari_spatial_ar.errors import ArchiveDenied, ArchiveError
from napari_spatial_ar.steps import finish
from tests.archive.conftest import Orthanc, Written, write_series


@pytest.fixture(params=["web", "dimse"])
def archive(request: pytest.FixtureRequest, orthanc: Orthanc) -> Archive:
    """The same server by each protocol."""
    access = Access(timeout=10.0, retries=1, receive_port=orthanc.move)
    return open_archive(getattr(orthanc, request.param), access)


def put(archive: Archive, *paths: Path) -> list[str]:
    return [answer.state for answer in finish(send(archive, files_to_send(paths).files))]


def get(archive: Archive, series: Written, out: Path) -> Retrieved:
    return finish(get_series(archive, the_series(archive, series.series_uid), out))


def pixels(folder: Path) -> dict[str, bytes]:
    found = {}
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        found[str(dataset.SOPInstanceUID)] = dataset.PixelData
    return found


def test_what_is_sent_is_found_and_comes_back(
    archive: Archive, series: Written, tmp_path: Path
) -> None:
    archive.echo()
    assert put(archive, series.folder) == ["stored"] * 4
    assert put(archive, series.folder) == ["there"] * 4
    (study,) = archive.find_studies(StudyQuery()).studies
    assert (study.patient_name, study.patient_id) == ("Doe^Jane", "P-1")
    assert (study.accession, study.date, study.time) == ("A-1", "20260102", "101112")
    assert (study.modalities, study.series, study.instances) == (("MR",), 1, 4)
    (entry,) = archive.find_series(study.study_uid)
    assert (entry.modality, entry.number, entry.instances) == ("MR", 3, 4)
    assert entry.description == "FLAIR"
    got = get(archive, series, tmp_path / "out")
    assert pixels(got.folder) == pixels(series.folder)
    (scan,), (source,) = nsar.read(got.folder), nsar.read(series.folder)
    np.testing.assert_array_equal(scan.data, source.data)
    np.testing.assert_allclose(scan.geometry.affine, source.geometry.affine)


def test_queries_find_what_they_say(archive: Archive, tmp_path: Path) -> None:
    write_series(tmp_path / "a", 1)
    write_series(
        tmp_path / "b",
        1,
        PatientID="Q-2",
        PatientName="Müller^Ürsula",
        SpecificCharacterSet="ISO_IR 100",
        AccessionNumber="B-7",
        StudyDate="20250630",
        Modality="CT",
    )
    put(archive, tmp_path / "a", tmp_path / "b")

    def ids(**query: Any) -> list[str]:
        found = archive.find_studies(StudyQuery(**query)).studies
        return sorted(study.patient_id for study in found)

    assert ids() == ["P-1", "Q-2"]
    assert ids(patient_id="P-*") == ["P-1"]
    assert ids(accession="B-7") == ["Q-2"]
    assert ids(modality="CT") == ["Q-2"]
    assert ids(modality="PT") == []
    assert ids(dates=DateRange.parse("20250101-20251231")) == ["Q-2"]
    assert ids(dates=DateRange.parse("20260101-")) == ["P-1"]
    assert ids(patient_name="DOE*") == ids(patient_name="doe^j*") == ["P-1"]
    if not archive.url.startswith("http"):  # Orthanc 1.10 does not decode the URLs of DICOMweb
        assert ids(patient_name="Müller*") == ["Q-2"]
    (study,) = archive.find_studies(StudyQuery(patient_id="Q-2")).studies
    assert study.patient_name == "Müller^Ürsula"
    found = archive.find_studies(StudyQuery(), limit=1)
    assert (len(found.studies), found.more) == (1, True)


@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        ("ISO_IR 100", "Lefèvre^Zoë"),
        ("ISO_IR 192", "Łukasz^Çelik"),
        ("ISO_IR 144", "Люксембург^Анна"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    ],
)
def test_names_of_any_alphabet_are_read(
    archive: Archive, tmp_path: Path, encoding: str | list[str], name: str
) -> None:
    series = write_series(tmp_path / "source", SpecificCharacterSet=encoding, PatientName=name)
    put(archive, series.folder)
    (study,) = archive.find_studies(StudyQuery(patient_id="P-1")).studies
    assert study.patient_name == name
    got = get(archive, series, tmp_path / "out")
    assert {str(pydicom.dcmread(path).PatientName) for path in got.folder.iterdir()} == {name}


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, RLELossless])
def test_compressed_images_stay_as_they_are(
    archive: Archive, tmp_path: Path, syntax: pydicom.uid.UID
) -> None:
    series = write_series(tmp_path / "source", size=64)
    for path in series.files:
        image = pydicom.dcmread(path)
        image.compress(syntax, generate_instance_uid=False)
        image.save_as(path)
    put(archive, series.folder)
    got = get(archive, series, tmp_path / "out")
    assert {pydicom.dcmread(path).file_meta.TransferSyntaxUID for path in got.folder.iterdir()} == {
        syntax
    }
    assert pixels(got.folder) == pixels(series.folder)


def test_a_series_that_grew_is_completed(archive: Archive, series: Written, tmp_path: Path) -> None:
    put(archive, *series.files[:3])
    assert get(archive, series, tmp_path / "out").instances == 3
    put(archive, series.files[3])
    got = get(archive, series, tmp_path / "out")
    assert (got.instances, got.fetched) == (4, 1)
    assert len(list(got.folder.iterdir())) == 4
    assert [path.name for path in (tmp_path / "out").iterdir()] == [got.folder.name]


def test_a_study_that_was_deleted_since(
    archive: Archive, orthanc: Orthanc, series: Written, tmp_path: Path
) -> None:
    put(archive, series.folder)
    entry = the_series(archive, series.series_uid)
    orthanc.clear()
    with pytest.raises(ArchiveError, match="no longer has this series"):
        finish(get_series(archive, entry, tmp_path / "out"))
    with pytest.raises(ArchiveError, match="has no such series"):
        the_series(archive, series.series_uid)


def test_real_series_come_back_voxel_by_voxel(
    archive: Archive, shared_data: Path, tmp_path: Path
) -> None:
    """Files whose File Meta Information names another instance than they hold, among others."""
    for name in ("ge/anatomical/001", "ct_ge"):
        source = shared_data / "readers" / name
        assert set(put(archive, source)) == {"stored"}
        for study in archive.find_studies(StudyQuery()).studies:
            for entry in archive.find_series(study.study_uid):
                finish(get_series(archive, entry, tmp_path / name))
        (scan,), (before,) = nsar.read(tmp_path / name)[:1], nsar.read(source)[:1]
        np.testing.assert_array_equal(scan.data, before.data)
        for patient in requests.get(archive_root(archive) + "/patients", timeout=9).json():
            requests.delete(f"{archive_root(archive)}/patients/{patient}", timeout=9)


def archive_root(archive: Archive) -> str:
    """The server's own interface; tests of a protocol clear by it."""
    return str(ROOTS[archive.url])


ROOTS: dict[str, str] = {}


@pytest.fixture(autouse=True)
def roots(orthanc: Orthanc) -> None:
    for url in (orthanc.web, orthanc.dimse):
        ROOTS[url] = f"http://127.0.0.1:{orthanc.http}"


def test_thumbnails(orthanc: Orthanc, series: Written) -> None:
    web, dimse = open_archive(orthanc.web), open_archive(orthanc.dimse)
    put(web, series.folder)
    entry = the_series(web, series.series_uid)
    picture = web.thumbnail(entry)
    assert picture is not None
    assert picture.startswith(b"\xff\xd8")
    assert dimse.thumbnail(entry) is None


def test_users_and_passwords(make_orthanc: Callable[..., Orthanc]) -> None:
    guarded = make_orthanc("--user", "jane:hunter2")
    open_archive(
        guarded.web, Access(credentials=Credentials(user="jane", password="hunter2"))
    ).echo()
    for wrong in (None, Credentials(user="jane", password="other"), Credentials(token="x")):
        with pytest.raises(ArchiveDenied, match="missing, wrong or expired"):
            open_archive(guarded.web, Access(credentials=wrong)).echo()
    guarded.stop()
