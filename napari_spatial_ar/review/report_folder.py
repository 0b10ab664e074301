"""The report of a folder, made while its scans are scored, or from what a worklist keeps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.files import atomic_write_text
from napari_spatial_ar.review.report import (
    REPORT_FILE,
    FolderEntry,
    FolderReport,
    ScanReport,
    told_in_report,
)
from napari_spatial_ar.review.report_html import folder_page

__all__ = ["FolderReports"]


class FolderReports:
    """Collects what the report of a run says of each scan.

    Parameters
    ----------
    folder : Path
        Gets ``report.html``.
    overwrite : bool
        Replace that of an earlier run.

    Raises
    ------
    InputError
        If there is one and ``overwrite`` is False.
    """

    def __init__(self, folder: Path, *, overwrite: bool = False) -> None:
        self.path = folder / REPORT_FILE
        self.entries: list[FolderEntry] = []
        if self.path.exists() and not overwrite:
            raise InputError(
                "a report of an earlier run is in this folder",
                path=folder,
                fix="Choose another folder, or ask for it to be overwritten",
            )

    def add(self, report: ScanReport) -> None:
        """Take a scan."""
        self.entries.append(FolderEntry(report.title, report.shortened()))

    def fail(self, error: Exception, number: int, name: str = "") -> None:
        """Take a scan that could not be read or scored.

        Parameters
        ----------
        error : Exception
            Why.
        number : int
            Of the input that it was found in, from 0.
        name : str
            What its folder would have been called; "" where it has no name but its file's, which
            may be a patient's.
        """
        label = f"Input {number + 1}" + (f", {name}" if name else "")
        self.entries.append(FolderEntry(label, trouble=told_in_report(error)))

    def write(self, left_out: Sequence[str] = ()) -> Path:
        """Write the report, whole or not at all, and say where (`StorageError`)."""
        page = folder_page(FolderReport(tuple(self.entries), tuple(left_out)))
        atomic_write_text(self.path, page)
        return self.path
