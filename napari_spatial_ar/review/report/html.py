"""Reports as self-contained HTML: style, images and everything else in one file."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from napari_spatial_ar.imaging.geometry import slice_number, slice_range
from napari_spatial_ar.review.findings import Finding, ReviewedFinding
from napari_spatial_ar.review.provenance import RESEARCH_USE, recorded_threshold
from napari_spatial_ar.review.report.data import FolderReport, ScanReport
from napari_spatial_ar.review.report.pictures import Picture

__all__ = ["folder_page", "scan_page"]

_STATUS = {"keep": "kept", "unsure": "unsure", "unread": "not read", "reject": "rejected"}
Rows = list[tuple[str, object]]


def scan_page(report: ScanReport) -> str:
    """Write the report of one scan.

    Parameters
    ----------
    report : ScanReport
        Contents of the report.

    Returns
    -------
    str
        A complete HTML document. Every text is escaped; nothing is loaded or run.
    """
    return _page(title=f"Report: {report.title}", first=report, scan=report)


def folder_page(report: FolderReport) -> str:
    """Write the report of a folder: a table of all scans, then the report on each, collapsed.

    Parameters
    ----------
    report : FolderReport
        Contents of the report.

    Returns
    -------
    str
        As for `scan_page`.
    """
    ranked = report.ranked
    written = [entry.report for entry in ranked if entry.report is not None]
    count = f"{len(ranked)} scans" if len(ranked) != 1 else "1 scan"
    return _page(
        title=f"Report: {count}",
        first=written[0] if written else None,
        scan=None,
        threshold=_one_threshold(written),
        ranked=list(ranked),
        left_out=report.left_out,
    )


def _page(**content: object) -> str:
    return _environment().get_template("report.html.jinja").render(content)


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("napari_spatial_ar.review.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    made.globals.update(research_use=RESEARCH_USE, statuses=_STATUS)
    made.filters.update(
        centre=_centre,
        counts=_counts,
        data=_data,
        data_url=_data_url,
        diameter=_diameter,
        result_rows=_result_rows,
        scan_rows=_scan_rows,
        slices=lambda found: slice_range(found.first_slice, found.last_slice),
        volume=_volume,
    )
    return made


def _one_threshold(reports: Sequence[ScanReport]) -> dict[str, object]:
    """State the threshold above the table if all scans have the same."""
    thresholds = {(recorded_threshold(r.record), r.unit, r.threshold_note) for r in reports}
    if len(thresholds) != 1:
        return {"same": False, "text": "The scans were masked at different thresholds: see each."}
    ((cut, unit, note),) = thresholds
    return {"same": True, "text": f"Threshold: {cut:.4g} {unit}. {note}".strip()}


# ---------------------------------------------------------------------- one scan


def _result_rows(report: ScanReport) -> Rows:
    threshold, scan = report.record["threshold"], report.record["scan"]
    rows: Rows = []
    if report.score is not None:
        score = Markup("{} {}, the 95th percentile of its slices' scores")
        rows.append(("Score of the scan", score.format(_data(report.score), report.unit)))
    if report.highest is not None:
        index, highest = report.highest
        slice_ = Markup("{}, score {}").format(slice_number(index), _data(highest))
        rows.append(("Highest slice", slice_))
    if report.scan_note:
        rows.append(("p-value", _data(report.p_value, text=report.scan_note)))
    rows.append(("Flagged regions", _counts(report)))
    share = threshold["share_of_normal_tissue_flagged"]
    meaning = report.threshold_note or (
        f"It flags {share:.2%} of normal tissue." if share is not None else "It is not calibrated."
    )
    cut = _data(recorded_threshold(report.record))
    rows.append(("Threshold", Markup("{} {}. {}").format(cut, report.unit, meaning)))
    made = _mask_settings(report)
    if made:
        rows.append(("Mask", made))
    rows.append(("Slices scored", f"{scan['slices_scored']} of {scan['slices']}"))
    return rows


def _counts(report: ScanReport) -> str:
    counts = ", ".join(f"{n} {_STATUS[status]}" for status, n in report.counts.items())
    return f"{len(report.items)} ({counts})" if counts else "none"


def _mask_settings(report: ScanReport) -> str:
    """Describe how the voxels above the threshold became the mask, as far as settings apply."""
    found = report.record["threshold"]
    parts = []
    for key, text in (
        ("hysteresis", "regions that reach {:.4g}"),
        ("min_size_mm3", "of at least {:g} mm³"),
        ("min_voxels", "of at least {:g} voxels"),
        ("min_area_mm2", "of at least {:g} mm² in a slice"),
        ("min_pixels", "of at least {:g} pixels in a slice"),
        ("smoothing_mm", "smoothed by {:g} mm"),
        ("smoothing_pixels", "smoothed by {:g} pixels"),
    ):
        if found.get(key):
            parts.append(text.format(found[key]))
    parts += ["holes filled"] if found.get("fill_holes") else []
    parts += ["body only"] if found.get("body_only") else []
    parts += ["slices the model has not seen included"] if found.get("unseen_slices") else []
    parts += ["within a drawn region"] if found["drawn_region_voxels"] is not None else []
    refined = found.get("outlines_refined")
    parts += [f"{refined} outlines fitted to the edges of the image"] if refined else []
    changed = "changed further by hand, or" if refined else "changed by hand, or"
    parts += [f"{changed} regions rejected"] if found["mask_edited_by_hand"] else []
    return ", ".join(parts)


def _scan_rows(report: ScanReport) -> Rows:
    scan = report.record["scan"]
    sizes = " x ".join(map(str, scan["shape_zyx"]))
    spacing = " x ".join(f"{step:.4g}" for step in scan["spacing_zyx"])
    regular = "" if scan["regular_grid"] else " (no regular grid: nothing is measured across it)"
    if scan.get("exact_affine") and regular:
        regular = " (sheared: the gantry was tilted)"
    low, high = scan["display_window"]
    rows = {
        "Series": scan["series"],
        "Modality": scan["modality"],
        "Voxels (Z, Y, X)": sizes,
        "Spacing (Z, Y, X)": f"{spacing} {scan['spacing_unit']}{regular}",
        "Slices": f"{scan['plane']}, counted from 1 in the order of the file"
        if scan["spacing_unit"] == "mm"
        else "counted from 1 in the order of the file",
        "Window of the pictures": f"{low:.4g} to {high:.4g} {scan['unit'] or ''}".strip(),
        "Series UID": scan["series_uid"] or "",
        "Study UID": scan["study_uid"] or "",
        "Voxels' sha256": scan["voxels_sha256"],
    }
    return [(heading, str(text)) for heading, text in rows.items() if text]


# ---------------------------------------------------------------------- numbers


def _centre(item: ReviewedFinding) -> Markup | str:
    centre = item.finding.centroid_ras_mm
    return "unknown" if centre is None else Markup(", ").join(_data(v, ".1f") for v in centre)


def _volume(found: Finding) -> Markup:
    ml = found.volume_ml
    if ml is None:
        return Markup("{} voxels").format(_data(found.voxels, "d"))
    small = f"{float(f'{1000 * ml:.3g}'):g} µl"
    return _data(ml, text=small if ml < 1 else f"{ml:.1f} ml")


def _diameter(found: Finding) -> Markup:
    if found.longest_diameter_mm is None:
        return Markup("{} px").format(_data(found.longest_diameter_px, ".0f"))
    return Markup("{} mm").format(_data(found.longest_diameter_mm, ".1f"))


def _data(value: float | None, form: str = ".4g", *, text: str = "") -> Markup:
    """Write a rounded number for people, with the full value for machines."""
    if value is None:
        return Markup("")
    shown = text or format(value, form)
    return Markup('<data value="{}">{}</data>').format(repr(value), shown)


def _data_url(picture: Picture) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(picture.data).decode('ascii')}"
