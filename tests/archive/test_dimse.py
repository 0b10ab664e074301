"""DIMSE archives: dcmtk's and small ones that fail, each with a sentence of its own."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless
from pynetdicom import AE, build_context, evt
from pynetdicom.acse import ACSE

from napari_spatial_ar.archive import dimse, jobs
from napari_spatial_ar.archive.access import Access, Credentials
from napari_spatial_ar.archive.entries import SeriesEntry, StudyQuery
from napari_spatial_ar.archive.opening import open_archive
from napari_spatial_ar.archive.retrieval import get_series, the_series
from napari_spatial_ar.archive.sending import files_to_send, send
from napari_spatial_ar.errors import ArchiveError, ArchiveUnreachable, InputError
from napari_spatial_ar.steps import finish
from tests.archive.conftest import Orthanc, Written, free_port, write_series
from tests.archive.test_dicomweb import make_certificate

MR = "1.2.840.10008.5.1.4.1.1.4"
Handler = Callable[[Any], Any]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_FIRST_WAIT_SECONDS", 0.01)


@contextmanager
def peer(
    *handlers: tuple[Any, Handler],
    classes: tuple[str, ...] = (dimse.VERIFICATION, dimse.FIND, dimse.GET, dimse.MOVE, MR),
    syntaxes: tuple[str, ...] = (ExplicitVRLittleEndian, ImplicitVRLittleEndian),
    tls: ssl.SSLContext | None = None,
) -> Iterator[str]:
    """A DICOM server that does what its handlers do; yields its URL."""
    ae = AE("PEER")
    for name in classes:
        ae.add_supported_context(name, list(syntaxes), scu_role=True, scp_role=True)
    server = ae.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=list(handlers), ssl_context=tls
    )
    try:
        yield f"dicom{'s' if tls else ''}://PEER@127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()


def found(series: Written, level: str = "IMAGE") -> list[pydicom.Dataset]:
    """Answers to C-FIND on a series' instances, or on the series."""
    answers = []
    for path in series.files if level == "IMAGE" else series.files[:1]:
        answer = pydicom.dcmread(path, stop_before_pixels=True)
        answer.QueryRetrieveLevel = level
        answer.NumberOfSeriesRelatedInstances = len(series.files)
        answers.append(answer)
    return answers


def finds(series: Written) -> tuple[Any, Handler]:
    def handle(event: Any) -> Iterator[tuple[int, Any]]:
        for answer in found(series, event.identifier.QueryRetrieveLevel):
            yield 0xFF00, answer

    return evt.EVT_C_FIND, handle


# ---------------------------------------------------------------- other programs


def test_a_wrong_ae_title(orthanc: Orthanc) -> None:
    wrong = orthanc.dimse.replace("ORTHANC", "OTHER")
    with pytest.raises(ArchiveError, match="is not called 'OTHER': the AE title in the URL"):
        open_archive(wrong).echo()


def test_a_rejection_that_comes_before_we_wait_for_it(
    orthanc: Orthanc, monkeypatch: pytest.MonkeyPatch
) -> None:
    send_request = ACSE.send_request

    def slowly(self: ACSE) -> None:
        send_request(self)
        time.sleep(0.5)  # the answer comes, and the connection is closed

    monkeypatch.setattr(ACSE, "send_request", slowly)
    with pytest.raises(ArchiveError, match="is not called 'OTHER': the AE title in the URL"):
        open_archive(orthanc.dimse.replace("ORTHANC", "OTHER")).echo()


def test_an_ae_title_of_ours_that_may_not_query(orthanc: Orthanc) -> None:
    archive = open_archive(orthanc.dimse, Access(aet="STRANGER", retries=0))
    archive.echo()
    with pytest.raises(ArchiveError, match="ask its administrator what 'STRANGER' may do"):
        archive.find_studies(StudyQuery())


