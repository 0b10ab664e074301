"""Commands about archives of DICOM objects (PACS)."""

from __future__ import annotations

import inspect
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer

from napari_spatial_ar.cli.options import (
    SENT_OBJECTS,
    Device,
    Json,
    ModelOption,
    NotAllDone,
    command,
    dicom_kinds,
    print_message,
    progress,
    show,
    table,
)
from napari_spatial_ar.cli.pages import App
from napari_spatial_ar.errors import ArchiveUnreachable, InputError, SpatialARError

if TYPE_CHECKING:
    from napari_spatial_ar.archive.entries import SeriesEntry, StudyEntry, StudyQuery
    from napari_spatial_ar.archive.interface import Archive, SentFile
    from napari_spatial_ar.archive.watching import Watched

__all__ = ["archive_app", "opened", "retrieved", "send_results"]

_CONNECTION = "Connection"

archive_app = App(
    help="Find, get, send and receive scans: DICOMweb and DIMSE (PACS).", no_args_is_help=True
)

Place = Annotated[
    str,
    typer.Argument(
        metavar="ARCHIVE",
        help="http(s)://HOST:PORT/dicom-web, dicom(s)://AET@HOST:PORT, or the name of a saved "
        "archive.",
    ),
]
Aet = Annotated[
    str | None,
    typer.Option(
        metavar="TITLE",
        help="Our AE title.",
        show_default="NSAR, or that saved",
        rich_help_panel=_CONNECTION,
    ),
]
CaFile = Annotated[
    Path | None,
    typer.Option(
        "--ca",
        metavar="FILE",
        help="Certificates (PEM) that the other side's must be signed by.",
        show_default="those of this system's Python",
        rich_help_panel=_CONNECTION,
    ),
]
Certificate = Annotated[
    Path | None,
    typer.Option(
        "--cert",
        metavar="FILE",
        help="Our own certificate (PEM), for archives that ask for one.",
        show_default=False,
        rich_help_panel=_CONNECTION,
    ),
]
Key = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Its key (PEM).",
        show_default="in the same file",
        rich_help_panel=_CONNECTION,
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        min=0.1,
        max=3600,
        help="Fail if nothing is heard for so long.",
        show_default="30, or that saved",
        rich_help_panel=_CONNECTION,
    ),
]
ReceivePort = Annotated[
    int | None,
    typer.Option(
        metavar="PORT",
        min=0,
        max=65535,
        help="Port on which DIMSE archives without C-GET reach us (C-MOVE).",
        show_default="11112, or that saved",
        rich_help_panel=_CONNECTION,
    ),
]
PatientId = Annotated[
    str | None, typer.Option(metavar="ID", help="Patient ID; * and ? are wildcards.")
]
PatientName = Annotated[
    str | None, typer.Option(metavar="NAME", help="Patient name, such as DOE*.")
]
Accession = Annotated[str | None, typer.Option(metavar="NUMBER", help="Accession number.")]
Dates = Annotated[
    str | None,
    typer.Option(
        "--date",
        metavar="FROM-TO",
        help="Study date: YYYYMMDD, YYYYMMDD-YYYYMMDD, YYYYMMDD-, -YYYYMMDD, today or yesterday.",
    ),
]
ModalityCode = Annotated[
    str | None, typer.Option(metavar="CODE", help="Modality in the study, such as CT or MR.")
]


_CONNECTION_OPTIONS: dict[str, Any] = {
    "aet": Aet,
    "ca": CaFile,
    "cert": Certificate,
    "key": Key,
    "timeout": Timeout,
    "receive_port": ReceivePort,
}
# Fields of `Access`, where they are called otherwise.
_FIELDS = {"ca": "ca_file", "cert": "certificate"}

P = ParamSpec("P")


def with_connection(
    *, receives: bool = False
) -> Callable[[Callable[P, dict[str, Any]]], Callable[P, dict[str, Any]]]:
    """Give a command that takes ``**connection`` the options of a connection, at its end.

    Parameters
    ----------
    receives : bool
        Whether the archive may have to reach us (C-MOVE).
    """

    def decorated(function: Callable[P, dict[str, Any]]) -> Callable[P, dict[str, Any]]:
        signature = inspect.signature(function, eval_str=True)
        own = [one for one in signature.parameters.values() if one.kind is not one.VAR_KEYWORD]
        offered = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)
            for name, option in _CONNECTION_OPTIONS.items()
            if receives or name != "receive_port"
        ]
        function.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*own, *offered]
        )
        return function

    return decorated


