"""What a report says of a scan and of a folder of scans: plain data, made from results.

`napari_spatial_ar.review.report.html` turns it into text. Nothing in it names a patient, a file or
a series' free text; UIDs are hashed unless the record of the results keeps them.
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
#: Pictures of each scan in the report of a folder, which a browser has to hold whole.
IN_A_FOLDER = 4
_MOST = 16


@dataclass(frozen=True)
class ScanReport:
    """What is said of one scan.

    Parameters
    ----------
    title : str
        The series' label.
    record : mapping
        See `ScanResults.record`.
    items : tuple of ReviewedFinding
        Highest peak first, rejected ones among them.
    score : float or None
        `scan_score`, in the model's unit; None where no slice is scored.
    highest : (int, float) or None
        The slice with the highest score, and that.
    p_value : float or None
        Of the scan as a whole.
    threshold_note, scan_note : str
        One sentence on what threshold and p-value rest on; "" where there is none.
    warnings : tuple of str
        What to know before reading on.
    model : tuple of (str, str)
        What the model is: headings and values.
    pictures : tuple of Picture
        Of findings, then of the highest-scoring slices.
    legend, thumbnail : Picture or None
        None where no slice is scored.
    without_picture : int
        Findings, not rejected, whose slice is not among the pictures.
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
        """Return it with its first pictures alone, for the report of a folder."""
        return replace(self, pictures=self.pictures[:most]) if len(self.pictures) > most else self

    @property
    def unit(self) -> str:
        """Of scores and threshold."""
        return str(self.record["threshold"]["unit"])

    @property
    def counts(self) -> dict[str, int]:
        """Findings by status, those that there are."""
        statuses = [item.status for item in self.items]
        return {status: statuses.count(status) for status in dict.fromkeys(statuses)}

    @property
    def findings(self) -> int:
        """Findings that are not rejected."""
        return len(self.items) - self.counts.get("reject", 0)


@dataclass(frozen=True)
class FolderEntry:
    """A scan of a folder, with its report or why there is none.

    Parameters
    ----------
    label : str
        The series' label, or what an input without one is called: no file name.
    report : ScanReport or None
        None where it failed or is not scored.
    trouble : str
        Why there is none: a sentence.
    reading : str
        "unread", "seen" or "done"; "" where nobody keeps that.
    """

    label: str
    report: ScanReport | None = None
    trouble: str = ""
    reading: str = ""


@dataclass(frozen=True)
class FolderReport:
    """What is said of all scans of a folder.

    Parameters
    ----------
    entries : tuple of FolderEntry
        In any order.
    left_out : tuple of str
        One sentence for each series that was not scored for what it is.
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
    """One sentence on an error, without the file's name, which may be a patient's."""
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
    """Make the report of a scan, yielding after each picture.

    Parameters
    ----------
    results : ScanResults
        What was found.
    model : NormativeModel
        By what.
    warnings : sequence of str
        To be told beside those of scan, model and results.
    most : int
        Pictures of slices at most.
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
    note = "" if calibration is None else share_note(calibration, results.threshold)
    return ScanReport(
        title=volume.series.label,
        record=results.record,
        items=items,
        score=scan_score(score.image_scores) if any_scored else None,
        highest=top,
        p_value=None if results.p_values is None else results.p_values.scan,
        threshold_note=note,
        scan_note=p_note(results.p_values),
        warnings=tuple(dict.fromkeys((*results.unlike, *volume.warnings, *warnings, *model.notes))),
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
    """Make the report of a scan; see `report_steps`."""
    return finish(report_steps(results, model, warnings=warnings, most=most))


def _model_rows(model: ScoringModel, summary: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Say what a model is, as far as its file's header does."""
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
        # Of a file only its name: folders name the user.
        "Backbone's weights": ", from ".join(filter(None, (weights, Path(source).name))),
        "Trained on": _count(training.get("images"), training.get("subjects")),
        "Calibration": _calibration(summary.get("calibration")),
    }
    return tuple((heading, text) for heading, text in rows.items() if text)


def _settings(values: Mapping[str, Any]) -> str:
    said = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            said.append(f"{key} ({_settings(value)})")
        else:
            said.append(f"{key} {value:.6g}" if isinstance(value, float) else f"{key} {value}")
    return ", ".join(said)


def _count(slices: Any, patients: Any) -> str:
    if slices is None:
        return ""
    return f"{slices} slices" + ("" if patients is None else f" of {patients} patients")


def _calibration(found: Mapping[str, Any] | None) -> str:
    if not found:
        return "none: shares of normal tissue and p-values are not known"
    text = f"on {_count(found.get('slices'), found.get('patients'))}"
    if found.get("folds"):
        return f"{text}, in {found['folds']} folds"
    return text if found.get("separate") else f"{text}, which may have had a part in the fit"
