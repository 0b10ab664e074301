"""An archive that speaks DIMSE: C-ECHO, C-FIND, C-GET, C-MOVE and C-STORE (PS3.4 A to C, PS3.7)."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pydicom
import pynetdicom
from pydicom.errors import InvalidDicomError
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pynetdicom import AE, AllStoragePresentationContexts, build_role, evt
from pynetdicom._globals import ALL_TRANSFER_SYNTAXES
from pynetdicom.pdu import A_ASSOCIATE_RJ

from napari_spatial_ar import __version__
from napari_spatial_ar.archive.access import Access
from napari_spatial_ar.archive.address import Address, check_ae_title, is_loopback
from napari_spatial_ar.archive.entries import InstanceEntry, SeriesEntry, StudyEntry, StudyQuery
from napari_spatial_ar.archive.interface import Found, Receive, SentFile, ToSend
from napari_spatial_ar.archive.jobs import Hiccup, again, run_jobs
from napari_spatial_ar.errors import (
    ArchiveDenied,
    ArchiveError,
    ArchiveUnreachable,
    InputError,
    SpatialARError,
    StorageError,
)
from napari_spatial_ar.normative.cancellation import check_cancelled

__all__ = ["STORED_CLASSES", "Dimse", "application_entity", "receiver", "store_status"]

# It writes identifiers, which contain patient IDs and names, into logs, and tracebacks.
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)
# Files are sent as they are, not decoded and encoded again.
pynetdicom._config.STORE_SEND_CHUNKED_DATASET = True

VERIFICATION = "1.2.840.10008.1.1"
# Study Root Query/Retrieve (PS3.4 C.6.2).
FIND, MOVE, GET = (f"1.2.840.10008.5.1.4.1.2.2.{number}" for number in (1, 2, 3))
#: SOP classes of storage that we know, which is all of pynetdicom's.
STORED_CLASSES = tuple(str(one.abstract_syntax) for one in AllStoragePresentationContexts)
_UNCOMPRESSED = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
# Any syntax, least work first; a peer takes the first that it likes.
_SYNTAXES = tuple(
    str(syntax)
    for syntax in (
        *_UNCOMPRESSED,
        *(
            syntax
            for syntax in map(UID, ALL_TRANSFER_SYNTAXES)
            if syntax not in (*_UNCOMPRESSED, ExplicitVRBigEndian)
        ),
        ExplicitVRBigEndian,
    )
)
# Those that images come in (PS3.5 A.4); each gets a context of its own, so that none is converted.
_IMAGE_SYNTAXES = (
    *("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57"),
    *("1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"),
    *("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.201"),
    *("1.2.840.10008.1.2.4.202", "1.2.840.10008.1.2.4.203", "1.2.840.10008.1.2.5"),
    str(DeflatedExplicitVRLittleEndian),
    str(ExplicitVRLittleEndian),
    str(ImplicitVRLittleEndian),
)
_OTHER_KIND = "it does not store objects of this kind"
_MOST_CONTEXTS = 128  # PS3.8 9.3.2.2: odd numbers of a byte
_MAX_PDU = 1 << 18
_UIDS_A_REQUEST = 100
_LOOK_SECONDS = 0.2
_PENDING = (0xFF00, 0xFF01)
_CANCELLED = 0xFE00
_SUCCESS = 0x0000
_FAILED_HERE = {"space": 0xA700, "wrong": 0xC000, "other": 0xC001}
_STUDY_KEYS = (
    *("PatientName", "PatientID", "AccessionNumber", "StudyDate", "StudyTime", "StudyDescription"),
    *("ModalitiesInStudy", "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances"),
)
_SERIES_KEYS = (
    *("Modality", "SeriesDescription", "SeriesNumber", "BodyPartExamined"),
    "NumberOfSeriesRelatedInstances",
)
# What statuses mean (PS3.4 B.2.3, C.4.1.1.4, C.4.2.1.5, C.4.3.1.4; PS3.7 C).
_STATUSES = {
    0x0111: "it has another object of this UID",
    0x0122: "it does not support this",
    0x0124: "we are not allowed to do this",
    0x0211: "it does not support this",
    0xA700: "it has no resources left",
    0xA701: "it cannot count the matches",
    0xA702: "it could not send the images to us",
    0xA801: "it does not know our AE title as a destination",
    0xA900: "the object does not match its SOP class, or the query its model",
    0xC000: "it does not understand the object or query",
}
# Who rejects an association, and why (PS3.8 9.3.4): source, reason.
_REJECTIONS = {
    (1, 3): "does not know our AE title '{ours}'",
    (1, 7): "is not called '{theirs}': the AE title in the URL is wrong",
    (3, 1): "has too many connections at the moment",
    (3, 2): "has reached a limit at the moment",
}


def application_entity(access: Access, aet: str | None = None) -> AE:
    """Make our side of an association, with the time-outs of an access."""
    ae = AE(ae_title=check_ae_title(access.aet if aet is None else aet, "calling"))
    ae.connection_timeout = min(access.timeout, 10.0)
    ae.acse_timeout = ae.dimse_timeout = access.timeout
    ae.network_timeout = access.timeout
    ae.maximum_pdu_size = _MAX_PDU
    ae.implementation_version_name = f"NSAR_{__version__}"[:16]
    return ae


class Dimse:
    """An archive that speaks DIMSE; see `Archive`.

    Parameters
    ----------
    address : Address
        Where it is, and its AE title.
    access : Access
        How it may be reached.
    """

    def __init__(self, address: Address, access: Access) -> None:
        self.url = address.url
        self.retries = access.retries
        self._address = address
        self._access = access
        check_ae_title(access.aet, "calling")
        self._tls = access.tls() if address.tls else None
        self._heard = _Heard()
        if access.credentials is not None:
            raise InputError("DIMSE archives have no passwords or tokens", fix="Use --cert")

    def __repr__(self) -> str:
        return f"Dimse({self.url!r})"

    def close(self) -> None:
        """Do nothing: an association lasts as long as a request."""

    def echo(self) -> None:
        """Check that it answers C-ECHO, see `Archive`."""
        again(self._echo, self.retries)

    def _echo(self) -> None:
        with self._associated([VERIFICATION]) as association:
            self._check(association.send_c_echo(), "C-ECHO")

    # ------------------------------------------------------------ find

    def find_studies(self, query: StudyQuery, *, limit: int = 500) -> Found:
        """Find studies, see `Archive`."""
        keys = dict.fromkeys(_STUDY_KEYS, "") | {
            "StudyInstanceUID": query.study_uid,
            "PatientID": query.patient_id,
            "PatientName": query.patient_name,
            "AccessionNumber": query.accession,
            "StudyDate": "" if query.dates is None else str(query.dates),
            "ModalitiesInStudy": query.modality,
        }
        found: dict[str, StudyEntry] = {}
        for answer in self._find("STUDY", keys, 2 * limit):
            study = _study(answer)
            if study.study_uid and query.admits(study):
                found[study.study_uid] = study
        return Found(tuple(found.values())[:limit], len(found) > limit)

    def find_series(self, study_uid: str = "", series_uid: str = "") -> tuple[SeriesEntry, ...]:
        """Find series, see `Archive`."""
        keys = dict.fromkeys(_SERIES_KEYS, "")
        keys |= {"StudyInstanceUID": study_uid, "SeriesInstanceUID": series_uid}
        found = (_series(answer, study_uid) for answer in self._find("SERIES", keys))
        return tuple(
            entry
            for entry in found
            if entry.series_uid
            and series_uid in ("", entry.series_uid)
            and study_uid in ("", entry.study_uid)
        )

    def find_instances(self, series: SeriesEntry) -> tuple[InstanceEntry, ...]:
        """Find instances, see `Archive`."""
        keys = {
            "StudyInstanceUID": series.study_uid,
            "SeriesInstanceUID": series.series_uid,
            "SOPInstanceUID": "",
            "SOPClassUID": "",
            "InstanceNumber": "",
        }
        found = [
            InstanceEntry(
                _text(answer, "SOPInstanceUID"),
                _text(answer, "SOPClassUID"),
                _whole(answer, "InstanceNumber"),
            )
            for answer in self._find("IMAGE", keys)
        ]
        return tuple(entry for entry in found if entry.sop_uid)

    def _find(
        self, level: str, keys: Mapping[str, str], most: int | None = None
    ) -> list[pydicom.Dataset]:
        """Answers to C-FIND; at most so many, then the association is aborted."""
        identifier = pydicom.Dataset()
        identifier.QueryRetrieveLevel = level
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of values such as wildcards
            identifier.SpecificCharacterSet = "ISO_IR 192"
            for keyword, value in keys.items():
                setattr(identifier, keyword, value)
        return again(partial(self._found, identifier, most), self.retries)

    def _found(self, identifier: pydicom.Dataset, most: int | None) -> list[pydicom.Dataset]:
        found: list[pydicom.Dataset] = []
        with self._associated([FIND]) as association:
            for status, answer in association.send_c_find(identifier, FIND):
                check_cancelled()
                code = self._check(status, "C-FIND", (*_PENDING, _CANCELLED))
                if code in _PENDING and answer is not None:
                    found.append(answer)
                if most is not None and len(found) > most:
                    association.abort()
                    break
        return found

    def thumbnail(self, series: SeriesEntry) -> bytes | None:
        """None: DIMSE renders nothing."""
        return None

    # ------------------------------------------------------------ get

    def fetch(
        self,
        series: SeriesEntry,
        wanted: Sequence[InstanceEntry],
        receive: Receive,
        *,
        whole: bool,
    ) -> Generator[None, None, None]:
        """Have instances sent by C-GET, or, where that is not offered, by C-MOVE."""
        requests = [
            _identifier(series, [] if whole else [entry.sop_uid for entry in wanted[first:last]])
            for first, last in _batches(1 if whole else len(wanted))
        ]
        classes = sorted({entry.sop_class for entry in wanted if entry.sop_class})
        yield from run_jobs([partial(self._get_or_move, requests, classes, receive)], 1)

    def _get_or_move(
        self,
        requests: Sequence[pydicom.Dataset],
        classes: Sequence[str],
        receive: Receive,
        stop: threading.Event,
    ) -> None:
        try:
            self._get(requests, classes, receive, stop)
        except _NotOfferedError as refused:
            try:
                self._move(requests, receive, stop)
            except _NotOfferedError:
                raise ArchiveError(
                    f"{self.url} offers neither C-GET nor C-MOVE to us",
                    fix=f"Ask its administrator to allow them to '{self._access.aet}'",
                ) from refused

    def _get(
        self,
        requests: Sequence[pydicom.Dataset],
        classes: Sequence[str],
        receive: Receive,
        stop: threading.Event,
    ) -> None:
        contexts = _retrieval_contexts(classes)
        roles = [build_role(name, scp_role=True) for name in {name for name, _ in contexts}]
        keeper = _Keeper(receive, stop)
        with self._associated(
            [GET], contexts, roles=roles, handlers=[(evt.EVT_C_STORE, keeper.store)]
        ) as association:
            for identifier in requests:
                self._follow(association.send_c_get(identifier, GET), "C-GET", keeper, stop)

    def _move(
        self, requests: Sequence[pydicom.Dataset], receive: Receive, stop: threading.Event
    ) -> None:
        keeper = _Keeper(receive, stop)
        host = _own_address(self._address)
        with (
            receiver(
                self._access, host, self._access.receive_port, keeper.store, [self._address.aet]
            ),
            self._associated([MOVE]) as association,
            self._alive(association, keeper),
        ):
            for identifier in requests:
                answers = association.send_c_move(identifier, self._access.aet, MOVE)
                self._follow(answers, "C-MOVE", keeper, stop)

    @contextmanager
    def _alive(self, association: Any, keeper: _Keeper) -> Iterator[None]:
        """Abort an association if neither answers nor images come; some archives answer last."""
        association.dimse_timeout = association.network_timeout = None
        keeper.last = time.monotonic()
        done = threading.Event()

        def look() -> None:
            while not done.wait(_LOOK_SECONDS):
                if time.monotonic() - keeper.last > self._access.timeout:
                    association.abort()
                    association.dimse.msg_queue.put((None, None))  # wakes who waits for an answer
                    return

        threading.Thread(target=look, daemon=True).start()
        try:
            yield
        finally:
            done.set()

    def _follow(
        self,
        answers: Iterable[tuple[pydicom.Dataset, Any]],
        what: str,
        keeper: _Keeper,
        stop: threading.Event,
    ) -> None:
        """Follow the answers to a retrieval until it ends, or something goes wrong."""
        for status, _ in answers:
            if stop.is_set():
                return
            keeper.check()
            keeper.last = time.monotonic()
            code = _code(status)
            if code == 0xA801:
                raise ArchiveError(
                    f"{self.url} does not know where to send the images",
                    fix=f"Ask its administrator to add our AE title '{self._access.aet}' with this "
                    f"machine's address and port {self._access.receive_port}",
                )
            if code in (0x0122, 0x0124, 0x0211):
                raise _NotOfferedError(f"{self.url} does not offer {what} to us")
            # Failed sub-operations (B000, A702) leave instances that the caller misses.
            self._check(status, what, (*_PENDING, _CANCELLED, 0xB000, 0xA702))
        keeper.check()

    # ------------------------------------------------------------ store

    def store(self, files: Sequence[ToSend]) -> Generator[SentFile | None, None, None]:
        """Store files over as few associations as their kinds allow, see `Archive`."""
        for group in _of_one_association(files):
            yield from self._store(group)

    def _store(self, files: Sequence[ToSend]) -> Generator[SentFile | None, None, None]:
        kinds = {(file.sop_class, file.syntax) for file in files}
        contexts = [(name, [syntax]) for name, syntax in sorted(kinds)]
        # One more for each class, that any archive takes which stores it at all (PS3.5 10.1).
        contexts += [
            (name, [str(ImplicitVRLittleEndian)])
            for name in sorted({name for name, _ in kinds})
            if (name, str(ImplicitVRLittleEndian)) not in kinds
        ]
        answers: list[SentFile] = []

        def send(stop: threading.Event) -> None:
            try:
                with self._associated([], contexts) as association:
                    for file in files:
                        if stop.is_set():
                            return
                        answers.append(self._send(association, file))
            except _NotOfferedError:
                answers.extend(SentFile(file, "refused", _OTHER_KIND) for file in files)

        told = 0
        try:
            for _ in run_jobs([send], 1):
                fresh = answers[told:]  # a copy: the thread adds to it
                told += len(fresh)
                yield from fresh or (None,)
        except ArchiveError:
            yield from answers[told:]
            raise
        yield from answers[told:]

    def _send(self, association: Any, file: ToSend) -> SentFile:
        accepted = {
            str(context.transfer_syntax[0])
            for context in association.accepted_contexts
            if context.abstract_syntax == file.sop_class
        }
        if not accepted:
            return SentFile(file, "refused", _OTHER_KIND)
        data: Path | pydicom.Dataset = file.path
        if file.syntax not in accepted and file.syntax not in _CONVERTIBLE:
            name = UID(file.syntax).name
            return SentFile(file, "refused", f"it does not store the transfer syntax {name}")
        try:
            if file.syntax not in accepted or not file.consistent:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    data = pydicom.dcmread(file.path)
            status = association.send_c_store(data)
        except (ValueError, AttributeError, OSError, InvalidDicomError):
            return SentFile(file, "refused", "the file cannot be read, or not as the standard says")
        except RuntimeError:
            raise self._broke_off() from None
        code = _code(status)
        if code is None:
            raise self._broke_off()
        if code == _SUCCESS:
            return SentFile(file, "stored")
        if code in (0xB000, 0xB006, 0xB007):
            return SentFile(file, "stored", "it changed or left out some attributes")
        return SentFile(file, "refused", _meaning(code))

    # ------------------------------------------------------------ associations

    @contextmanager
    def _associated(
        self,
        classes: Sequence[str],
        contexts: Sequence[tuple[str, Sequence[str]]] = (),
        *,
        roles: Sequence[Any] = (),
        handlers: Sequence[tuple[Any, Callable[..., Any]]] = (),
    ) -> Iterator[Any]:
        """Open an association; it is released at the end of the block, aborted after an error."""
        rejection = _Rejection()
        seen = (evt.EVT_PDU_RECV, rejection.look)
        association = self._associate(classes, contexts, roles, [*handlers, seen])
        if not association.is_established:
            raise self._why_not(association, classes, rejection)
        association.unbind(*seen)
        self._heard.at = time.monotonic()
        try:
            if classes and not any(
                context.abstract_syntax in classes for context in association.accepted_contexts
            ):
                raise self._not_offered(classes)
            yield association
        except BaseException:
            association.abort()
            raise
        finally:
            if association.is_established:
                association.release()

    def _associate(
        self,
        classes: Sequence[str],
        contexts: Sequence[tuple[str, Sequence[str]]],
        roles: Sequence[Any],
        handlers: Sequence[tuple[Any, Callable[..., Any]]],
    ) -> Any:
        asked = [(name, [str(one) for one in _UNCOMPRESSED]) for name in classes] + [*contexts]
        try:
            return application_entity(self._access).associate(
                self._address.host,
                self._address.port,
                contexts=[pynetdicom.build_context(name, list(found)) for name, found in asked],
                ae_title=self._address.aet,
                ext_neg=list(roles) or None,
                evt_handlers=list(handlers),
                max_pdu=_MAX_PDU,
                tls_args=None if self._tls is None else (self._tls, self._address.host),
            )
        except OSError:
            raise self._no_connection() or self._broke_off() from None

    def _not_offered(self, classes: Sequence[str]) -> _NotOfferedError:
        what = UID(classes[0]).name if classes else "any of what was asked for"
        return _NotOfferedError(
            f"{self.url} does not offer {what} to us",
            fix=f"Ask its administrator to allow it to '{self._access.aet}'",
        )

    def _why_not(
        self, association: Any, classes: Sequence[str], rejection: _Rejection
    ) -> ArchiveError:
        """Find out what prevented an association."""
        if rejection.why is not None:
            source, reason = rejection.why
            names = {"ours": self._access.aet, "theirs": self._address.aet}
            why = _REJECTIONS.get((source, reason), "rejected the association").format(**names)
            if source == 3:
                return ArchiveUnreachable(f"{self.url} {why}", fix="Try again later")
            return ArchiveError(f"{self.url} {why}", fix="Ask its administrator for the AE titles")
        if association.acceptor.primitive is not None and not association.accepted_contexts:
            return self._not_offered(classes)
        return self._no_connection() or ArchiveUnreachable(
            f"{self.url} did not answer the association request",
            fix="Check that a DICOM archive is at this port, and whether it wants TLS (dicoms://)",
        )

    def _no_connection(self) -> ArchiveError | None:
        """Find out by another try what prevents a connection; None: nothing."""
        place = (self._address.host, self._address.port)
        try:
            with socket.create_connection(place, min(self._access.timeout, 10.0)) as plain:
                if self._tls is not None:
                    with self._tls.wrap_socket(plain, server_hostname=self._address.host):
                        pass
        except ssl.SSLCertVerificationError as error:
            reason = error.verify_message
            what = (
                f"the certificate of {self.url} is for another host name"
                if "mismatch" in reason.lower() or "match" in reason.lower()
                else f"the certificate of {self.url} is not trusted ({reason})"
            )
            return ArchiveError(
                what, fix="Use the name in its certificate, or give its authority's with --ca"
            )
        except ssl.SSLError:
            return ArchiveError(
                f"{self.url} does not speak TLS as expected, or asks for a certificate of ours",
                fix="Use dicom:// without TLS, or give --cert",
            )
        except socket.gaierror:
            return ArchiveUnreachable(f"the host of {self.url} is not known", fix="Check its name")
        except TimeoutError:
            return ArchiveUnreachable(
                f"{self.url} cannot be reached: no connection in time",
                fix="Check host, port and network",
            )
        except ConnectionRefusedError:
            return ArchiveUnreachable(
                f"nothing answers at {self.url}: the connection was refused",
                fix="Check host and port, and that the archive is running",
            )
        except OSError:
            return ArchiveUnreachable(f"{self.url} cannot be reached", fix="Check host and network")
        return None

    def _check(self, status: pydicom.Dataset, what: str, fine: Sequence[int] = ()) -> int:
        """Return the code of a status that is success or among those that are fine."""
        code = _code(status)
        if code is None:
            raise self._broke_off()
        self._heard.at = time.monotonic()
        if code == _SUCCESS or code in fine:
            return code
        if code == 0x0124:
            raise ArchiveDenied(
                f"{self.url} does not allow {what} to us",
                fix=f"Ask its administrator to allow it to '{self._access.aet}'",
            )
        error = f"{self.url} failed to do {what}: {_meaning(code)}"
        raise ArchiveUnreachable(error) if code >> 8 == 0xA7 else ArchiveError(error)

    def _broke_off(self) -> ArchiveUnreachable:
        if time.monotonic() - self._heard.at < 0.9 * self._access.timeout:
            return Hiccup(
                f"{self.url} closed the connection",
                fix=f"Try again, or ask its administrator what '{self._access.aet}' may do",
            )
        return ArchiveUnreachable(
            f"{self.url} did not answer within {self._access.timeout:g} seconds",
            fix="Try again, or allow more with --timeout",
        )


_CONVERTIBLE = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian), str(ExplicitVRBigEndian))


class _Heard(threading.local):
    """When the archive was last heard of, in the association of this thread."""

    at = 0.0


class _Rejection:
    """Sees a rejection (A-ASSOCIATE-RJ) as it arrives.

    pynetdicom closes the connection then, and if it has done so before the waiting thread wakes, it
    only knows that there is no connection.
    """

    def __init__(self) -> None:
        #: Source and reason (PS3.8 9.3.4).
        self.why: tuple[int, int] | None = None

    def look(self, event: Any) -> None:
        """Handle a PDU that was received."""
        if isinstance(event.pdu, A_ASSOCIATE_RJ):
            self.why = event.pdu.source, event.pdu.reason_diagnostic


class _NotOfferedError(ArchiveError):
    """A service that the archive does not offer."""


class _Keeper:
    """Writes instances of C-STORE requests, and remembers what went wrong."""

    def __init__(self, receive: Receive, stop: threading.Event) -> None:
        self._receive, self._stop = receive, stop
        #: When something was last heard.
        self.last = time.monotonic()
        self._error: SpatialARError | None = None

    def store(self, event: Any) -> int:
        """Handle a C-STORE request; returns its status."""
        if self._stop.is_set() or self._error is not None:
            return _FAILED_HERE["other"]
        try:
            with self._receive() as file:
                file.write(event.encoded_dataset())
        except SpatialARError as error:
            self._error = error
            return store_status(error)
        self.last = time.monotonic()
        return _SUCCESS

    def check(self) -> None:
        """Raise what went wrong."""
        if self._error is not None:
            raise self._error


def store_status(error: SpatialARError) -> int:
    """Status of a C-STORE that failed here (PS3.4 B.2.3)."""
    return _FAILED_HERE["space" if isinstance(error, StorageError) else "wrong"]


@contextmanager
def receiver(
    access: Access,
    host: str,
    port: int,
    store: Callable[[Any], int],
    allowed: Sequence[str],
    tls: ssl.SSLContext | None = None,
) -> Iterator[int]:
    """Receive C-STORE requests until the block ends; yields the port.

    Parameters
    ----------
    access : Access
        Our AE title, which requests must name, and time-outs.
    host, port
        Where to listen; port 0: any that is free.
    store : callable
        Takes the event of a request, in any thread, and returns its status.
    allowed : sequence of str
        AE titles that may send; any if there are none.
    tls : SSLContext, optional
        To be reached by TLS only.

    Raises
    ------
    InputError
        If the port is in use, or the address is not this machine's.
    """
    ae = application_entity(access)
    ae.require_called_aet = True
    ae.require_calling_aet = [check_ae_title(title, "allowed") for title in allowed]
    ae.add_supported_context(VERIFICATION, list(_SYNTAXES[:2]))
    for name in STORED_CLASSES:
        ae.add_supported_context(name, list(_SYNTAXES))
    try:
        server = ae.start_server(
            (host, port),
            block=False,
            ssl_context=tls,
            evt_handlers=[(evt.EVT_C_STORE, store)],
        )
    except OSError as error:
        raise InputError(
            f"cannot listen on {host}:{port} ({error.strerror or error})",
            fix="Choose another port: another program may be using this one",
        ) from None
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        ae.shutdown()


def _own_address(archive: Address) -> str:
    """Address of this machine by which an archive reaches it."""
    if is_loopback(archive.host):
        return "127.0.0.1"
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            archive.host, archive.port, type=socket.SOCK_DGRAM
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(place)  # sends nothing
            return str(probe.getsockname()[0])
    except OSError:
        raise ArchiveUnreachable(f"the host of {archive.url} cannot be reached") from None


# ---------------------------------------------------------------- contexts


def _retrieval_contexts(classes: Sequence[str]) -> list[tuple[str, Sequence[str]]]:
    """Contexts by which instances may come: one for each syntax, if the classes are few."""
    most = _MOST_CONTEXTS - 1
    if 0 < len(classes) * len(_IMAGE_SYNTAXES) <= most:
        return [(name, [syntax]) for name in classes for syntax in _IMAGE_SYNTAXES]
    names = list(classes) or [
        str(one.abstract_syntax) for one in pynetdicom.StoragePresentationContexts
    ]
    return [(name, _SYNTAXES) for name in names[:most]]


def _of_one_association(files: Sequence[ToSend]) -> list[list[ToSend]]:
    """Files in groups of so few kinds that each kind may have two contexts."""
    groups: list[list[ToSend]] = []
    kinds: set[tuple[str, str]] = set()
    for file in files:
        kind = (file.sop_class, file.syntax)
        if not groups or (kind not in kinds and len(kinds) >= _MOST_CONTEXTS // 2):
            groups.append([])
            kinds = set()
        kinds.add(kind)
        groups[-1].append(file)
    return groups


# ---------------------------------------------------------------- identifiers and answers


def _batches(count: int) -> list[tuple[int, int]]:
    return [(first, first + _UIDS_A_REQUEST) for first in range(0, count, _UIDS_A_REQUEST)]


def _identifier(series: SeriesEntry, sop_uids: Sequence[str]) -> pydicom.Dataset:
    identifier = pydicom.Dataset()
    identifier.QueryRetrieveLevel = "IMAGE" if sop_uids else "SERIES"
    identifier.StudyInstanceUID = series.study_uid
    identifier.SeriesInstanceUID = series.series_uid
    if sop_uids:
        identifier.SOPInstanceUID = list(sop_uids)
    return identifier


def _code(status: pydicom.Dataset) -> int | None:
    """Status code; None: no answer."""
    code = status.get("Status")
    return None if code is None else int(code)


def _meaning(code: int) -> str:
    known = _STATUSES.get(code) or _STATUSES.get(code & 0xFF00) or _STATUSES.get(code & 0xF000)
    return known or f"status {code:#06x}"


def _texts(answer: pydicom.Dataset, keyword: str) -> tuple[str, ...]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values that the standard does not allow
        try:
            value = answer.get(keyword)
        except Exception:  # noqa: BLE001 - whatever an odd value provokes
            return ()
    if value is None:
        return ()
    values = value if isinstance(value, pydicom.multival.MultiValue) else [value]
    return tuple(text for one in values if (text := str(one).strip()))


def _text(answer: pydicom.Dataset, keyword: str) -> str:
    return "\\".join(_texts(answer, keyword))


def _whole(answer: pydicom.Dataset, keyword: str) -> int | None:
    try:
        return int(float(_text(answer, keyword)))
    except (ValueError, OverflowError):
        return None


def _study(answer: pydicom.Dataset) -> StudyEntry:
    return StudyEntry(
        study_uid=_text(answer, "StudyInstanceUID"),
        patient_name=_text(answer, "PatientName"),
        patient_id=_text(answer, "PatientID"),
        accession=_text(answer, "AccessionNumber"),
        date=_text(answer, "StudyDate"),
        time=_text(answer, "StudyTime"),
        description=_text(answer, "StudyDescription"),
        modalities=_texts(answer, "ModalitiesInStudy"),
        series=_whole(answer, "NumberOfStudyRelatedSeries"),
        instances=_whole(answer, "NumberOfStudyRelatedInstances"),
    )


def _series(answer: pydicom.Dataset, study_uid: str) -> SeriesEntry:
    return SeriesEntry(
        study_uid=_text(answer, "StudyInstanceUID") or study_uid,
        series_uid=_text(answer, "SeriesInstanceUID"),
        modality=_text(answer, "Modality"),
        description=_text(answer, "SeriesDescription"),
        body_part=_text(answer, "BodyPartExamined"),
        number=_whole(answer, "SeriesNumber"),
        instances=_whole(answer, "NumberOfSeriesRelatedInstances"),
    )
