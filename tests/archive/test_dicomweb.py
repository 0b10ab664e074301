"""DICOMweb archives that fail in every way: a sentence each, and nothing half as whole."""

from __future__ import annotations

import datetime
import errno
import ipaddress
import logging
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

import napari_spatial_ar as nsar
from napari_spatial_ar.archive import incoming, jobs
from napari_spatial_ar.archive.access import Access, Credentials
from napari_spatial_ar.archive.entries import StudyQuery
from napari_spatial_ar.archive.interface import Archive, Transfer
from napari_spatial_ar.archive.opening import open_archive
from napari_spatial_ar.archive.retrieval import Retrieved, get_series, the_series
from napari_spatial_ar.archive.sending import files_to_send, send
from napari_spatial_ar.errors import (
    ArchiveDenied,
    ArchiveError,
    ArchiveUnreachable,
    Cancelled,
    InputError,
    StorageError,
)
from napari_spatial_ar.normative.cancellation import cancel_when
from napari_spatial_ar.steps import finish
from tests.archive.conftest import Written, free_port, write_series
from tests.archive.fake_web import FakeWeb, as_json, multipart, slowly


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_FIRST_WAIT_SECONDS", 0.01)


def get(archive: Archive, series: Written, out: Path) -> Retrieved:
    return finish(get_series(archive, the_series(archive, series.series_uid), out))


def visible(out: Path) -> list[Path]:
    """What readers see in a folder."""
    return [path for path in out.glob("*") if not path.name.startswith(".")] if out.exists() else []


# ---------------------------------------------------------------- what goes well


def test_a_series_arrives_as_it_is_stored(
    web: FakeWeb, series: Written, tmp_path: Path, quick: Access
) -> None:
    web.add(*series.files)
    got = get(open_archive(web.url, quick), series, tmp_path / "out")
    assert (got.instances, got.fetched) == (4, 4)
    assert {path.read_bytes() for path in got.folder.iterdir()} == {
        path.read_bytes() for path in series.files
    }
    (scan,) = nsar.read(got.folder)
    (source,) = nsar.read(series.folder)
    np.testing.assert_array_equal(scan.data, source.data)
    names = [path.name for path in (got.folder, *got.folder.iterdir())]
    assert not any("Doe" in name or "P-1" in name or "1.2" in name for name in names)


def test_studies_and_series_are_found_page_by_page(
    web: FakeWeb, tmp_path: Path, quick: Access
) -> None:
    uids = []
    for number in range(7):
        one = write_series(tmp_path / str(number), 1, PatientID=f"P-{number % 2}")
        web.add(*one.files)
        uids.append(one.study_uid)
    web.page = 3
    archive = open_archive(web.url, quick)
    found = archive.find_studies(StudyQuery())
    assert [one.study_uid for one in found.studies] == uids
    assert not found.more
    assert len(archive.find_studies(StudyQuery("P-0")).studies) == 4
    cut = archive.find_studies(StudyQuery(), limit=5)
    assert len(cut.studies) == 5
    assert cut.more
    (entry,) = archive.find_series(uids[0])
    assert (entry.modality, entry.description, entry.instances) == ("MR", "FLAIR", 1)


def test_what_is_there_is_not_fetched_again(
    web: FakeWeb, series: Written, tmp_path: Path, quick: Access
) -> None:
    web.add(*series.files[:2])
    archive = open_archive(web.url, quick)
    first = get(archive, series, tmp_path / "out")
    assert first.instances == 2
    web.add(*series.files[2:])
    web.asked.clear()
    second = get(archive, series, tmp_path / "out")
    assert second.folder == first.folder
    assert (second.instances, second.fetched) == (4, 2)
    assert len(web.paths("/instances/")) == 2
    assert get(archive, series, tmp_path / "out").fetched == 0