def _given(connection: dict[str, Any]) -> dict[str, Any]:
    """Fields of `Access` for the options that were given."""
    return {
        _FIELDS.get(name, name): value for name, value in connection.items() if value is not None
    }


@contextmanager
def opened(place: str, **connection: Any) -> Iterator[Archive]:
    """Open an archive by URL or name, with the options given in place of those saved."""
    from napari_spatial_ar.archive.opening import open_archive
    from napari_spatial_ar.archive.saved import address_of

    address, access = address_of(place)
    archive = open_archive(address, replace(access, **_given(connection)))
    try:
        yield archive
    finally:
        archive.close()


@contextmanager
def stopped_by_signals() -> Iterator[threading.Event]:
    """Let Ctrl+C and SIGTERM end the work in the block at its next step: they set the event.

    A second Ctrl+C stops at once.
    """
    stop = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ---------------------------------------------------------------- saved archives


@archive_app.command("list", rich_help_panel="Saved archives")
@command
def archive_list(json: Json = None) -> dict[str, Any]:
    """List the archives saved by name."""
    from napari_spatial_ar.archive.saved import saved_archives

    found = saved_archives()
    rows = table("name", "URL", "our AE title")
    for name, saved in found.items():
        rows.add_row(name, saved.url, saved.aet)
    show(rows)
    return {"archives": [{"name": name, **saved.model_dump()} for name, saved in found.items()]}


@archive_app.command("add", rich_help_panel="Saved archives")
@command
@with_connection(receives=True)
def archive_add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name to use in place of the URL.")],
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL", help="http(s)://HOST:PORT/dicom-web or dicom(s)://AET@HOST:PORT."
        ),
    ],
    overwrite: Annotated[bool, typer.Option(help="Replace the archive of this name.")] = False,
    json: Json = None,
    **connection: Any,
) -> dict[str, Any]:
    """Save an archive by name, without passwords; see 'archive login' for those."""
    from napari_spatial_ar.archive.address import parse_address
    from napari_spatial_ar.archive.saved import SavedArchive, save_archive

    settings: dict[str, Any] = {
        name: str(value.resolve()) if isinstance(value, Path) else value
        for name, value in _given(connection).items()
    }
    saved = SavedArchive(url=parse_address(url).url, **settings)
    save_archive(name, saved, overwrite=overwrite)
    print_message(f"{name}: {saved.url}")
    return {"name": name, **saved.model_dump()}


@archive_app.command("remove", rich_help_panel="Saved archives")
@command
def archive_remove(
    name: Annotated[str, typer.Argument(metavar="NAME", help="See 'archive list'.")],
    json: Json = None,
) -> dict[str, Any]:
    """Forget a saved archive, and its password or token."""
    from napari_spatial_ar.archive.saved import remove_archive

    gone = remove_archive(name)
    print_message(f"{name} is no longer saved.")
    return {"name": name, "url": gone.url}


@archive_app.command("login", rich_help_panel="Saved archives")
@command
def archive_login(
    archive: Place,
    user: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="User name; its password is asked for, not a token."),
    ] = None,
    forget: Annotated[bool, typer.Option("--forget", help="Remove what is kept.")] = False,
    json: Json = None,
) -> dict[str, Any]:
    """Keep a token, or a user's password, for a DICOMweb archive in the system's keyring.

    It is asked for without being shown, or read from standard input if that is no terminal.
    Without a keyring, such as in a batch, set NAPARI_SPATIAL_AR_ARCHIVE_TOKEN, or
    NAPARI_SPATIAL_AR_ARCHIVE_USER and NAPARI_SPATIAL_AR_ARCHIVE_PASSWORD.
    """
    from napari_spatial_ar.archive.access import (
        Credentials,
        forget_credentials,
        keep_credentials,
    )
    from napari_spatial_ar.archive.saved import address_of

    address, _ = address_of(archive)
    if forget:
        had = forget_credentials(address)
        print_message(f"{address}: {'removed' if had else 'nothing was kept'}.")
        return {"url": address.url, "kept": False}
    secret = _secret("Password" if user else "Token")
    credentials = Credentials(user=user, password=secret) if user else Credentials(token=secret)
    keep_credentials(address, credentials)
    print_message(f"{address}: kept in the keyring.")
    return {"url": address.url, "kept": True}


def _secret(what: str) -> str:
    if sys.stdin.isatty():
        return str(typer.prompt(what, hide_input=True, err=True))
    return sys.stdin.readline().rstrip("\r\n")


