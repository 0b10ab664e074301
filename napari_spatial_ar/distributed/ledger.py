"""The ledger of finished scans: one small JSON file each, so that many may write concurrently.

An entry is written after the scan's results, by the process that wrote them. A run that is stopped
at any moment, in any of its processes, therefore resumes with the help of the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from napari_spatial_ar.distributed.storage import Storage
from napari_spatial_ar.imaging.files import strict_json
from napari_spatial_ar.imaging.json_text import parse_json
from napari_spatial_ar.json_schemas import LedgerEntry, stamped

__all__ = ["Entry", "Ledger"]

_FOLDER = "ledger"


@dataclass(frozen=True)
class Entry:
    """A scan whose results have been written.

    Parameters
    ----------
    key : str
        Key of the scan, see `ScanTask`.
    job : str
        Hash of model and settings, see `ScoreJob.digest`.
    folder : str
        The scan's own folder, in the storage of the ledger.
    files : mapping of str to (int, str)
        Size in bytes and sha256 of each file in it.
    record : mapping
        The record returned by `score_scan`; names no file of the scan and no patient.
    finished : str
        When, ISO 8601 in UTC.
    seconds : float
        Time from reading to writing.
    process : int
        Number of the process on its machine.
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
    """The finished scans in a storage.

    Parameters
    ----------
    storage : Storage
        Storage of results and ledger.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def entry(self, key: str) -> Entry | None:
        """Entry of a scan; None if there is none, or it is truncated."""
        data = self.storage.read(f"{_FOLDER}/{key}.json")
        try:
            return parse_json(data or b"", Entry)
        except ValueError:
            return None

    def is_whole(self, entry: Entry) -> bool:
        """Whether every file of a finished scan exists with its size."""
        sizes = self.storage.sizes(entry.folder)
        return all(sizes.get(name) == size for name, (size, _) in entry.files.items())

    def add(self, entry: Entry) -> None:
        """Write an entry, after its results.

        Raises
        ------
        StorageError
            If it cannot be written.
        """
        line = strict_json(stamped(LedgerEntry, asdict(entry)), indent=None)
        self.storage.write(f"{_FOLDER}/{entry.key}.json", line.encode(errors="backslashreplace"))