def test_a_thousand_slices(web: FakeWeb, tmp_path: Path, quick: Access) -> None:
    series = write_series(tmp_path / "source", 1000, size=2)
    web.add(*series.files)
    web.page = 300
    seen: list[Transfer] = []
    archive = open_archive(web.url, quick)
    steps = get_series(archive, the_series(archive, series.series_uid), tmp_path / "out")
    got = finish(steps, seen.append)
    assert got.instances == len(list(got.folder.iterdir())) == 1000
    assert [step.done for step in seen] == sorted(step.done for step in seen)
    assert len(web.paths("/instances/")) == 0  # one request for all


# ---------------------------------------------------------------- what goes wrong


def refusal(status: int, only: str = "") -> Callable[[str, str], Any]:
    return lambda method, path: (status, "text/plain", b"no") if only in path else None


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (401, ArchiveDenied, "does not accept the credentials: they are missing, wrong or expired"),
        (403, ArchiveDenied, "does not allow this"),
        (404, ArchiveError, "there is no DICOMweb service at"),
        (400, ArchiveError, r"refused the request \(HTTP 400\)"),
        (500, ArchiveUnreachable, r"failed with an error of its own \(HTTP 500\)"),
        (503, ArchiveUnreachable, "HTTP 503"),
    ],
)
def test_refusals_are_sentences(
    web: FakeWeb, quick: Access, status: int, kind: type[ArchiveError], words: str
) -> None:
    web.before = refusal(status)
    archive = open_archive(web.url, quick)
    for asked in (
        archive.echo,
        lambda: archive.find_studies(StudyQuery(patient_id="P-77", patient_name="Doe")),
    ):
        with pytest.raises(ArchiveError, match=words) as caught:
            asked()
        assert isinstance(caught.value, kind)
        assert "P-77" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("text/html", b"<html>Please log in</html>"),
        ("application/dicom+json", b"<html>Please log in</html>"),
        ("application/json", b"42"),
        ("application/json", b'["a"]'),
        ("application/json", b"[" * 100_000),
    ],
)
def test_what_is_no_dicom_json(web: FakeWeb, quick: Access, kind: str, body: bytes) -> None:
    web.before = lambda method, path: (200, kind, body)
    with pytest.raises(ArchiveError, match="does not answer as DICOMweb does"):
        open_archive(web.url, quick).find_studies(StudyQuery())


def test_odd_answers_are_no_crash(web: FakeWeb, quick: Access) -> None:
    answers = [{}, {"0020000D": 5}, {"0020000D": {"Value": [None]}}, {"0020000D": {"Value": ["1"]}}]
    answers[3]["00201208"] = {"Value": ["many"]}
    web.before = lambda method, path: as_json(answers)
    (study,) = open_archive(web.url, quick).find_studies(StudyQuery()).studies
    assert (study.study_uid, study.instances) == ("1", None)


def test_a_closed_port(quick: Access) -> None:
    url = f"http://127.0.0.1:{free_port()}/dicom-web"
    with pytest.raises(ArchiveUnreachable, match="the connection was refused"):
        open_archive(url, quick).echo()


def test_a_server_slower_than_the_time_out(web: FakeWeb, series: Written, tmp_path: Path) -> None:
    web.add(*series.files)
    archive = open_archive(web.url, Access(timeout=0.2, retries=1))
    entry = the_series(archive, series.series_uid)
    web.before = slowly(0.6)
    with pytest.raises(ArchiveUnreachable, match=r"did not answer within 0\.2 seconds"):
        archive.echo()
    with pytest.raises(ArchiveUnreachable, match="did not answer"):
        finish(get_series(archive, entry, tmp_path / "out"))
    assert not visible(tmp_path / "out")


@pytest.fixture
def large(tmp_path: Path) -> Written:
    """A series of 320 kB an image."""
    return write_series(tmp_path / "large", size=400)


def test_a_body_that_breaks_off_goes_on(
    web: FakeWeb, large: Written, tmp_path: Path, quick: Access
) -> None:
    series = large
    web.add(*series.files)
    web.cut = 700_000
    got = get(open_archive(web.url, quick), series, tmp_path / "out")
    assert got.instances == 4
    assert 0 < len(web.paths("/instances/")) < 4


