"""A small DICOMweb server in a thread, which serves files and fails as it is told to."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pydicom

Answer = tuple[int, str, bytes]


@dataclass(frozen=True)
class Stored:
    """An instance of the server."""

    data: bytes = field(repr=False)
    study: str
    series: str
    sop: str
    header: pydicom.Dataset = field(repr=False)

    @classmethod
    def of(cls, data: bytes) -> Stored:
        header = pydicom.dcmread(BytesIO(data), stop_before_pixels=True)
        return cls(
            data,
            header.StudyInstanceUID,
            header.SeriesInstanceUID,
            header.SOPInstanceUID,
            header,
        )


class FakeWeb:
    """Serves the instances in ``stored``.

    ``before`` may answer a request itself: it takes method and path, and returns status, content
    type and body, or None. ``cut`` breaks the body of an answer off after so many bytes, once.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.stored: list[Stored] = []
        #: Requests as they came: method and path with query.
        self.asked: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.before: Callable[[str, str], Answer | None] = lambda method, path: None
        self.cut: int | None = None
        #: Most answers to one query, as some servers limit it.
        self.page: int | None = None
        #: What NumberOfSeriesRelatedInstances claims beyond what there is.
        self.boast = 0
        #: Whether it claims anything of the kind.
        self.counts = True
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                fake._answer(self, "GET", b"")

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                fake._answer(self, "POST", body)

            def log_message(self, *arguments: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # clients that hang up

        self.server = Server(("127.0.0.1", 0), Handler)
        if tls is not None:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}/dicom-web"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))

    def __enter__(self) -> FakeWeb:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()

    def add(self, *paths: Path) -> None:
        self.stored += [Stored.of(path.read_bytes()) for path in paths]

    def paths(self, word: str) -> list[str]:
        """Paths of requests that contain a word."""
        return [path for _, path in self.asked if word in path]

    # ------------------------------------------------------------ answers

    def _answer(self, handler: BaseHTTPRequestHandler, method: str, body: bytes) -> None:
        path = handler.path.removeprefix("/dicom-web")
        self.asked.append((method, path))
        self.headers.append(dict(handler.headers))
        status, kind, data = self.before(method, path) or self._usual(method, path, body)
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        cut, self.cut = (
            self.cut if kind.startswith("multipart") else None,
            (None if kind.startswith("multipart") else self.cut),
        )
        if cut is not None:
            data = data[:cut]
            handler.close_connection = True
        handler.wfile.write(data)

    def _usual(self, method: str, path: str, body: bytes) -> Answer:
        parts = urlsplit(path)
        words = parts.path.strip("/").split("/")
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        if method == "POST":
            return self._store(body)
        found = list(self.stored)
        for name, index in (("study", 1), ("series", 3), ("sop", 5)):
            if len(words) > index:
                found = [one for one in found if getattr(one, name) == words[index]]
        if words[0] == "series":
            words = ["studies", "any", "series"]
        if not found and len(words) > 1:
            return 404, "text/plain", b"no such thing"
        if len(words) % 2:  # ends with studies, series or instances
            return self._query(words[-1], found, query)
        return multipart([one.data for one in found])

    def _query(self, level: str, found: list[Stored], query: dict[str, str]) -> Answer:
        keyword = {"studies": "study", "series": "series", "instances": "sop"}[level]
        groups: dict[tuple[str, str], list[Stored]] = {}
        for one in found:
            groups.setdefault((one.study, getattr(one, keyword)), []).append(one)
        boast = self.boast if self.counts else None
        answers = [describe(group, boast) for group in groups.values()]
        for key, tag in (("PatientID", "00100020"), ("SeriesInstanceUID", "0020000E")):
            if key in query:
                answers = [a for a in answers if a[tag]["Value"][0] == query[key]]
        first = int(query.get("offset", 0))
        most = min(int(query.get("limit", 10**6)), self.page or 10**6)
        return as_json(answers[first : first + most])

    def _store(self, body: bytes) -> Answer:
        start = body.index(b"\r\n\r\n") + 4
        end = body.rindex(b"\r\n--")
        one = Stored.of(body[start:end])
        if all(other.sop != one.sop for other in self.stored):
            self.stored.append(one)
        stored = {
            "00081150": {"vr": "UI", "Value": [one.header.SOPClassUID]},
            "00081155": {"vr": "UI", "Value": [one.sop]},
        }
        return as_json({"00081199": {"vr": "SQ", "Value": [stored]}})


def as_json(value: Any) -> Answer:
    return 200, "application/dicom+json", json.dumps(value).encode()


def multipart(bodies: list[bytes]) -> Answer:
    parts = [b"--edge\r\nContent-Type: application/dicom\r\n\r\n" + body for body in bodies]
    data = b"\r\n".join([*parts, b"--edge--\r\n"])
    return 200, 'multipart/related; type="application/dicom"; boundary="edge"', data


def describe(group: list[Stored], boast: int | None) -> dict[str, Any]:
    header = group[0].header
    keywords = ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"]
    keywords += ["PatientID", "StudyDate", "Modality", "InstanceNumber", "SeriesDescription"]
    answer: dict[str, Any] = {}
    for keyword in keywords:
        if keyword in header:
            element = header[keyword]
            value = element.value
            answer[f"{element.tag:08X}"] = {
                "vr": element.VR,
                "Value": [int(value) if element.VR == "IS" else str(value)],
            }
    answer["00100010"] = {"vr": "PN", "Value": [{"Alphabetic": str(header.PatientName)}]}
    answer["00080061"] = {"vr": "CS", "Value": [str(header.Modality)]}
    if boast is not None:
        answer["00201209"] = {"vr": "IS", "Value": [len(group) + boast]}
    return answer


def slowly(seconds: float) -> Callable[[str, str], None]:
    """For ``before``: wait before each answer."""

    def wait(method: str, path: str) -> None:
        time.sleep(seconds)

    return wait