@archive_app.command("cache", rich_help_panel="Saved archives")
@command
def archive_cache(
    empty: Annotated[bool, typer.Option("--empty", help="Remove all of it.")] = False,
    json: Json = None,
) -> dict[str, Any]:
    """Show the size of the cache of retrieved series, or empty it."""
    from napari_spatial_ar.archive.cache import StudyCache

    cache = StudyCache()
    freed = cache.clear() if empty else 0
    size = cache.size()
    if empty:
        print_message(f"{freed / 1e6:.1f} MB were freed.")
    print_message(f"{cache.folder}: {size / 1e6:.1f} MB")
    return {"folder": str(cache.folder), "bytes": size, "freed": freed}


# ---------------------------------------------------------------- find, get, send


@archive_app.command("echo")
@command
@with_connection()
def archive_echo(
    archive: Place,
    json: Json = None,
    **connection: Any,
) -> dict[str, Any]:
    """Check that an archive answers and lets us in."""
    with opened(archive, **connection) as there:
        there.echo()
        print_message(f"{there.url} answers.")
        return {"url": there.url}


@archive_app.command("find")
@command
@with_connection()
def archive_find(
    archive: Place,
    patient_id: PatientId = None,
    name: PatientName = None,
    accession: Accession = None,
    date: Dates = None,
    modality: ModalityCode = None,
    study: Annotated[
        str | None, typer.Option(metavar="UID", help="This study only; its series are listed.")
    ] = None,
    series: Annotated[
        bool, typer.Option("--series", help="List the series of each study.")
    ] = False,
    limit: Annotated[
        int, typer.Option(metavar="N", min=1, max=10_000, help="List at most so many studies.")
    ] = 500,
    json: Json = None,
    **connection: Any,
) -> dict[str, Any]:
    """Find studies, and list their series on request."""
    query = _query(patient_id, name, accession, date, modality, study)
    with opened(archive, **connection) as there:
        found = there.find_studies(query, limit=limit)
        listed = {
            one.study_uid: there.find_series(one.study_uid) if series or study else None
            for one in found.studies
        }
        url = there.url
    _show_studies(found.studies)
    _show_series([one for entries in listed.values() for one in entries or ()])
    if not found.studies:
        print_message("No study matches.")
    if found.more:
        print_message(f"warning: more than {limit} studies match; only these are listed.")
    return {
        "url": url,
        "more": found.more,
        "studies": [_study_entry(one, listed[one.study_uid]) for one in found.studies],
    }


def _query(
    patient_id: str | None,
    name: str | None,
    accession: str | None,
    date: str | None,
    modality: str | None,
    study: str | None = None,
) -> StudyQuery:
    from napari_spatial_ar.archive.entries import StudyQuery

    return StudyQuery.of(
        patient_id=patient_id,
        name=name,
        accession=accession,
        date=date,
        modality=modality,
        study=study,
    )


def _show_studies(studies: tuple[StudyEntry, ...]) -> None:
    rows = table(
        *("date", "patient", "ID", "accession", "modalities", "description", "series", "images"),
        "study UID",
    )
    for one in studies:
        rows.add_row(
            one.date,
            one.patient_name,
            one.patient_id,
            one.accession,
            ", ".join(one.modalities),
            one.description,
            _count(one.series),
            _count(one.instances),
            one.study_uid,
        )
    if studies:
        show(rows)


def _show_series(entries: list[SeriesEntry]) -> None:
    rows = table(
        *("number", "modality", "description", "body part", "images", "series UID", "study UID")
    )
    for one in entries:
        rows.add_row(
            _count(one.number),
            one.modality,
            one.description,
            one.body_part,
            _count(one.instances),
            one.series_uid,
            one.study_uid,
        )
    if entries:
        show(rows)


def _count(number: int | None) -> str:
    return "" if number is None else str(number)


def _study_entry(study: StudyEntry, series: tuple[SeriesEntry, ...] | None) -> dict[str, Any]:
    entry = asdict(study)
    entry["number_of_series"] = entry.pop("series")
    entry["number_of_instances"] = entry.pop("instances")
    entry["modalities"] = list(study.modalities)
    if series is not None:
        entry["series"] = [
            {name: value for name, value in asdict(one).items() if name != "study_uid"}
            for one in series
        ]
    return entry