def test_a_server_error_in_the_middle_keeps_what_arrived(
    web: FakeWeb, large: Written, tmp_path: Path, quick: Access
) -> None:
    series = large
    web.add(*series.files)
    archive = open_archive(web.url, quick)
    web.cut = 700_000
    web.before = refusal(500, "/instances/")
    with pytest.raises(ArchiveUnreachable, match=r"HTTP 500.*run the same again to resume"):
        get(archive, series, tmp_path / "out")
    assert not visible(tmp_path / "out")
    kept = len(list(tmp_path.glob("out/.incoming-*/*.dcm")))
    assert kept
    web.before = lambda method, path: None
    got = get(open_archive(web.url, quick), series, tmp_path / "out")
    assert got.fetched == 4 - kept
    assert got.instances == 4


def test_half_a_series_is_not_shown(
    web: FakeWeb, series: Written, tmp_path: Path, quick: Access
) -> None:
    web.add(*series.files[:2])
    web.boast = 2
    for _ in range(2):  # what arrived does not make the series whole the second time
        with pytest.raises(ArchiveError, match="counts 4 images in the series, but lists 2"):
            get(open_archive(web.url, quick), series, tmp_path / "out")
        assert not visible(tmp_path / "out")


def test_a_server_that_sends_less_than_it_lists(
    web: FakeWeb, series: Written, tmp_path: Path, quick: Access
) -> None:
    web.add(*series.files)

    def less(method: str, path: str) -> Any:
        if "/instances/" in path or path.endswith(series.series_uid):
            return multipart([series.files[0].read_bytes()])
        return None

    web.before = less
    with pytest.raises(ArchiveError, match="did not send 3 of the 4 images it lists"):
        get(open_archive(web.url, quick), series, tmp_path / "out")
    assert not visible(tmp_path / "out")


def test_a_study_deleted_between_query_and_retrieval(
    web: FakeWeb, series: Written, tmp_path: Path, quick: Access
) -> None:
    web.add(*series.files)
    archive = open_archive(web.url, quick)
    entry = the_series(archive, series.series_uid)
    web.before = refusal(404, f"/series/{series.series_uid}?")
    for before in (refusal(404, "/instances"), lambda m, p: as_json([]) if "inst" in p else None):
        web.before = before
        with pytest.raises(ArchiveError, match="no longer has this series"):
            finish(get_series(archive, entry, tmp_path / "out"))
    web.before = lambda m, p: (404, "text/plain", b"") if p.endswith(series.series_uid) else None
    with pytest.raises(ArchiveError, match="no longer has this series"):
        finish(get_series(archive, entry, tmp_path / "out"))
    assert not visible(tmp_path / "out")


def test_two_series_of_one_uid(web: FakeWeb, series: Written, tmp_path: Path) -> None:
    other = write_series(tmp_path / "other", SeriesInstanceUID=series.series_uid)
    web.add(*series.files, *other.files)
    archive = open_archive(web.url)
    with pytest.raises(ArchiveError, match="has 2 series of this UID, in different studies"):
        the_series(archive, series.series_uid)
    entry = the_series(archive, series.series_uid, other.study_uid)
    assert finish(get_series(archive, entry, tmp_path / "out")).instances == 4


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"PatientID": "P-2"}, "images of more than one patient"),
        ({"PatientID": "", "PatientName": "Roe^Mary"}, "images of more than one patient"),
        ({"SeriesInstanceUID": "1.2.9"}, "an instance of another series arrived"),
        ({"StudyInstanceUID": "1.2.9"}, "two studies have a series of the same UID"),
    ],
)
def test_an_instance_that_does_not_belong_there(
    web: FakeWeb, series: Written, tmp_path: Path, tags: dict[str, str], words: str
) -> None:
    web.add(*series.files)
    archive = open_archive(web.url)
    wrong = pydicom.dcmread(series.files[2])
    for keyword, value in tags.items():
        setattr(wrong, keyword, value)
    wrong.save_as(tmp_path / "wrong.dcm")
    bodies = [path.read_bytes() for path in series.files]
    bodies[2] = (tmp_path / "wrong.dcm").read_bytes()
    web.before = lambda m, p: multipart(bodies) if p.endswith(series.series_uid) else None
    with pytest.raises(ArchiveError, match=words) as caught:
        get(archive, series, tmp_path / "out")
    assert not any(word in str(caught.value) for word in ("P-2", "Roe", "Doe"))
    assert not visible(tmp_path / "out")