@contextmanager
def quietly(*command: object) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs meanwhile."""
    process = subprocess.Popen(
        [*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def answering(port: int) -> None:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
        else:
            return


def test_a_server_that_only_stores(
    dcmtk: Callable[..., Any], series: Written, tmp_path: Path
) -> None:
    port, out = free_port(), tmp_path / "stored"
    out.mkdir()
    with quietly("storescp", "--fork", "-od", out, port):
        answering(port)
        archive = open_archive(f"dicom://STORESCP@127.0.0.1:{port}", Access(retries=0))
        archive.echo()
        answers = finish(send(archive, files_to_send([series.folder]).files))
        with pytest.raises(ArchiveError, match=r"Query/Retrieve .*FIND"):
            archive.find_studies(StudyQuery())
    assert [answer.state for answer in answers] == ["stored"] * 4
    kept = {path.name: pydicom.dcmread(path).PixelData for path in out.iterdir()}
    assert sorted(kept.values()) == sorted(pydicom.dcmread(p).PixelData for p in series.files)


@pytest.fixture(params=["--disable-get", "--no-parallel-store"])
def dcmqrscp(
    request: pytest.FixtureRequest, dcmtk: Callable[..., Any], series: Written, tmp_path: Path
) -> Iterator[tuple[str, Access]]:
    """dcmtk's archive with the series, with C-MOVE only and with C-GET."""
    port, move, storage = free_port(), free_port(), tmp_path / "archive"
    storage.mkdir()
    config = tmp_path / "dcmqrscp.cfg"
    config.write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n"
        f"HostTable BEGIN\nus = (NSAR, 127.0.0.1, {move})\nHostTable END\n"
        f"VendorTable BEGIN\nVendorTable END\n"
        f"AETable BEGIN\nQRSCP {storage} RW (200, 1024mb) ANY\nAETable END\n"
    )
    with quietly("dcmqrscp", "-c", config, request.param):
        answering(port)
        dcmtk("storescu", "-aec", "QRSCP", "127.0.0.1", port, *series.files)
        yield f"dicom://QRSCP@127.0.0.1:{port}", Access(receive_port=move, timeout=10.0)


def test_dcmtks_archive_by_get_and_by_move(
    dcmqrscp: tuple[str, Access], series: Written, tmp_path: Path
) -> None:
    archive = open_archive(*dcmqrscp)
    (study,) = archive.find_studies(StudyQuery(patient_id="P-1")).studies
    (entry,) = archive.find_series(study.study_uid)
    got = finish(get_series(archive, entry, tmp_path / "out"))
    assert got.instances == 4
    data = {pydicom.dcmread(path).PixelData for path in got.folder.iterdir()}
    assert data == {pydicom.dcmread(path).PixelData for path in series.files}


def test_dcmtks_archive_that_does_not_know_us(
    dcmqrscp: tuple[str, Access], series: Written, tmp_path: Path, request: Any
) -> None:
    if "--disable-get" not in request.node.name:
        return
    url, access = dcmqrscp
    archive = open_archive(url, Access(aet="OTHER", receive_port=access.receive_port, retries=0))
    entry = SeriesEntry(series.study_uid, series.series_uid)
    with pytest.raises(ArchiveError, match="add our AE title 'OTHER' with this machine's address"):
        finish(get_series(archive, entry, tmp_path / "out"))


# ---------------------------------------------------------------- what goes wrong


def test_closed_ports_and_unknown_hosts() -> None:
    with pytest.raises(ArchiveUnreachable, match="the connection was refused"):
        open_archive(f"dicom://A@127.0.0.1:{free_port()}").echo()
    with pytest.raises(ArchiveUnreachable, match=r"the host of .* is not known"):
        open_archive("dicom://A@no.such.host.invalid:104").echo()


def test_a_server_that_says_nothing() -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        url = f"dicom://A@127.0.0.1:{mute.getsockname()[1]}"
        with pytest.raises(ArchiveUnreachable, match="did not answer the association request"):
            open_archive(url, Access(timeout=0.5)).echo()


def test_a_server_slower_than_the_time_out(series: Written, tmp_path: Path) -> None:
    release = threading.Event()

    def wait(event: Any) -> Iterator[tuple[int, Any]]:
        release.wait(3)
        yield 0x0000, None

    with peer((evt.EVT_C_FIND, wait)) as url:
        with pytest.raises(ArchiveUnreachable, match=r"did not answer within 0\.5 seconds"):
            open_archive(url, Access(timeout=0.5)).find_studies(StudyQuery())
        release.set()