@archive_app.command("get")
@command
@with_connection(receives=True)
def archive_get(
    archive: Place,
    out: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Gets a folder for each series, once all of it is there."),
    ],
    series: Annotated[
        list[str] | None,
        typer.Option(metavar="UID", help="Series, see 'archive find --series'; may be repeated."),
    ] = None,
    study: Annotated[
        str | None,
        typer.Option(metavar="UID", help="Study of the series; alone: all of its series."),
    ] = None,
    json: Json = None,
    **connection: Any,
) -> dict[str, Any]:
    """Retrieve series; run again, it resumes where it broke off.

    Folders and files are named by hashes of UIDs, and their content is as the archive sent it.
    """
    from napari_spatial_ar.archive.entries import check_uid
    from napari_spatial_ar.archive.retrieval import get_series, the_series

    if not series and not study:
        raise typer.BadParameter("Give the UID of a series (--series) or of a study (--study).")
    results: list[dict[str, Any]] = []
    errors: list[SpatialARError] = []
    with opened(archive, **connection) as there, progress() as bar:
        if series:
            wanted = [the_series(there, uid, study or "") for uid in dict.fromkeys(series)]
        else:
            uid = check_uid(study or "", "study's UID")
            wanted = list(there.find_series(uid))
        if not wanted:
            raise InputError(f"{there.url} has no such study", fix="Look it up again")
        for number, one in enumerate(wanted, 1):
            try:
                steps = get_series(there, one, out)
                got = _followed(steps, bar, f"Series {number} of {len(wanted)}")
            except ArchiveUnreachable:
                raise
            except SpatialARError as error:
                errors.append(error)
                continue
            results.append(
                {
                    "study_uid": one.study_uid,
                    "series_uid": one.series_uid,
                    "folder": str(got.folder),
                    "instances": got.instances,
                    "fetched": got.fetched,
                }
            )
            there_before = got.instances - got.fetched
            note = f", {there_before} of them there before" if there_before > 0 else ""
            print_message(f"{got.folder}: {got.instances} images{note}")
    if not results:
        raise errors[0]
    for failed in errors:
        print_message(f"could not be retrieved: {failed}")
    result = {"series": results, "failed": [str(error) for error in errors]}
    if errors:
        raise NotAllDone(result)
    return result


def _followed(steps: Any, bar: Any, label: str) -> Any:
    """Run the steps of a transfer, showing how far it is."""
    from napari_spatial_ar.steps import finish

    return finish(steps, lambda step: bar(label, step.done, step.total))


@archive_app.command("send")
@command
@with_connection()
def archive_send(
    archive: Place,
    paths: Annotated[
        list[Path], typer.Argument(metavar="FILE|DIR", help="DICOM files, or folders of them.")
    ],
    json: Json = None,
    **connection: Any,
) -> dict[str, Any]:
    """Send DICOM files as they are; what the archive has already is not sent again."""
    from napari_spatial_ar.archive.sending import files_to_send, send

    outgoing = files_to_send(paths)
    with opened(archive, **connection) as there, progress() as bar:
        answers = _followed(send(there, outgoing.files), bar, "Sending")
        url = there.url
    if outgoing.skipped:
        print_message(f"{outgoing.skipped} files are not DICOM and were not sent.")
    print_answers(url, answers)
    result = {"url": url, **told_answers(answers), "skipped": outgoing.skipped}
    if result["refused"]:
        raise NotAllDone(result)
    return result


def print_answers(url: str, answers: tuple[SentFile, ...]) -> None:
    """Print what an archive answered."""
    counts = {state: sum(one.state == state for one in answers) for state in ("stored", "there")}
    print_message(f"{url}: {counts['stored']} files stored, {counts['there']} were there before.")
    for one in answers:
        if one.state == "refused":
            print_message(f"refused: {one.file.path}: {one.reason}")
        elif one.reason:
            print_message(f"warning: {one.file.path}: stored, but {one.reason}")


def told_answers(answers: tuple[SentFile, ...]) -> dict[str, Any]:
    """Return what an archive answered, for JSON."""
    return {
        **{
            state: sum(one.state == state for one in answers)
            for state in ("stored", "there", "refused")
        },
        "files": [
            {
                "path": str(one.file.path),
                "sop_uid": one.file.sop_uid,
                "state": one.state,
                "reason": one.reason,
            }
            for one in answers
        ],
    }


# ---------------------------------------------------------------- score


