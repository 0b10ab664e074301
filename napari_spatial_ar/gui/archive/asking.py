"""Workers that ask an archive: each opens it, and closes it at its end."""

from __future__ import annotations

import re
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from io import BytesIO
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from napari_spatial_ar.archive.access import Access, Credentials, keep_credentials
from napari_spatial_ar.archive.address import Address
from napari_spatial_ar.archive.cache import StudyCache
from napari_spatial_ar.archive.entries import SeriesEntry, StudyQuery
from napari_spatial_ar.archive.interface import Archive, Found
from napari_spatial_ar.archive.opening import open_archive
from napari_spatial_ar.archive.saved import (
    SavedArchive,
    address_of,
    remove_archive,
    save_archive,
    saved_archives,
)
from napari_spatial_ar.datasets.thumbnails import THUMBNAIL_SIZE
from napari_spatial_ar.errors import SpatialARError
from napari_spatial_ar.normative.cancellation import cancel_when
from napari_spatial_ar.steps import mapped, run_until_stopped

__all__ = [
    "ArchiveQuery",
    "echo_steps",
    "emptying_steps",
    "find_steps",
    "get_steps",
    "opened",
    "picture_steps",
    "removing_steps",
    "retrieval",
    "saved_steps",
    "saving_steps",
    "series_steps",
]

#: Name of a saved archive, or where one is that is not saved yet.
Place = str | tuple[Address, Access]

# Larger pictures are no thumbnails.
_MOST_PIXELS = 4096 * 4096
_LAST_DAYS = re.compile(r"last (\d{1,4}) days", re.IGNORECASE)


@contextmanager
def opened(stop: threading.Event, place: Place) -> Iterator[Archive]:
    """Open an archive, in a worker; its waits end once ``stop`` is set."""
    with cancel_when(stop.is_set):
        archive = open_archive(*(address_of(place) if isinstance(place, str) else place))
        try:
            yield archive
        finally:
            archive.close()


@dataclass(frozen=True)
class ArchiveQuery:
    """A query as it was typed, so that "today" is the day on which it is asked.

    Parameters
    ----------
    archive : str
        Name of the saved archive.
    texts : mapping of str to str
        Arguments of `StudyQuery.of`, which may be empty. A date may also be ``last N days``.
    """

    archive: str
    texts: Mapping[str, str] = field(repr=False)

    def asked(self) -> StudyQuery:
        """Return the query (`InputError` if a text is not valid)."""
        texts = dict(self.texts)
        last = _LAST_DAYS.fullmatch(texts.get("date", "").strip())
        if last is not None:
            today = datetime.now().astimezone().date()
            texts["date"] = f"{today - timedelta(days=max(0, int(last[1]) - 1)):%Y%m%d}-"
        return StudyQuery.of(**texts)


# ---------------------------------------------------------------- saved archives


def saved_steps(stop: threading.Event) -> Generator[None, None, dict[str, SavedArchive]]:
    """Read the saved archives."""
    yield
    return saved_archives()


def saving_steps(
    stop: threading.Event,
    name: str,
    archive: SavedArchive,
    credentials: Credentials | None,
    replaced: str,
) -> Generator[None, None, str]:
    """Save an archive, and its credentials in the keyring; returns its name.

    ``replaced`` is the name under which it was saved before, "" for a new one.

    Raises
    ------
    InputError, StorageError
        As for `save_archive` and `keep_credentials`.
    """
    yield
    if credentials is not None:
        keep_credentials(archive.address, credentials)
    save_archive(name, archive, overwrite=name == replaced)
    if replaced and replaced != name:
        remove_archive(replaced)
    return name


def removing_steps(stop: threading.Event, name: str) -> Generator[None, None, str]:
    """Forget an archive, and its credentials; returns its name."""
    yield
    remove_archive(name)
    return name


def echo_steps(stop: threading.Event, place: Place) -> Generator[None, None, str]:
    """Check that an archive answers and lets us in; returns its URL."""
    yield
    with opened(stop, place) as archive:
        archive.echo()
        return archive.url


# ---------------------------------------------------------------- queries


def find_steps(stop: threading.Event, query: ArchiveQuery) -> Generator[None, None, Found]:
    """Find studies."""
    yield
    asked = query.asked()
    with opened(stop, query.archive) as archive:
        return archive.find_studies(asked)


def series_steps(
    stop: threading.Event, place: Place, study_uid: str
) -> Generator[None, None, tuple[SeriesEntry, ...]]:
    """List the series of a study."""
    yield
    with opened(stop, place) as archive:
        return archive.find_series(study_uid)


def picture_steps(
    stop: threading.Event, place: Place, series: Sequence[SeriesEntry]
) -> Generator[tuple[SeriesEntry, Image.Image], None, None]:
    """Get thumbnails, as far as the archive offers them; an error ends it silently."""
    with suppress(SpatialARError), opened(stop, place) as archive:
        for one in series:
            if stop.is_set():
                return
            picture = _picture(archive.thumbnail(one))
            if picture is not None:
                yield one, picture


def _picture(data: bytes | None) -> Image.Image | None:
    """Decode a thumbnail as RGB; None if it is none."""
    if data is None:
        return None
    try:
        with Image.open(BytesIO(data), formats=("JPEG", "PNG", "GIF")) as made:
            if made.width * made.height > _MOST_PIXELS:
                return None
            made.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE))
            return made.convert("RGB")
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError):
        return None


# ---------------------------------------------------------------- retrieval

# Folders of series retrieved since the program was started: open scans may still read from them.
_in_use: set[Path] = set()


def retrieval(
    stop: threading.Event, archive: Archive, series: SeriesEntry, what: str
) -> Generator[str, None, Path | None]:
    """Retrieve a series into the cache; yields lines for the user.

    Returns
    -------
    Path or None
        Its folder; None if it was stopped.
    """
    steps = StudyCache().get(archive, series, tuple(_in_use))
    lines = mapped(steps, lambda step: f"Retrieving {what}: {step.done} of {step.total} images...")
    got = yield from run_until_stopped(stop, lines, news=str)
    if got is None:
        return None
    _in_use.add(got.folder)
    return got.folder


def get_steps(
    stop: threading.Event, place: Place, series: Sequence[SeriesEntry]
) -> Generator[str, None, list[Path]]:
    """Retrieve series; returns the folders of those that are whole."""
    folders: list[Path] = []
    yield "Asking the archive..."
    with opened(stop, place) as archive:
        for number, one in enumerate(series, 1):
            what = f"series {number} of {len(series)}" if len(series) > 1 else "the series"
            folder = yield from retrieval(stop, archive, one, what)
            if folder is None:
                break
            folders.append(folder)
    return folders


def emptying_steps(stop: threading.Event) -> Generator[None, None, int]:
    """Empty the cache, except for series retrieved since the start; returns the bytes freed."""
    yield
    cache = StudyCache(limit=0)
    before = cache.size()
    cache.trim(keep=tuple(_in_use))
    return before - cache.size()