def test_two_instances_of_one_uid(web: FakeWeb, series: Written, tmp_path: Path) -> None:
    web.add(*series.files)
    twice = pydicom.dcmread(series.files[0])
    twice.InstanceNumber = 77
    twice.save_as(tmp_path / "twice.dcm")
    bodies = [path.read_bytes() for path in (*series.files, tmp_path / "twice.dcm")]
    web.before = lambda m, p: multipart(bodies) if p.endswith(series.series_uid) else None
    with pytest.raises(ArchiveError, match="two different instances have the same UID"):
        get(open_archive(web.url), series, tmp_path / "out")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((200, "text/html", b"<html>"), "does not answer as DICOMweb does, but with text/html"),
        (multipart([b"<html>"]), "is not a DICOM file"),
        ((200, "multipart/related", b"--x"), "broke off in the middle"),
        ((200, 'multipart/related; boundary="x"', b"--y\r\n\r\n"), "broke off in the middle"),
    ],
)
def test_what_is_no_instance(
    web: FakeWeb, series: Written, tmp_path: Path, quick: Access, answer: Any, words: str
) -> None:
    web.add(*series.files)
    web.before = lambda m, p: (
        answer if "/instances/" in p or p.endswith(series.series_uid) else None
    )
    with pytest.raises(ArchiveError, match=words):
        get(open_archive(web.url, quick), series, tmp_path / "out")
    assert not visible(tmp_path / "out")