def test_a_transfer_that_breaks_off_in_the_middle_goes_on(series: Written, tmp_path: Path) -> None:
    tries = []

    def some(event: Any) -> Iterator[Any]:
        tries.append(event.identifier.QueryRetrieveLevel)
        wanted = event.identifier.get("SOPInstanceUID") or []
        wanted = [wanted] if isinstance(wanted, str) else list(wanted)
        images = [pydicom.dcmread(path) for path in series.files]
        images = [one for one in images if not wanted or one.SOPInstanceUID in wanted]
        yield len(images)
        for number, image in enumerate(images):
            if number == 2 and len(tries) == 1:
                event.assoc.abort()
                return
            yield 0xFF00, image

    with peer(finds(series), (evt.EVT_C_GET, some)) as url:
        archive = open_archive(url, Access(timeout=10.0, retries=2))
        entry = the_series(archive, series.series_uid)
        got = finish(get_series(archive, entry, tmp_path / "out"))
    assert got.instances == 4
    assert tries == ["SERIES", "IMAGE"]


def moves(series: Written, port: int, pause: float, stop: threading.Event) -> tuple[Any, Handler]:
    """C-MOVE that answers only at its end, after a pause before each image."""

    def handle(event: Any) -> Iterator[Any]:
        yield "127.0.0.1", port
        ae = AE("PEER")
        association = ae.associate(
            "127.0.0.1", port, [build_context(MR, [ExplicitVRLittleEndian])], ae_title="NSAR"
        )
        for path in series.files:
            if stop.wait(pause):
                break
            association.send_c_store(path)
        association.release()
        yield 0

    return evt.EVT_C_MOVE, handle


def test_a_move_that_answers_last_takes_as_long_as_images_come(
    series: Written, tmp_path: Path
) -> None:
    port = free_port()
    classes = (dimse.VERIFICATION, dimse.FIND, dimse.MOVE)
    access = Access(timeout=2.0, retries=0, receive_port=port)
    stop = threading.Event()
    with peer(finds(series), moves(series, port, 0.7, stop), classes=classes) as url:
        archive = open_archive(url, access)
        entry = the_series(archive, series.series_uid)
        assert finish(get_series(archive, entry, tmp_path / "out")).instances == 4
    with peer(finds(series), moves(series, port, 30.0, stop), classes=classes) as url:
        with pytest.raises(ArchiveUnreachable, match="did not answer within 2 seconds"):
            finish(get_series(open_archive(url, access), entry, tmp_path / "other"))
        stop.set()


def test_half_of_what_was_asked_is_not_shown(series: Written, tmp_path: Path) -> None:
    def half(event: Any) -> Iterator[Any]:
        yield 2
        for path in series.files[:2]:
            yield 0xFF00, pydicom.dcmread(path)

    with peer(finds(series), (evt.EVT_C_GET, half)) as url:
        archive = open_archive(url, Access(timeout=10.0, retries=1))
        entry = the_series(archive, series.series_uid)
        with pytest.raises(ArchiveError, match="did not send 2 of the 4 images"):
            finish(get_series(archive, entry, tmp_path / "out"))
    assert not [path for path in (tmp_path / "out").iterdir() if path.name[0] != "."]


def test_an_image_of_another_patient(series: Written, tmp_path: Path) -> None:
    def mixed(event: Any) -> Iterator[Any]:
        yield 2
        for number, path in enumerate(series.files[:2]):
            image = pydicom.dcmread(path)
            image.PatientID = f"P-{number}"
            yield 0xFF00, image

    with peer(finds(series), (evt.EVT_C_GET, mixed)) as url:
        archive = open_archive(url, Access(timeout=10.0))
        entry = the_series(archive, series.series_uid)
        with pytest.raises(ArchiveError, match="images of more than one patient"):
            finish(get_series(archive, entry, tmp_path / "out"))


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0xA700, "it has no resources left"),
        (0x0124, "we are not allowed to do this"),
        (0xC123, "it does not understand the object"),
        (0x0111, "it has another object of this UID"),
    ],
)
def test_refused_objects(series: Written, status: int, words: str) -> None:
    with peer((evt.EVT_C_STORE, lambda event: status)) as url:
        archive = open_archive(url, Access(retries=0))
        answers = finish(send(archive, files_to_send([series.files[0]]).files))
    assert answers[0].state == "refused"
    assert words in answers[0].reason


