"""Which scans are finished: one small JSON file each, so that many may write at once.

An entry is written after the scan's results, by whoever wrote them. A run that is stopped at any
moment, in any of its processes, therefore goes on by asking the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from napari_spatial_ar.distributed.storage import Place
from napari_spatial_ar.imaging.files import strict_json
from napari_spatial_ar.imaging.json_text import parse_json
from napari_spatial_ar.json_schemas import LedgerEntry, stamped

__all__ = ["Entry", "Ledger"]

_FOLDER = "ledger"


@dataclass(frozen=True)
class Entry:
    """A scan whose results are written.

    Parameters
    ----------
    key : str
        Of the scan, see `ScanTask`.
    job : str
        Of model and settings, see `ScoreJob.digest`.
    folder : str
        The scan's own, in the place of the ledger.
    files : mapping of str to (int, str)
        Bytes and sha256 of each file in it.
    record : mapping
        What `score_scan` says of it; names no file of the scan and no patient.
    finished : str
        When, ISO 8601 in UTC.
    seconds : float
        From reading to writing.
    process : int
        Which process of its machine scored it.
    """

    key: str
    job: str
    folder: str
    files: Mapping[str, tuple[int, str]]
    record: Mapping[str, Any]
    finished: str
    seconds: float
    process: int


class Ledger:
    """The finished scans of a place.

    Parameters
    ----------
    place : Place
        Where results and ledger are.
    """

    def __init__(self, place: Place) -> None:
        self.place = place

    def entry(self, key: str) -> Entry | None:
        """Entry of a scan; None where there is none, or one cut short."""
        data = self.place.read(f"{_FOLDER}/{key}.json")
        try:
            return parse_json(data or b"", Entry)
        except ValueError:
            return None

    def is_whole(self, entry: Entry) -> bool:
        """Whether every file of a finished scan is there with its size."""
        sizes = self.place.sizes(entry.folder)
        return all(sizes.get(name) == size for name, (size, _) in entry.files.items())

    def add(self, entry: Entry) -> None:
        """Write an entry; its results are to be written before.

        Raises
        ------
        StorageError
            If it cannot be written.
        """
        line = strict_json(stamped(LedgerEntry, asdict(entry)), indent=None)
        self.place.write(f"{_FOLDER}/{entry.key}.json", line.encode(errors="backslashreplace"))
