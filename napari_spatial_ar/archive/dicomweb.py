"""An archive that speaks DICOMweb: QIDO-RS, WADO-RS and STOW-RS (PS3.18 10)."""

from __future__ import annotations

import json
import logging
import re
import ssl
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from itertools import islice
from typing import Any

import requests
from dicomweb_client.web import DICOMwebClient
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase, HTTPBasicAuth

from napari_spatial_ar.archive.access import Access, Credentials
from napari_spatial_ar.archive.address import Address
from napari_spatial_ar.archive.entries import (
    InstanceEntry,
    SeriesEntry,
    StudyEntry,
    StudyQuery,
)
from napari_spatial_ar.archive.interface import Found, Receive, SentFile, ToSend
from napari_spatial_ar.archive.jobs import Hiccup, Job, again, run_jobs
from napari_spatial_ar.archive.multipart import FileBody, boundary_of, media_type, receive_parts
from napari_spatial_ar.errors import ArchiveDenied, ArchiveError, ArchiveUnreachable

__all__ = ["DicomWeb"]

# They write URLs, which contain patient IDs and names, into logs.
for _name in ("urllib3.connectionpool", "dicomweb_client", "dicomweb_client.web", "retrying"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)

# What was read of a piece in which the connection breaks is lost.
_PIECE = 1 << 17
_MOST_THUMBNAIL = 4 << 20
_MOST_ANSWER = 1 << 20
# As stored, whatever the transfer syntax (PS3.18 8.7.3.5.2), and one that older servers know.
_AS_STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_JSON = "application/dicom+json"
_PAGE = 1000
_VIEWPORT = "128,128"
# Status codes of a server that may do better later.
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_STUDY_FIELDS = (
    *("StudyInstanceUID", "PatientName", "PatientID", "AccessionNumber", "StudyDate", "StudyTime"),
    *("StudyDescription", "ModalitiesInStudy", "NumberOfStudyRelatedSeries"),
    "NumberOfStudyRelatedInstances",
)
_SERIES_FIELDS = (
    *("StudyInstanceUID", "SeriesInstanceUID", "Modality", "SeriesDescription", "SeriesNumber"),
    *("BodyPartExamined", "NumberOfSeriesRelatedInstances"),
)
_INSTANCE_FIELDS = ("SOPInstanceUID", "SOPClassUID", "InstanceNumber")
_TAGS = {
    **{"StudyInstanceUID": "0020000D", "SeriesInstanceUID": "0020000E"},
    **{"SOPInstanceUID": "00080018", "SOPClassUID": "00080016", "InstanceNumber": "00200013"},
    **{"PatientName": "00100010", "PatientID": "00100020", "AccessionNumber": "00080050"},
    **{"StudyDate": "00080020", "StudyTime": "00080030", "StudyDescription": "00081030"},
    **{"ModalitiesInStudy": "00080061", "Modality": "00080060", "SeriesNumber": "00200011"},
    **{"SeriesDescription": "0008103E", "BodyPartExamined": "00180015"},
    **{"NumberOfStudyRelatedSeries": "00201206", "NumberOfStudyRelatedInstances": "00201208"},
    "NumberOfSeriesRelatedInstances": "00201209",
}
# Reasons of a STOW-RS response (PS3.18 10.5.3 and PS3.3 C.14-1).
_FAILURES = {
    0x0110: "it failed to process the object",
    0x0111: "it has another object of this UID",
    0x0122: "it does not store objects of this kind",
    0x0124: "we are not allowed to store there",
    0x0212: "the object is not valid for it",
    0xA700: "it has no room left",
    0xC122: "it does not store this transfer syntax",
}


class _Bearer(AuthBase):
    """A token, or nothing: in place of what a .netrc of the user says."""

    def __init__(self, token: str = "") -> None:
        self._token = token

    def __call__(self, request: Any) -> Any:
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