def test_a_disk_that_is_full(
    web: FakeWeb, series: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.add(*series.files)
    replace, done = incoming.os.replace, []

    def full(source: Path, target: Path) -> None:
        if len(done) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        done.append(target)
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(incoming.os, "replace", full)
        with pytest.raises(StorageError, match="the disk is full"):
            get(open_archive(web.url), series, tmp_path / "out")
    assert not visible(tmp_path / "out")
    assert not list(tmp_path.glob("out/.incoming-*/.partial-*"))
    assert get(open_archive(web.url), series, tmp_path / "out").fetched == 2


def test_a_transfer_that_is_cancelled(web: FakeWeb, series: Written, tmp_path: Path) -> None:
    web.add(*series.files)
    archive = open_archive(web.url)
    entry = the_series(archive, series.series_uid)
    web.before = slowly(0.3)
    steps = get_series(archive, entry, tmp_path / "out")
    next(steps)
    steps.close()
    with cancel_when(lambda: True), pytest.raises(Cancelled):
        finish(get_series(archive, entry, tmp_path / "out"))
    assert not visible(tmp_path / "out")


# ---------------------------------------------------------------- send


def test_files_are_stored_as_they_are_and_once(
    web: FakeWeb, series: Written, quick: Access
) -> None:
    archive = open_archive(web.url, quick)
    files = files_to_send([series.folder]).files
    web.add(series.files[0])
    states = [answer.state for answer in finish(send(archive, files))]
    assert states == ["there", "stored", "stored", "stored"]
    assert {one.data for one in web.stored} == {path.read_bytes() for path in series.files}
    assert {answer.state for answer in finish(send(archive, files))} == {"there"}
    assert sum(method == "POST" for method, _ in web.asked) == 3


def test_an_answer_that_was_lost_leads_to_no_second_copy(
    web: FakeWeb, series: Written, quick: Access
) -> None:
    posts = []

    def lose(method: str, path: str) -> Any:
        if method == "POST":
            posts.append(path)
            if len(posts) == 2:
                web.add(series.files[1])  # it arrived, but the answer says something else
                return 504, "text/plain", b"gateway"
        return None

    web.before = lose
    answers = finish(send(open_archive(web.url, quick), files_to_send(series.files).files))
    assert [answer.state for answer in answers] == ["stored"] * 4
    assert len(posts) == 4


def test_refused_objects_are_told_with_the_reason(web: FakeWeb, series: Written) -> None:
    failed = {
        "00081155": {"vr": "UI", "Value": ["1.2"]},
        "00081197": {"vr": "US", "Value": [0xA700]},
    }
    answer = as_json({"00081198": {"vr": "SQ", "Value": [failed]}})
    web.before = lambda m, p: (409, *answer[1:]) if m == "POST" else None
    answers = finish(send(open_archive(web.url), files_to_send([series.files[0]]).files))
    assert [(one.state, one.reason) for one in answers] == [("refused", "it has no room left")]


def test_an_expired_token_while_sending(web: FakeWeb, series: Written) -> None:
    web.before = lambda m, p: (401, "text/plain", b"") if m == "POST" else None
    with pytest.raises(ArchiveDenied, match="expired"):
        finish(send(open_archive(web.url), files_to_send(series.files).files))


# ---------------------------------------------------------------- secrets and certificates


def test_credentials_are_sent_and_nothing_else_has_them(
    web: FakeWeb, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for credentials, header in (
        (Credentials(token="hunter2"), "Bearer hunter2"),
        (Credentials(user="jane", password="hunter2"), "Basic amFuZTpodW50ZXIy"),
    ):
        access = Access(credentials=credentials)
        archive = open_archive(web.url, access)
        archive.find_studies(StudyQuery(patient_id="P-1", patient_name="Doe*"))
        assert web.headers[-1]["Authorization"] == header
        assert "hunter2" not in repr((access, credentials, archive, vars(archive)))
    text = caplog.text + "".join(str(vars(record)) for record in caplog.records)
    assert not any(secret in text for secret in ("hunter2", "amFuZTpod", "P-1", "Doe"))


def test_a_netrc_is_not_used(
    web: FakeWeb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: Access
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login jane password hunter2\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    open_archive(web.url, quick).echo()
    assert "Authorization" not in web.headers[-1]


def make_certificate(folder: Path, name: str) -> Path:
    """A certificate of its own authority for a host name or address, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tests")])
    try:
        other: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        other = x509.DNSName(name)
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([other]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{name}.pem"
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


def served(certificate: Path) -> FakeWeb:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return FakeWeb(context)


def test_tls_checks_the_authority_and_the_name(tmp_path: Path) -> None:
    here = make_certificate(tmp_path, "127.0.0.1")
    with served(here) as web:
        open_archive(web.url, Access(ca_file=here)).echo()
        with pytest.raises(ArchiveError, match="is not trusted"):
            open_archive(web.url).echo()
        with pytest.raises(ArchiveError, match=r"closed the connection|did not|cannot"):
            open_archive(web.url.replace("https", "http"), Access(timeout=1.0)).echo()
    elsewhere = make_certificate(tmp_path, "pacs.example")
    with served(elsewhere) as web, pytest.raises(ArchiveError, match="is for another host name"):
        open_archive(web.url, Access(ca_file=elsewhere)).echo()
    with FakeWeb() as web, pytest.raises(ArchiveError, match="does not speak TLS"):
        open_archive(web.url.replace("http", "https"), Access(timeout=2.0)).echo()


def test_files_that_are_no_certificates(tmp_path: Path) -> None:
    (tmp_path / "not.pem").write_text("nothing")
    for access in ({"ca_file": tmp_path / "not.pem"}, {"certificate": tmp_path / "not.pem"}):
        with pytest.raises(InputError, match=r"not\.pem: has no certificate"):
            open_archive("https://127.0.0.1/rs", Access(**access))
    with pytest.raises(InputError, match="no such file of certificates"):
        Access(ca_file=tmp_path / "absent.pem")
