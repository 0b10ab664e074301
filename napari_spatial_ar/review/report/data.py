"""Contents of a report on a scan or on a folder of scans: plain data, derived from results.

`napari_spatial_ar.review.report.html` turns it into text. Nothing in it names a patient, a file or
a series' free text; UIDs are hashed unless the record of the results contains them.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from napari_spatial_ar.errors import SpatialARError
from napari_spatial_ar.normative.calibration.calibration import scan_score
from napari_spatial_ar.normative.scoring_model import ScoringModel
from napari_spatial_ar.review.findings import ReviewedFinding
from napari_spatial_ar.review.p_values import p_note, share_note
from napari_spatial_ar.review.report.pictures import Picture, SlicePictures, chosen_slices
from napari_spatial_ar.review.results import ScanResults
from napari_spatial_ar.steps import finish

__all__ = [
    "IN_A_FOLDER",
    "REPORT_FILE",
    "FolderEntry",
    "FolderReport",
    "ScanReport",
    "report_message",
    "report_steps",
    "scan_report",
]

REPORT_FILE = "report.html"
#: Images per scan in the report of a folder, all of which a browser has to hold in memory.
IN_A_FOLDER = 4
_MOST = 16


@dataclass(frozen=True)
class ScanReport:
    """Contents of the report on one scan.

    Parameters
    ----------
    title : str
        The series' label.
    record : mapping
        See `ScanResults.record`.
    items : tuple of ReviewedFinding
        Highest peak first, including rejected ones.
    score : float or None
        `scan_score`, in the model's unit; None if no slice is scored.
    highest : (int, float) or None
        The slice with the highest score, and that score.
    p_value : float or None
        P-value of the whole scan.
    threshold_note, scan_note : str
        One sentence on the basis of threshold and p-value; "" if there is none.
    warnings : tuple of str
        What to know before reading on.
    model : tuple of (str, str)
        Description of the model: headings and values.
    pictures : tuple of Picture
        Images of findings, then of the highest-scoring slices.
    legend, thumbnail : Picture or None
        None if no slice is scored.
    without_picture : int
        Number of findings, not rejected, whose slice is not among the images.
    """

    title: str
    record: Mapping[str, Any] = field(repr=False)
    items: tuple[ReviewedFinding, ...] = ()
    score: float | None = None
    highest: tuple[int, float] | None = None
    p_value: float | None = None
    threshold_note: str = ""
    scan_note: str = ""
    warnings: tuple[str, ...] = ()
    model: tuple[tuple[str, str], ...] = ()
    pictures: tuple[Picture, ...] = ()
    legend: Picture | None = None
    thumbnail: Picture | None = None
    without_picture: int = 0

    def shortened(self, most: int = IN_A_FOLDER) -> ScanReport:
        """Return it with its first images only, for the report of a folder."""
        return replace(self, pictures=self.pictures[:most]) if len(self.pictures) > most else self

    @property
    def unit(self) -> str:
        """Unit of scores and threshold."""
        return str(self.record["threshold"]["unit"])

    @property
    def counts(self) -> dict[str, int]:
        """Number of findings by status, without those that do not occur."""
        statuses = [item.status for item in self.items]
        return {status: statuses.count(status) for status in dict.fromkeys(statuses)}

    @property
    def findings(self) -> int:
        """Findings that are not rejected."""
        return len(self.items) - self.counts.get("reject", 0)


@dataclass(frozen=True)
class FolderEntry:
    """A scan of a folder, with its report or the reason why there is none.

    Parameters
    ----------
    label : str
        The series' label, or a name for an input without one: not a file name.
    report : ScanReport or None
        None if it failed or is not scored.
    trouble : str
        Why there is none: a sentence.
    reading : str
        "unread", "seen" or "done"; "" if that is not recorded.
    """

    label: str
    report: ScanReport | None = None
    trouble: str = ""
    reading: str = ""


@dataclass(frozen=True)
class FolderReport:
    """Contents of the report on a folder of scans.

    Parameters
    ----------
    entries : tuple of FolderEntry
        In any order.
    left_out : tuple of str
        One sentence for each series that was excluded for its type.
    """

    entries: tuple[FolderEntry, ...]
    left_out: tuple[str, ...] = ()

    @property
    def ranked(self) -> list[FolderEntry]:
        """Highest score first, then those without one."""

        def key(entry: FolderEntry) -> tuple[bool, float]:
            score = None if entry.report is None else entry.report.score
            return score is None, 0.0 if score is None else -score

        return sorted(self.entries, key=key)


def report_message(error: Exception) -> str:
    """One sentence on an error, without the file's name, which may contain a patient's."""
    if isinstance(error, SpatialARError):
        text = str(SpatialARError(error.what, fix=error.fix))
        return text[:1].upper() + text[1:]
    return f"It stopped because of an unexpected problem ({type(error).__name__})."


def report_steps(
    results: ScanResults,
    model: ScoringModel,
    *,
    warnings: Sequence[str] = (),
    most: int = _MOST,
) -> Generator[None, None, ScanReport]:
    """Compile the report of a scan, yielding after each image.

    Parameters
    ----------
    results : ScanResults
        The results.
    model : NormativeModel
        The model that scored it.
    warnings : sequence of str
        Reported beside those of scan, model and results.
    most : int
        Maximum number of images of slices.
    """
    volume, score = results.volume, results.score
    pictures = SlicePictures(results)
    chosen = chosen_slices(results, most)
    drawn = yield from pictures.draw(chosen)
    shown = {item.finding.rank for _, items in chosen for item in items}
    items = tuple(
        replace(item, finding=finding)
        for item, finding in zip(results.listed.items, results.findings, strict=True)
    )
    any_scored = bool(score.scored.any())
    highest = max(
        ((float(score.image_scores[i]), -i) for i in score.scored.nonzero()[0]), default=None
    )
    top = None if highest is None else (-int(highest[1]), highest[0])
    calibration = model.header.calibration
    note = (
        "" if calibration is None else share_note(calibration, results.threshold, results.settings)
    )
    return ScanReport(
        title=volume.series.label,
        record=results.record,
        items=items,
        score=scan_score(score.image_scores) if any_scored else None,
        highest=top,
        p_value=None if results.p_values is None else results.p_values.scan,
        threshold_note=note,
        scan_note=p_note(results.p_values),
        warnings=tuple(
            dict.fromkeys((*results.shift_warnings, *volume.warnings, *warnings, *model.notes))
        ),
        model=_model_rows(model, results.record["model"]),
        pictures=drawn,
        legend=pictures.legend() if drawn else None,
        thumbnail=None if top is None else pictures.thumbnail(top[0]),
        without_picture=sum(
            item.status != "reject" and item.finding.rank not in shown for item in items
        ),
    )


def scan_report(
    results: ScanResults,
    model: ScoringModel,
    *,
    warnings: Sequence[str] = (),
    most: int = _MOST,
) -> ScanReport:
    """Compile the report of a scan; see `report_steps`."""
    return finish(report_steps(results, model, warnings=warnings, most=most))


def _model_rows(model: ScoringModel, summary: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Describe a model, according to its file's header."""
    backbone, training = summary.get("backbone") or {}, summary.get("training") or {}
    source = str(model.backbone.source)
    layers = ", ".join(map(str, backbone.get("layers") or ())) or "last"
    weights = str(backbone.get("sha256", ""))[:16]
    rows = {
        "Name": str(summary["name"]),
        "sha256": str(summary.get("sha256", "")),
        "Method": str(summary.get("method", "")),
        "Settings": _settings(summary.get("parameters") or {}),
        "Modality": str(summary.get("modality", "")),
        "Backbone": f"{backbone['name']}, block {layers}" if backbone.get("name") else "",
        # Only the name of a file: folders contain the user's name.
        "Backbone's weights": ", from ".join(filter(None, (weights, Path(source).name))),
        "Trained on": _count(training.get("images"), training.get("subjects")),
        "Calibration": _calibration(summary.get("calibration")),
    }
    return tuple((heading, text) for heading, text in rows.items() if text)


def _settings(values: Mapping[str, Any]) -> str:
    parts = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            parts.append(f"{key} ({_settings(value)})")
        else:
            parts.append(f"{key} {value:.6g}" if isinstance(value, float) else f"{key} {value}")
    return ", ".join(parts)


def _count(slices: object, patients: object) -> str:
    if slices is None:
        return ""
    return f"{slices} slices" + ("" if patients is None else f" of {patients} patients")


def _calibration(found: Mapping[str, Any] | None) -> str:
    if not found:
        return "none: shares of normal tissue and p-values are unknown"
    text = f"on {_count(found.get('slices'), found.get('patients'))}"
    if found.get("folds"):
        return f"{text}, in {found['folds']} folds"
    return text if found.get("separate") else f"{text}, possibly used in the fit"