# Characters that may stand in a query as they are (RFC 3986 3.4), and the blank.
_PLAIN = {"%2A": "*", "%2C": ",", "%3A": ":", "%3F": "?", "%40": "@", "%2F": "/", "+": "%20"}

_NOT_PLAIN = re.compile(r"[^A-Za-z0-9 _.~*,:?@/-]")


class _Session(requests.Session):
    """A session whose certificates are those given, whatever the environment names."""

    def prepare_request(self, request: Any) -> Any:
        """Escape no more of a query than needed: Orthanc 1.10 does not undo it."""
        path, mark, query = request.url.partition("?")
        for escaped, plain in _PLAIN.items():
            query = query.replace(escaped, plain)
        request.url = path + mark + query
        return super().prepare_request(request)

    def merge_environment_settings(self, *arguments: Any, **keywords: Any) -> Any:
        """Merge those of the environment, but not its certificates."""
        merged = super().merge_environment_settings(*arguments, **keywords)
        if self.verify is not True:
            merged["verify"] = self.verify
        return merged


class DicomWeb:
    """An archive that speaks DICOMweb; see `Archive`.

    Parameters
    ----------
    address : Address
        Where it is.
    access : Access
        How it may be reached.
    credentials : Credentials, optional
        Token, or user and password.
    """

    def __init__(self, address: Address, access: Access, credentials: Credentials | None) -> None:
        self.url = address.url
        self.retries = access.retries
        self._access = access
        access.tls()  # says what is wrong with the files
        self._session = _Session()
        self._session.mount(f"{'https' if address.tls else 'http'}://", _adapter(access.parallel))
        if access.ca_file is not None:
            self._session.verify = str(access.ca_file)
        if access.certificate is not None:
            pair = (str(access.certificate), str(access.key or access.certificate))
            self._session.cert = pair
        self._session.auth = _auth(credentials)
        self._timeout = (min(access.timeout, 10.0), access.timeout)
        self._client = DICOMwebClient(
            address.url, session=self._session, permissive_uid=True, timeout=self._timeout
        )
        self._client.set_http_retry_params(retry=False)  # our own can be cancelled

    def __repr__(self) -> str:
        return f"DicomWeb({self.url!r})"

    def echo(self) -> None:
        """Check that it answers a query, see `Archive`."""
        search = partial(self._client.search_for_studies, limit=1)
        again(partial(self._search, search), self.retries)

    # ------------------------------------------------------------ find

    def find_studies(self, query: StudyQuery, *, limit: int = 500) -> Found:
        """Find studies, see `Archive`."""
        filters = {
            "PatientID": query.patient_id,
            # No query has these characters as they are, and Orthanc 1.10 does not undo escapes.
            "PatientName": _NOT_PLAIN.sub("?", query.patient_name),
            "AccessionNumber": query.accession,
            "StudyDate": "" if query.dates is None else str(query.dates),
            "ModalitiesInStudy": query.modality,
            "StudyInstanceUID": query.study_uid,
        }
        search = partial(
            self._client.search_for_studies,
            fields=list(_STUDY_FIELDS),
            search_filters={key: value for key, value in filters.items() if value},
        )
        found: dict[str, StudyEntry] = {}
        for answer in self._pages(search, limit=limit + 1):
            study = _study(answer)
            if study.study_uid and query.admits(study):
                found[study.study_uid] = study
            if len(found) > limit:
                break
        return Found(tuple(found.values())[:limit], len(found) > limit)

    def find_series(self, study_uid: str = "", series_uid: str = "") -> tuple[SeriesEntry, ...]:
        """Find series, see `Archive`."""
        search = partial(
            self._client.search_for_series,
            study_instance_uid=study_uid or None,
            fields=list(_SERIES_FIELDS),
            search_filters={"SeriesInstanceUID": series_uid} if series_uid else {},
        )
        answers = self._pages(search, may_be_gone=bool(study_uid))
        found = (_series(answer, study_uid) for answer in answers)
        return tuple(
            entry
            for entry in found
            if entry.series_uid
            and series_uid in ("", entry.series_uid)
            and study_uid in ("", entry.study_uid)
        )

    def find_instances(self, series: SeriesEntry) -> tuple[InstanceEntry, ...]:
        """Find instances, see `Archive`."""
        search = partial(
            self._client.search_for_instances,
            series.study_uid,
            series.series_uid,
            fields=list(_INSTANCE_FIELDS),
        )
        answers = self._pages(search, count=series.instances, may_be_gone=True)
        entries = (_instance(answer) for answer in answers)
        return tuple(entry for entry in entries if entry.sop_uid)

    def _pages(
        self,
        search: Callable[..., Any],
        *,
        limit: int | None = None,
        count: int | None = None,
        may_be_gone: bool = False,
    ) -> Iterator[Mapping[str, Any]]:
        """Answers of a search, page by page: a server may send fewer at once than there are.

        ``count`` is how many there should be, which saves asking for more of them.
        """
        size = _PAGE if limit is None else min(limit, _PAGE)
        seen: set[str] = set()
        while True:
            asked = partial(search, limit=size, offset=len(seen))
            page = again(partial(self._search, asked, may_be_gone), self.retries)
            fresh = {_key(answer): answer for answer in page if _key(answer) not in seen}
            seen |= fresh.keys()
            yield from fresh.values()
            # A short page may be the server's own limit; one that ignores offsets sends the same.
            if not fresh or (len(page) < size and len(seen) == count):
                return

    def _search(
        self, search: Callable[..., Any], may_be_gone: bool = False
    ) -> list[Mapping[str, Any]]:
        with self._sentences():
            try:
                answers = search()
            except requests.HTTPError as error:
                if error.response is None or error.response.status_code != 404:
                    raise
                if may_be_gone:
                    return []
                raise ArchiveError(
                    f"there is no DICOMweb service at {self.url}",
                    fix="Check the URL: that of Orthanc ends with /dicom-web",
                ) from None
            except RecursionError:
                raise _not_dicomweb(self.url, "JSON that is nested too deeply") from None
        if not isinstance(answers, list) or not all(isinstance(one, dict) for one in answers):
            raise _not_dicomweb(self.url, "something else than a list")
        return answers

    # ------------------------------------------------------------ get

    def thumbnail(self, series: SeriesEntry) -> bytes | None:
        """Picture of the middle image (WADO-RS rendered), see `Archive`."""
        listed = sorted(self.find_instances(series), key=lambda entry: entry.number or 0)
        if not listed:
            return None
        middle = listed[len(listed) // 2].sop_uid
        # Orthanc takes no encoded comma.
        url = f"{self._of(series)}/instances/{middle}/rendered?viewport={_VIEWPORT}"
        headers = {"Accept": "image/jpeg"}  # Orthanc refuses a list
        with self._sentences(), self._get(url, headers) as answer:
            if answer.status_code in (400, 404, 405, 406, 415, 500, 501):
                return None
            answer.raise_for_status()
            if not media_type(answer.headers.get("Content-Type", "")).startswith("image/"):
                return None
            data = b""
            for piece in answer.iter_content(_PIECE):
                data += piece
                if len(data) > _MOST_THUMBNAIL:
                    return None
            return data

    def fetch(
        self,
        series: SeriesEntry,
        wanted: Sequence[InstanceEntry],
        receive: Receive,
        *,
        whole: bool,
    ) -> Generator[None, None, None]:
        """Have instances sent: the series in one request, or single ones, see `Archive`."""
        url = self._of(series)
        urls = [url] if whole else [f"{url}/instances/{entry.sop_uid}" for entry in wanted]
        jobs: list[Job[None]] = [partial(self._fetch, one, receive) for one in urls]
        yield from run_jobs(jobs, min(self._access.parallel, len(jobs)))

    def _fetch(self, url: str, receive: Receive, stop: threading.Event) -> None:
        # Compressed for the transfer, single images take Orthanc fifty times as long.
        headers = {"Accept": _AS_STORED, "Accept-Encoding": "identity"}
        with self._sentences(), self._get(url, headers) as answer:
            if answer.status_code in (404, 410):
                raise ArchiveError(
                    f"{self.url} no longer has this series",
                    fix="Look it up again: it may have been deleted",
                )
            answer.raise_for_status()
            content = answer.headers.get("Content-Type", "")
            pieces = self._pieces(stop, answer)
            if media_type(content) == "application/dicom":
                with receive() as file:
                    for piece in pieces:
                        file.write(piece)
                return
            if media_type(content) != "multipart/related":
                raise _not_dicomweb(self.url, media_type(content))
            try:
                for _ in receive_parts(pieces, boundary_of(content), receive):
                    pass
            except ValueError:
                if not stop.is_set():
                    raise Hiccup(f"{self.url} broke off in the middle of a series") from None

    def _pieces(self, stop: threading.Event, answer: Any) -> Iterator[bytes]:
        # Errors of requests are OSErrors; here they cannot be taken for those of a disk.
        with self._sentences():
            yield from _until(stop, answer.iter_content(_PIECE))

    def _of(self, series: SeriesEntry) -> str:
        return f"{self.url}/studies/{series.study_uid}/series/{series.series_uid}"

    @contextmanager
    def _get(self, url: str, headers: Mapping[str, str]) -> Iterator[Any]:
        with closing(
            self._session.get(url, headers=headers, stream=True, timeout=self._timeout)
        ) as answer:
            yield answer

    # ------------------------------------------------------------ store

    def store(self, files: Sequence[ToSend]) -> Generator[SentFile | None, None, None]:
        """Store files, one a request so that each has its own answer, see `Archive`."""
        yield from run_jobs([partial(self._store, file) for file in files], 1)

    def _store(self, file: ToSend, stop: threading.Event) -> SentFile:
        with self._sentences(), closing(FileBody(file.path, file.size)) as body:
            headers = {"Content-Type": body.content_type, "Accept": _JSON}
            with closing(
                self._session.post(
                    f"{self.url}/studies",
                    data=_Sized(body, stop),
                    headers=headers,
                    timeout=self._timeout,
                    stream=True,
                )
            ) as answer:
                if answer.status_code not in (200, 202, 409):
                    if answer.status_code in (400, 413, 415, 422):
                        return SentFile(file, "refused", f"HTTP {answer.status_code}")
                    answer.raise_for_status()
                kind = media_type(answer.headers.get("Content-Type", ""))
                text = b"".join(islice(answer.iter_content(_PIECE), _MOST_ANSWER // _PIECE))
                return _answer_on(file, answer.status_code, kind, text, self.url)

    def close(self) -> None:
        """Close its connections."""
        self._session.close()

    # ------------------------------------------------------------ errors

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        """Turn errors of requests into sentences; theirs quote URLs, with who was asked for."""
        try:
            yield
        except requests.exceptions.SSLError as error:
            raise ArchiveError(_tls_sentence(self.url, error), fix=_TLS_FIX) from None
        except requests.exceptions.ConnectTimeout:
            raise ArchiveUnreachable(
                f"{self.url} cannot be reached: no connection within {self._timeout[0]:g} seconds",
                fix="Check host, port and network",
            ) from None
        except requests.exceptions.Timeout:
            raise self._too_slow() from None
        except requests.exceptions.HTTPError as error:
            status = 0 if error.response is None else error.response.status_code
            raise _refusal(self.url, status) from None
        except requests.exceptions.JSONDecodeError:
            raise _not_dicomweb(self.url, "what is not JSON") from None
        except requests.exceptions.ConnectionError as error:
            if "timed out" in str(error).lower():  # while a body was read
                raise self._too_slow() from None
            raise _no_connection(self.url, error) from None
        except requests.exceptions.ChunkedEncodingError:
            raise Hiccup(f"{self.url} broke off in the middle of an answer") from None
        except requests.exceptions.RequestException as error:
            raise ArchiveError(f"{self.url} could not be asked ({type(error).__name__})") from None

    def _too_slow(self) -> ArchiveUnreachable:
        return ArchiveUnreachable(
            f"{self.url} did not answer within {self._access.timeout:g} seconds",
            fix="Try again, or allow more with --timeout",
        )


_REACH = "Check host and port, and that the archive is running"
_TLS_FIX = "Use the name in its certificate, or give its authority's certificate with --ca"


def _adapter(parallel: int) -> HTTPAdapter:
    return HTTPAdapter(pool_connections=1, pool_maxsize=max(1, parallel), max_retries=0)


def _auth(credentials: Credentials | None) -> AuthBase:
    if credentials is None:
        return _Bearer()
    if credentials.token:
        return _Bearer(credentials.token)
    return HTTPBasicAuth(credentials.user.encode(), credentials.password.encode())


class _Sized:
    """A body that states its size and can be stopped; requests sends it piece by piece."""

    def __init__(self, body: FileBody, stop: threading.Event) -> None:
        self._body, self._stop = body, stop

    def __len__(self) -> int:
        return len(self._body)

    def __iter__(self) -> Iterator[bytes]:
        return _until(self._stop, self._body)


def _until(stop: threading.Event, pieces: Any) -> Iterator[bytes]:
    for piece in pieces:
        if stop.is_set():
            return
        yield piece


def _refusal(url: str, status: int) -> ArchiveError:
    if status == 401:
        return ArchiveDenied(
            f"{url} does not accept the credentials: they are missing, wrong or expired",
            fix=f"Run: napari-spatial-ar archive login {url}",
        )
    if status == 403:
        return ArchiveDenied(
            f"{url} does not allow this to the user or token in use",
            fix="Ask its administrator, or run: napari-spatial-ar archive login",
        )
    if status in _PASSING:
        return Hiccup(f"{url} failed with an error of its own (HTTP {status})")
    return ArchiveError(f"{url} refused the request (HTTP {status})")


def _not_dicomweb(url: str, what: str) -> ArchiveError:
    return ArchiveError(
        f"{url} does not answer as DICOMweb does, but with {what or 'nothing known'}",
        fix="Check the URL: it may be a login page or a web viewer",
    )


def _tls_sentence(url: str, error: BaseException) -> str:
    found = _cause(error, ssl.SSLError)
    reason = getattr(found, "verify_message", "") or ""
    if "mismatch" in reason.lower() or "match" in reason.lower():
        return f"the certificate of {url} is for another host name"
    if reason:
        return f"the certificate of {url} is not trusted ({reason})"
    return f"{url} does not speak TLS as expected, or asks for a certificate of ours"


def _no_connection(url: str, error: BaseException) -> ArchiveUnreachable:
    text = str(error).lower()
    if "name or service" in text or "resolve" in text or "getaddrinfo" in text:
        return ArchiveUnreachable(f"the host of {url} is not known", fix="Check its name")
    if "refused" in text:
        what = f"nothing answers at {url}: the connection was refused"
        return ArchiveUnreachable(what, fix=_REACH)
    if "aborted" in text or "reset" in text or "disconnected" in text or "broken" in text:
        return Hiccup(f"{url} closed the connection", fix=_REACH)
    return ArchiveUnreachable(f"{url} cannot be reached", fix=_REACH)


def _cause(error: BaseException, kind: type[BaseException]) -> BaseException | None:
    """First error of a kind among what an error is about."""
    todo: list[BaseException] = [error]
    seen: set[int] = set()
    while todo:
        one = todo.pop(0)
        if isinstance(one, kind):
            return one
        if id(one) in seen:
            continue
        seen.add(id(one))
        inner = (*one.args, getattr(one, "reason", None), one.__cause__, one.__context__)
        todo += [each for each in inner if isinstance(each, BaseException)]
    return None


def _answer_on(file: ToSend, status: int, kind: str, text: bytes, url: str) -> SentFile:
    """Read what a STOW-RS response (PS3.18 10.5.3) says on one file."""
    if not kind.endswith("json"):
        if kind.endswith("xml") or not text:
            failed = status != 200
            return SentFile(file, "refused" if failed else "stored", f"HTTP {status}" * failed)
        raise _not_dicomweb(url, kind)
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        raise _not_dicomweb(url, "what is not JSON") from None
    answer = answer[0] if isinstance(answer, list) and answer else answer
    failures = _items(answer, "00081198")
    stored = {_text(item, "00081155") for item in _items(answer, "00081199")}
    if failures or status == 409 or (stored and file.sop_uid not in stored):
        code = next((_whole(item, "00081197") for item in failures), None) or 0
        reason = _FAILURES.get(code) or _FAILURES.get(code & 0xFF00)
        return SentFile(file, "refused", reason or f"reason {code:#06x}")
    return SentFile(file, "stored")


# ---------------------------------------------------------------- DICOM JSON (PS3.18 F)


# Representations of a name, in the order in which PS3.5 6.2.1 joins them by "=".
_NAME_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")


def _values(answer: Any, tag: str) -> list[Any]:
    element = answer.get(tag) if isinstance(answer, dict) else None
    values = element.get("Value") if isinstance(element, dict) else None
    return values if isinstance(values, list) else []


def _items(answer: Any, tag: str) -> list[Any]:
    return [item for item in _values(answer, tag) if isinstance(item, dict)]


def _texts(answer: Any, tag: str) -> list[str]:
    found = []
    for value in _values(answer, tag):
        if isinstance(value, dict):  # a person's name, see DICOM PS3.18 F.2.2
            groups = [str(value.get(group) or "") for group in _NAME_GROUPS]
            value = "=".join(groups).rstrip("=")
        if isinstance(value, str | int | float):
            found.append(str(value).strip())
    return found


def _text(answer: Any, tag: str) -> str:
    return next(iter(_texts(answer, tag)), "")


def _whole(answer: Any, tag: str) -> int | None:
    try:
        return int(float(_text(answer, tag)))
    except (ValueError, OverflowError):
        return None


def _key(answer: Any) -> str:
    """UIDs of an answer, which tell it from others."""
    return "\n".join(_text(answer, tag) for tag in ("0020000D", "0020000E", "00080018"))


def _study(answer: Mapping[str, Any]) -> StudyEntry:
    text = {name: _text(answer, tag) for name, tag in _TAGS.items()}
    return StudyEntry(
        study_uid=text["StudyInstanceUID"],
        patient_name=text["PatientName"],
        patient_id=text["PatientID"],
        accession=text["AccessionNumber"],
        date=text["StudyDate"],
        time=text["StudyTime"],
        description=text["StudyDescription"],
        modalities=tuple(_texts(answer, _TAGS["ModalitiesInStudy"])),
        series=_whole(answer, _TAGS["NumberOfStudyRelatedSeries"]),
        instances=_whole(answer, _TAGS["NumberOfStudyRelatedInstances"]),
    )


def _series(answer: Mapping[str, Any], study_uid: str) -> SeriesEntry:
    text = {name: _text(answer, tag) for name, tag in _TAGS.items()}
    return SeriesEntry(
        study_uid=text["StudyInstanceUID"] or study_uid,
        series_uid=text["SeriesInstanceUID"],
        modality=text["Modality"],
        description=text["SeriesDescription"],
        body_part=text["BodyPartExamined"],
        number=_whole(answer, _TAGS["SeriesNumber"]),
        instances=_whole(answer, _TAGS["NumberOfSeriesRelatedInstances"]),
    )


def _instance(answer: Mapping[str, Any]) -> InstanceEntry:
    return InstanceEntry(
        sop_uid=_text(answer, _TAGS["SOPInstanceUID"]),
        sop_class=_text(answer, _TAGS["SOPClassUID"]),
        number=_whole(answer, _TAGS["InstanceNumber"]),
    )