def retrieved(
    place: str, query: list[str], model: str, every_series: bool
) -> tuple[list[Path], list[str]]:
    """Retrieve the series of a model's modality that a query finds, into the cache.

    Returns
    -------
    folders : list of Path
        One for each series.
    left_out : list of str
        A sentence for each series that is no acquired one, unless every series is wanted.
    """
    from napari_spatial_ar.archive.cache import StudyCache
    from napari_spatial_ar.archive.entries import StudyQuery, series_for
    from napari_spatial_ar.archive.watching import holds_originals
    from napari_spatial_ar.normative.library import find_model
    from napari_spatial_ar.normative.model_file import read_header

    asked = StudyQuery.parse(query)
    if asked.is_empty:
        raise typer.BadParameter("--query needs a value: the whole archive is not scored.")
    header, _ = read_header(find_model(model))
    admits = series_for(header.modality)
    cache = StudyCache()
    folders: list[Path] = []
    left_out: list[str] = []
    with opened(place) as archive, progress() as bar:
        found = archive.find_studies(asked)
        if found.more:
            raise InputError("more than 500 studies match the query", fix="Ask for fewer")
        wanted = [
            series
            for study in found.studies
            for series in archive.find_series(study.study_uid)
            if admits(series)
        ]
        for number, series in enumerate(wanted, 1):
            steps = cache.get(archive, series, folders)
            got = _followed(steps, bar, f"Retrieving series {number} of {len(wanted)}")
            if every_series or holds_originals(got.folder):
                folders.append(got.folder)
            else:
                left_out.append(f"{got.folder.name} has no acquired images and was excluded.")
        url = archive.url
    print_message(f"{url}: {len(folders)} series in {len(found.studies)} studies.")
    if not folders:
        raise InputError(
            f"no series of the model's modality matches the query in {url}",
            fix="See 'archive find --series'",
        )
    return folders, left_out


def send_results(place: str, folders: list[Path]) -> dict[str, Any]:
    """Send the DICOM objects of scans' results; returns what the archive answered, for JSON."""
    from napari_spatial_ar.archive.results import result_files
    from napari_spatial_ar.archive.sending import send

    files = tuple(file for folder in folders for file in result_files(folder))
    with opened(place) as archive, progress() as bar:
        answers = _followed(send(archive, files), bar, "Sending")
        print_answers(archive.url, answers)
    return told_answers(answers)


# ---------------------------------------------------------------- listen, watch


@archive_app.command("listen", rich_help_panel="Services")
@command
@with_connection()
def archive_listen(
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="Port to listen on.")],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Gets a folder for each series, once it is whole.")
    ],
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Address to listen on; others than this machine's own need --allow.",
        ),
    ] = "127.0.0.1",
    allow: Annotated[
        list[str] | None,
        typer.Option(metavar="TITLE", help="AE title that may send; may be repeated."),
    ] = None,
    settle: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=0,
            help="A series is whole if no image of it arrived for so long.",
        ),
    ] = 10.0,
    tls: Annotated[
        bool,
        typer.Option(
            "--tls",
            help="Be reached by TLS only, with --cert; with --ca, senders need a certificate too.",
            rich_help_panel=_CONNECTION,
        ),
    ] = False,
    json: Json = None,
    **connection: Any,
) -> dict[str, Any]:
    """Receive what modalities and routers push (C-STORE), until Ctrl+C or SIGTERM.

    Each image is checked and safe on the disk before its sender is told so. Series that were on
    their way go on when it is started again.
    """
    from napari_spatial_ar.archive.access import Access, need_extra
    from napari_spatial_ar.archive.address import is_loopback

    if not is_loopback(host) and not allow:
        raise InputError(
            f"anyone who reaches {host} could send images",
            fix="Give the AE titles that may with --allow",
        )
    try:
        from napari_spatial_ar.archive.listening import listen
    except ImportError as error:
        raise need_extra(error) from error
    access = Access(**_given(connection))
    series: list[dict[str, Any]] = []
    refused, waiting, bound = 0, 0, None
    steps = listen(
        out, access, port=port, host=host, allowed=allow or (), settle=settle, secure=tls
    )
    with stopped_by_signals() as stop:
        try:
            for news in steps:
                if bound is None:
                    bound = news.port
                    print_message(f"{access.aet} listens on {host}:{bound}; Ctrl+C ends it.")
                waiting = news.waiting
                if news.series is not None:
                    series.append({"folder": str(news.series), "instances": news.instances})
                    print_message(f"{news.series}: {news.instances} images")
                if news.refused:
                    refused += 1
                    print_message(f"refused: {news.refused}")
                if stop.is_set():
                    break
        finally:
            steps.close()
    if waiting:
        print_message(f"{waiting} series were on their way and go on with the next start.")
    return {"port": bound, "series": series, "refused": refused, "waiting": waiting}