def test_kinds_and_encodings_that_a_server_does_not_take(series: Written, tmp_path: Path) -> None:
    image = pydicom.dcmread(write_series(tmp_path / "large", 1, size=64).files[0])
    image.compress(JPEG2000Lossless, generate_instance_uid=False)
    image.save_as(tmp_path / "packed.dcm")
    packed = files_to_send([tmp_path / "packed.dcm"]).files
    plain = files_to_send([series.files[1]]).files
    came: list[Any] = []

    def keep(event: Any) -> int:
        came.append((event.context.transfer_syntax, event.dataset.PixelData))
        return 0x0000

    with peer((evt.EVT_C_STORE, keep), syntaxes=(ImplicitVRLittleEndian,)) as url:
        archive = open_archive(url, Access(retries=0))
        (answer,) = finish(send(archive, packed))
        assert answer.reason == "it does not store the transfer syntax JPEG 2000 Image " + (
            "Compression (Lossless Only)"
        )
        # Implicit VR is what every server takes (PS3.5 10.1).
        assert finish(send(archive, plain))[0].state == "stored"
    assert came == [(ImplicitVRLittleEndian, pydicom.dcmread(series.files[1]).PixelData)]
    classes = (dimse.VERIFICATION, "1.2.840.10008.5.1.4.1.1.2")
    with peer((evt.EVT_C_STORE, keep), classes=classes) as url:
        (answer,) = finish(send(open_archive(url, Access(retries=0)), plain))
    assert answer.reason == "it does not store objects of this kind"


def test_an_association_that_breaks_while_sending(series: Written) -> None:
    kept: list[str] = []

    def keep(event: Any) -> int:
        kept.append(str(event.dataset.SOPInstanceUID))
        if len(kept) == 2:
            event.assoc.abort()
        return 0x0000

    def there(event: Any) -> Iterator[tuple[int, Any]]:
        for answer in found(series):
            if answer.SOPInstanceUID in kept:
                yield 0xFF00, answer

    files = files_to_send(series.files).files
    with peer((evt.EVT_C_STORE, keep), (evt.EVT_C_FIND, there)) as url:
        answers = finish(send(open_archive(url, Access(timeout=10.0, retries=2)), files))
    assert [answer.state for answer in answers] == ["stored"] * 4
    assert len(kept) == len(set(kept)) == 4
    kept.clear()
    stored = pytest.raises(ArchiveError, match="after 1 of 4 files were stored")
    with peer((evt.EVT_C_STORE, keep), classes=(MR,)) as url, stored:  # which cannot be asked
        finish(send(open_archive(url, Access(timeout=10.0, retries=2)), files))
    assert len(kept) == 2


def test_tls_checks_the_authority_and_the_name(tmp_path: Path) -> None:
    assert ipaddress.ip_address("127.0.0.1").is_loopback
    for name, words in (("127.0.0.1", ""), ("pacs.example", "is for another host name")):
        certificate = make_certificate(tmp_path, name)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        with peer(tls=context) as url:
            archive = open_archive(url, Access(ca_file=certificate, timeout=10.0))
            if not words:
                archive.echo()
                with pytest.raises(ArchiveError, match="is not trusted"):
                    open_archive(url, Access(timeout=10.0)).echo()
                continue
            with pytest.raises(ArchiveError, match=words):
                archive.echo()
    with peer() as url, pytest.raises(ArchiveError, match=r"does not speak TLS|did not answer"):
        open_archive(url.replace("dicom:", "dicoms:"), Access(timeout=1.0)).echo()


def test_passwords_are_not_for_dimse() -> None:
    with pytest.raises(InputError, match="no passwords or tokens"):
        open_archive("dicom://A@127.0.0.1:104", Access(credentials=Credentials(token="x")))
