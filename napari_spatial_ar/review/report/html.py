"""Reports as HTML that needs nothing but the one file: style, pictures and all inside it."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

from napari_spatial_ar.imaging.geometry import slice_number, slice_range
from napari_spatial_ar.review.findings import ReviewedFinding
from napari_spatial_ar.review.provenance import RESEARCH_USE, recorded_threshold
from napari_spatial_ar.review.report.data import FolderEntry, FolderReport, ScanReport
from napari_spatial_ar.review.report.pictures import Picture

__all__ = ["folder_page", "scan_page"]

# Contrast of at least 7 to 1 on the screen, light or dark as the reader's system is, and on A4,
# which is light. WeasyPrint knows no prefers-color-scheme and leaves the rule out.
_STYLE = """
:root{color-scheme:light dark;--page:#fff;--text:#1a1a1a;--quiet:#4a4a4a;--gone:#555;--link:#00c;
--line:#ccc;--strong:#555;--use:#800;--border:#a00;--note:#fff6e5;--mark:#b36b00}
@media screen and (prefers-color-scheme:dark){:root{--page:#161616;--text:#e4e4e4;--quiet:#b8b8b8;
--gone:#adadad;--link:#9cc2ff;--line:#444;--strong:#999;--use:#ffa9a0;--border:#d9544d;
--note:#33270f;--mark:#d08a1d}}
body{font:15px/1.45 system-ui,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;color:var(--text);
background:var(--page);margin:1.5rem auto;max-width:64rem;padding:0 1rem}
h1{font-size:1.6rem;margin:.2rem 0}h2{font-size:1.3rem;margin:1.4rem 0 .4rem}
h3{font-size:1.05rem;margin:1.1rem 0 .3rem}p{margin:.3rem 0}a{color:var(--link)}
h1,p,li,summary,figcaption{overflow-wrap:anywhere}
.use{border:2px solid var(--border);color:var(--use);font-weight:bold;padding:.35rem .7rem;
margin:.6rem 0}
.warn{border-left:5px solid var(--mark);background:var(--note);padding:.4rem .8rem;margin:.6rem 0}
.warn ul{margin:.2rem 0;padding-left:1.2rem}.quiet{color:var(--quiet);font-size:.9em}
table{border-collapse:collapse;margin:.4rem 0;width:100%}
caption{text-align:left;color:var(--quiet);font-size:.9em;padding-bottom:.2rem}
th,td{padding:.25rem .5rem;text-align:left;vertical-align:top;border-bottom:1px solid var(--line)}
thead th{border-bottom:2px solid var(--strong)}
.n{text-align:right;font-variant-numeric:tabular-nums}.n,.k{white-space:nowrap}
.facts th{width:13rem;font-weight:normal;color:var(--quiet)}
.facts td{overflow-wrap:anywhere}.text{overflow-wrap:anywhere;min-width:7rem}
.reject td,.reject th{color:var(--gone)}.reject .state{text-decoration:line-through}
.wide{overflow-x:auto}figure{margin:.6rem 0 1rem}
figure img{display:block;max-width:100%;height:auto}figcaption{font-size:.9em}
.thumb{display:block;max-height:6rem;width:auto}
details{border-top:1px solid var(--strong);padding:.3rem 0}
summary{cursor:pointer;font-size:1.1rem;padding:.3rem 0}
@page{size:A4;margin:14mm 12mm 16mm;
@bottom-left{content:"For research use, not for diagnosis.";font-size:9pt}
@bottom-right{content:"Page " counter(page) " of " counter(pages);font-size:9pt}}
@media print{body{font-size:9.5pt;margin:0;padding:0;max-width:none}
h2,h3{break-after:avoid}figure,tr,.warn,.use{break-inside:avoid}thead{display:table-header-group}
th,td{padding:.15rem .3rem}.wide{overflow:visible}.findings{font-size:8pt}.k{white-space:normal}
details::details-content{content-visibility:visible;display:block}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""

_STATUS = {"keep": "kept", "unsure": "unsure", "unread": "not read", "reject": "rejected"}


def scan_page(report: ScanReport) -> str:
    """Write the report of one scan.

    Parameters
    ----------
    report : ScanReport
        What is said.

    Returns
    -------
    str
        A whole HTML document. Every text is escaped; nothing is loaded or run.
    """
    title = f"Report: {report.title}"
    body = f"<h1>{escape(title)}</h1>{_use()}{_created(report)}{_scan(report)}"
    return _document(title, body)


def folder_page(report: FolderReport) -> str:
    """Write the report of a folder: a table of all scans, then what is said of each, folded.

    Parameters
    ----------
    report : FolderReport
        What is said.

    Returns
    -------
    str
        As of `scan_page`.
    """
    ranked = report.ranked
    told = [entry for entry in ranked if entry.report is not None]
    count = f"{len(ranked)} scans" if len(ranked) != 1 else "1 scan"
    title = f"Report: {count}"
    parts = [f"<h1>{escape(title)}</h1>", _use()]
    if told and told[0].report is not None:
        parts.append(_created(told[0].report))
        parts.append(_one_threshold([e.report for e in told if e.report is not None]))
    parts += ["<h2>All scans</h2>", _summary(ranked)]
    if report.left_out:
        parts.append(_list("Left out", report.left_out))
    if told:
        parts.append('<h2 class="each">Each scan</h2>')
    for number, entry in enumerate(ranked, 1):
        if entry.report is not None:
            parts.append(
                f"<details><summary>{number}. {escape(entry.label)}</summary>"
                f'<section id="scan-{number}">{_scan(entry.report)}</section></details>'
            )
    return _document(title, "".join(parts))


def _document(title: str, body: str) -> str:
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<style>{_STYLE}</style></head><body>
{body}
<p class="use">{RESEARCH_USE}</p>
</body></html>
"""


def _use() -> str:
    return f'<p class="use">{RESEARCH_USE}</p>'


def _created(report: ScanReport) -> str:
    version = report.record["versions"].get("napari-spatial-ar", "")
    made = f"Made {report.record['created']} by napari-spatial-ar {version}"
    return f'<p class="quiet">{escape(made.strip())}. Model: {escape(_name(report))}.</p>'


def _name(report: ScanReport) -> str:
    return str(report.record["model"]["name"])


def _one_threshold(reports: Sequence[ScanReport]) -> str:
    """Say the threshold above the table where all scans have the same."""
    said = {(recorded_threshold(r.record), r.unit, r.threshold_note) for r in reports}
    if len(said) != 1:
        return '<p class="quiet">The scans were masked at different thresholds: see each.</p>'
    ((cut, unit, note),) = said
    return f"<p>{escape(f'Threshold: {cut:.4g} {unit}. {note}'.strip())}</p>"


# ---------------------------------------------------------------------- one scan


def _scan(report: ScanReport) -> str:
    parts = [_facts(_result_rows(report))]
    if report.warnings:
        parts.append(f'<div class="warn">{_list("Warnings", report.warnings)}</div>')
    parts.append("<h3>Flagged regions</h3>")
    parts.append(_findings(report))
    if report.pictures:
        parts.append("<h3>Slices</h3>")
        parts.append(
            '<p class="quiet">From left to right: the scan; its scores in colour over it; the '
            "outline of the mask with the regions' numbers. Letters mark the patient's sides "
            "where they are known.</p>"
        )
        parts += [_figure(report.legend)] if report.legend else []
        parts += [_figure(picture) for picture in report.pictures]
        if report.without_picture:
            more = report.without_picture
            said = "1 more region has" if more == 1 else f"{more} more regions have"
            parts.append(f'<p class="quiet">{said} no picture here.</p>')
    parts += ["<h3>Scan</h3>", _facts(_scan_rows(report))]
    parts += ["<h3>Model</h3>", _facts([(a, escape(b)) for a, b in report.model])]
    versions = ", ".join(f"{name} {number}" for name, number in report.record["versions"].items())
    parts += ["<h3>Software</h3>", f'<p class="quiet">{escape(versions)}</p>']
    return "".join(parts)


def _facts(rows: Iterable[tuple[str, str]]) -> str:
    """Headings with their values; these are HTML already."""
    made = "".join(f'<tr><th scope="row">{escape(a)}</th><td>{b}</td></tr>' for a, b in rows)
    return f'<table class="facts"><tbody>{made}</tbody></table>'


def _result_rows(report: ScanReport) -> list[tuple[str, str]]:
    threshold, scan = report.record["threshold"], report.record["scan"]
    rows = []
    if report.score is not None:
        what = "the 95th percentile of its slices' scores"
        rows.append(("Score of the scan", f"{_data(report.score)} {escape(report.unit)}, {what}"))
    if report.highest is not None:
        index, score = report.highest
        rows.append(("Highest slice", f"{slice_number(index)}, score {_data(score)}"))
    if report.scan_note:
        rows.append(("p-value", _data(report.p_value, text=escape(report.scan_note))))
    rows.append(("Flagged regions", escape(_counts(report))))
    share = threshold["share_of_normal_tissue_flagged"]
    meaning = report.threshold_note or (
        f"It flags {share:.2%} of normal tissue." if share is not None else "It is not calibrated."
    )
    cut = f"{_data(recorded_threshold(report.record))} {escape(report.unit)}"
    rows.append(("Threshold", f"{cut}. {escape(meaning)}"))
    made = _mask_settings(report)
    if made:
        rows.append(("Mask", escape(made)))
    rows.append(("Slices scored", f"{scan['slices_scored']} of {scan['slices']}"))
    return rows


def _counts(report: ScanReport) -> str:
    said = ", ".join(f"{n} {_STATUS[status]}" for status, n in report.counts.items())
    return f"{len(report.items)} ({said})" if said else "none"


def _mask_settings(report: ScanReport) -> str:
    """Say what became of the voxels above the threshold, as far as anything did."""
    found = report.record["threshold"]
    said = []
    for key, text in (
        ("hysteresis", "regions that reach {:.4g}"),
        ("min_size_mm3", "of at least {:g} mm³"),
        ("min_voxels", "of at least {:g} voxels"),
        ("min_area_mm2", "of at least {:g} mm² in a slice"),
        ("smoothing_mm", "smoothed by {:g} mm"),
    ):
        if found.get(key):
            said.append(text.format(found[key]))
    said += ["holes filled"] if found.get("fill_holes") else []
    said += ["body only"] if found.get("body_only") else []
    said += ["within a drawn region"] if found["drawn_region_voxels"] is not None else []
    said += ["changed by hand, or regions rejected"] if found["mask_edited_by_hand"] else []
    return ", ".join(said)


def _scan_rows(report: ScanReport) -> list[tuple[str, str]]:
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
    return [(heading, escape(str(text))) for heading, text in rows.items() if text]


# ---------------------------------------------------------------------- findings


def _findings(report: ScanReport) -> str:
    if not report.items:
        return "<p>Nothing lies above the threshold.</p>"
    heads = (
        *("No.", "Side", "Centre R, A, S mm", "Slices", "Volume", "Diameter"),
        *("Peak", "Mean", "Normals", "Status", "Comment"),
    )
    head = "".join(
        f'<th scope="col"{" class=n" if name in _NUMERIC else ""}>{name}</th>' for name in heads
    )
    rows = "".join(_finding(item) for item in report.items)
    caption = (
        f"Highest peak first. Peak and mean score in {escape(report.unit)}; diameter: the longest "
        "within a slice; normals: in how many of the normal patients of the calibration something "
        "scores as high as the peak."
    )
    return (
        f'<div class="wide"><table class="findings"><caption>{caption}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


_NUMERIC = ("Volume", "Diameter", "Peak", "Mean")


def _finding(item: ReviewedFinding) -> str:
    found = item.finding
    centre = found.centroid_ras_mm
    where = "unknown" if centre is None else ", ".join(_data(v, ".1f") for v in centre)
    volume = (
        f"{_data(found.voxels, 'd')} voxels"
        if found.volume_ml is None
        else _data(found.volume_ml, text=_volume(found.volume_ml))
    )
    diameter = (
        f"{_data(found.longest_diameter_px, '.0f')} px"
        if found.longest_diameter_mm is None
        else f"{_data(found.longest_diameter_mm, '.1f')} mm"
    )
    said = "<br>".join(escape(text) for text in (item.comment, item.note) if text)
    gone = ' class="reject"' if item.status == "reject" else ""
    return (
        f'<tr{gone}><th scope="row">{found.rank}</th><td>{found.side}</td>'
        f'<td class="k">{where}</td>'
        f'<td class="k">{slice_range(found.first_slice, found.last_slice)}</td>'
        f'<td class="n">{volume}</td><td class="n">{diameter}</td>'
        f'<td class="n">{_data(found.peak_score)}</td><td class="n">{_data(found.mean_score)}</td>'
        f'<td>{escape(item.rarity.count)}</td><td class="state">{_STATUS[item.status]}</td>'
        f'<td class="text">{said}</td></tr>'
    )


def _volume(ml: float) -> str:
    if ml < 1:
        return f"{float(f'{1000 * ml:.3g}'):g} µl"
    return f"{ml:.1f} ml"


def _data(value: float | None, form: str = ".4g", *, text: str = "") -> str:
    """Write a number for people, with the whole of it for machines."""
    if value is None:
        return ""
    return f'<data value="{value!r}">{text or format(value, form)}</data>'


# ---------------------------------------------------------------------- pieces


def _figure(picture: Picture) -> str:
    return f"<figure>{_image(picture)}<figcaption>{escape(picture.caption)}</figcaption></figure>"


def _image(picture: Picture, more: str = "") -> str:
    code = base64.b64encode(picture.data).decode("ascii")
    return (
        f'<img{more} width="{picture.width}" height="{picture.height}" '
        f'alt="{escape(picture.alt)}" src="data:image/jpeg;base64,{code}">'
    )


def _list(title: str, lines: Sequence[str]) -> str:
    made = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<p><strong>{title}</strong></p><ul>{made}</ul>"


def _summary(ranked: Sequence[FolderEntry]) -> str:
    read = any(entry.reading for entry in ranked)
    heads = ["No.", "Picture", "Scan", "Score", "p", "Flagged regions", *(["Read"] if read else [])]
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    rows = []
    for number, entry in enumerate(ranked, 1):
        report = entry.report
        cells = [f'<th scope="row">{number}</th>']
        if report is None:
            cells += ["<td></td>", f'<td class="text">{escape(entry.label)}</td>']
            cells.append(f'<td class="text" colspan="3">{escape(entry.trouble)}</td>')
        else:
            picture = _image(report.thumbnail, " class=thumb") if report.thumbnail else ""
            warned = f'<br><span class="quiet">{len(report.warnings)} warnings</span>'
            label = f'<a href="#scan-{number}">{escape(entry.label)}</a>'
            cells.append(f"<td>{picture}</td>")
            cells.append(f'<td class="text">{label}{warned if report.warnings else ""}</td>')
            cells.append(f"<td>{_data(report.score)}</td>")
            cells.append(f"<td>{_data(report.p_value, '.2g')}</td>")
            cells.append(f"<td>{escape(_counts(report))}</td>")
        cells += [f"<td>{escape(entry.reading)}</td>"] if read else []
        rows.append(f"<tr>{''.join(cells)}</tr>")
    caption = "Highest score first; what could not be scored stands last, with the reason."
    return (
        f'<div class="wide"><table class="scans"><caption>{caption}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )
