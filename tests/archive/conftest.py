"""Archives to ask: Orthanc where it is installed, and small fakes for what it does not do."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keyring
import keyring.backend
import numpy as np
import pydicom
import pytest
import requests
from pydicom.uid import generate_uid
from pynetdicom.transport import AssociationSocket

from napari_spatial_ar.archive.access import Access
from tests.archive.fake_web import FakeWeb
from tests.scans import build_image

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "orthanc.sh"
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test that opens a network connection, but to this machine's own loopback."""
    connect = socket.socket.connect

    def connect_here(self: socket.socket, address: Any) -> None:
        inet = self.family in (socket.AF_INET, socket.AF_INET6)
        if inet and address[0] not in ("127.0.0.1", "::1", "localhost"):
            self.close()
            pytest.fail(f"a test reached for the network: {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_here)


@pytest.fixture(autouse=True)
def sockets_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Close what pynetdicom leaves to the collector: sockets that were never connected."""

    def close(self: AssociationSocket) -> None:
        if self.socket is not None:
            with suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)
            self.socket.close()

    monkeypatch.setattr(AssociationSocket, "_shutdown_socket", close)


class MemoryKeyring(keyring.backend.KeyringBackend):
    """A keyring that lasts as long as a test."""

    priority = 1.0  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.kept[service, username]


@pytest.fixture(autouse=True)
def kept_secrets() -> Iterator[MemoryKeyring]:
    """A keyring of the test's own, in place of the user's."""
    before = keyring.get_keyring()
    made = MemoryKeyring()
    keyring.set_keyring(made)
    yield made
    keyring.set_keyring(before)


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own: saved archives and the cache."""
    home = tmp_path / "home"
    monkeypatch.setenv("NAPARI_SPATIAL_AR_HOME", str(home))
    return home


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Written:
    """A series that a test wrote."""

    folder: Path
    study_uid: str
    series_uid: str
    files: list[Path] = field(repr=False)


def write_series(folder: Path, slices: int = 4, size: int = 16, **tags: Any) -> Written:
    """A series of small images of one patient, each slice of another grey."""
    folder.mkdir(parents=True, exist_ok=True)
    tags = {
        "StudyInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(),
        "PatientID": "P-1",
        "PatientName": "Doe^Jane",
        "AccessionNumber": "A-1",
        "StudyID": "1",
        "StudyDate": "20260102",
        "StudyTime": "101112",
        "StudyDescription": "Head",
        "SeriesDescription": "FLAIR",
        "SeriesNumber": 3,
        "Modality": "MR",
        "FrameOfReferenceUID": generate_uid(),
        **tags,
    }
    files = []
    for number in range(slices):
        pixels = np.full((size, size), 100 * (number % 600) + 7, np.uint16)
        pixels[number % size, :] = 11
        image = build_image(
            pixels,
            ImagePositionPatient=[0.0, 0.0, 3.0 * number],
            ImageOrientationPatient=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
            PixelSpacing=[1.0, 1.0],
            SliceThickness=3.0,
            InstanceNumber=number + 1,
            **tags,
        )
        files.append(folder / f"{number:04}.dcm")
        pydicom.dcmwrite(files[-1], image, enforce_file_format=True)
    return Written(folder, tags["StudyInstanceUID"], tags["SeriesInstanceUID"], files)


@pytest.fixture
def series(tmp_path: Path) -> Written:
    return write_series(tmp_path / "source")


@pytest.fixture
def web() -> Iterator[FakeWeb]:
    """A small DICOMweb server that can be told to fail."""
    with FakeWeb() as server:
        yield server


@pytest.fixture
def quick() -> Access:
    """Time-outs for servers of a test."""
    return Access(timeout=5.0, retries=1)


@dataclass
class Orthanc:
    """An Orthanc server of the tests."""

    folder: Path
    http: int
    dicom: int
    move: int
    options: tuple[str, ...] = ()

    @property
    def web(self) -> str:
        secure = "s" if "--tls" in self.options else ""
        return f"http{secure}://127.0.0.1:{self.http}/dicom-web"

    @property
    def dimse(self) -> str:
        return f"dicom://ORTHANC@127.0.0.1:{self.dicom}"

    def start(self) -> None:
        command = [SCRIPT, "start", self.folder, "--http", self.http, "--dicom", self.dicom]
        command += ["--peer", f"NSAR:{self.move}", *self.options]
        subprocess.run([*map(str, command)], check=True, capture_output=True)

    def stop(self) -> None:
        subprocess.run([str(SCRIPT), "stop", str(self.folder)], check=True)

    def clear(self) -> None:
        """Remove all that is stored."""
        root = f"http://127.0.0.1:{self.http}"
        for patient in requests.get(f"{root}/patients", timeout=10).json():
            requests.delete(f"{root}/patients/{patient}", timeout=10).raise_for_status()

    def count(self, modality: str | None = None) -> int:
        """Instances that are stored, of one modality or of all."""
        root = f"http://127.0.0.1:{self.http}"
        if modality is None:
            return int(requests.get(f"{root}/statistics", timeout=10).json()["CountInstances"])
        found = requests.get(f"{root}/series?expand", timeout=10).json()
        return sum(
            len(one["Instances"])
            for one in found
            if one["MainDicomTags"].get("Modality") == modality
        )


def need_orthanc() -> None:
    program = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")
    if program is None or not PLUGIN.exists():
        pytest.skip("needs the Debian packages orthanc and orthanc-dicomweb")


@pytest.fixture(scope="session")
def make_orthanc(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., Orthanc]]:
    """Starts Orthanc servers, which are stopped at the end."""
    need_orthanc()
    started: list[Orthanc] = []

    def make(*options: str) -> Orthanc:
        folder = tmp_path_factory.mktemp("orthanc")
        made = Orthanc(folder, free_port(), free_port(), free_port(), options)
        started.append(made)
        made.start()
        return made

    yield make
    for one in started:
        one.stop()


@pytest.fixture(scope="session")
def one_orthanc(make_orthanc: Callable[..., Orthanc]) -> Orthanc:
    return make_orthanc()


@pytest.fixture
def orthanc(one_orthanc: Orthanc) -> Orthanc:
    """An Orthanc server that has nothing yet."""
    one_orthanc.clear()
    return one_orthanc


@pytest.fixture
def dcmtk() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a program of dcmtk; the test is skipped without it."""
    if shutil.which("storescu") is None:
        pytest.skip("needs the Debian package dcmtk")

    def run(program: str, *arguments: object, check: bool = True) -> Any:
        command = [program, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=check, timeout=60)

    return run