@archive_app.command("watch", rich_help_panel="Services")
@command
@with_connection(receives=True)
def archive_watch(
    archive: Place,
    model: ModelOption,
    to: Annotated[
        str,
        typer.Option(
            metavar="ARCHIVE", help="Where results go: URL or name; may be the same archive."
        ),
    ],
    ledger: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="Folder for the ledger, by which each series is scored once, and for results.",
        ),
    ],
    patient_id: PatientId = None,
    name: PatientName = None,
    accession: Accession = None,
    date: Dates = None,
    modality: ModalityCode = None,
    description: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Score only series with such a description; * and ? are wildcards, case does "
            "not count.",
        ),
    ] = None,
    interval: Annotated[
        float, typer.Option(metavar="SECONDS", min=1, help="From one query to the next.")
    ] = 60.0,
    settle: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", min=0, help="Score a series once it has not grown for so long."
        ),
    ] = 30.0,
    once: Annotated[
        bool, typer.Option("--once", help="Stop once all that match are done.")
    ] = False,
    dicom_objects: Annotated[
        str,
        typer.Option(
            metavar="KINDS",
            help="Results to send: seg, pm, sr, capture, gsps, or all; see 'score'.",
        ),
    ] = SENT_OBJECTS,
    outside_domain: Annotated[
        bool,
        typer.Option(
            "--outside-domain",
            help="Also send results of scans outside the model's training domain. Without it they "
            "are scored, but their results stay in the ledger's folder.",
        ),
    ] = False,
    fpr: Annotated[
        float,
        typer.Option(
            metavar="SHARE", min=0, max=1, help="Share of normal tissue that the mask may flag."
        ),
    ] = 0.01,
    device: Device = "auto",
    json: Json = None,
    **connection: Any,
) -> dict[str, Any]:
    """Score what is new in an archive, once, and send the results, until Ctrl+C or SIGTERM.

    Series of the model's modality are scored, each when all of it is there. Started again, even
    after it was killed, it goes on where it was; nothing is scored or sent twice. While an archive
    does not answer, it waits.
    """
    from napari_spatial_ar.archive.entries import series_for
    from napari_spatial_ar.archive.watching import watch
    from napari_spatial_ar.errors import Cancelled
    from napari_spatial_ar.normative.cancellation import cancel_when
    from napari_spatial_ar.normative.model import load_model
    from napari_spatial_ar.review.batch import score_scans

    def query() -> StudyQuery:
        return _query(patient_id, name, accession, date, modality)

    query()  # says at once if it is not valid
    kinds = dicom_kinds(True, dicom_objects)
    loaded = load_model(model, device=device)
    loaded.threshold_for_fpr(fpr)  # says before any work if it cannot
    done: list[dict[str, Any]] = []

    def score(folder: Path, out: Path) -> str:
        # Results there are of an earlier run with other settings, or of fewer images.
        scans = score_scans([folder], loaded, out, fpr=fpr, dicom=kinds, overwrite=True)["scans"]
        unlike = [] if outside_domain else [reason for scan in scans for reason in scan["unlike"]]
        return f"it is outside the model's training domain: {'; '.join(unlike)}" if unlike else ""

    with (
        opened(archive, **connection) as source,
        opened(to, **connection) as target,
        stopped_by_signals() as stop,
        cancel_when(stop.is_set),
        progress() as bar,
    ):
        steps = watch(
            source,
            target,
            query,
            ledger,
            score,
            admits=series_for(loaded.modality, description),
            interval=interval,
            settle=settle,
            once=once,
        )
        print_message(f"Watching {source.url}; Ctrl+C ends it.")
        try:
            _tell(steps, bar, done)
        except Cancelled:
            print_message("Stopped. What is not done goes on with the next start.")
        finally:
            steps.close()
    return {"series": done}


def _tell(steps: Iterator[Watched], bar: Any, done: list[dict[str, Any]]) -> None:
    """Print what happens during a watch."""
    said = ""
    for news in steps:
        bar(news.doing.capitalize() or "Waiting", news.done, news.total)
        if news.trouble and news.trouble != said:
            print_message(news.trouble)
        said = news.trouble or said
        entry = news.entry
        if entry is None:
            continue
        said = ""
        done[:] = [one for one in done if one["key"] != entry.key] + [asdict(entry)]
        why = f": {entry.reason}" if entry.reason else ""
        many = f", {len(entry.sent)} objects" if entry.state == "sent" else ""
        print_message(f"{entry.key}: {entry.state}{many}{why}")
