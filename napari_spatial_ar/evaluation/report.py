"""A comparison as files: results.json, report.md and a self-contained report.html."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from napari_spatial_ar.datasets.folders import BmadItem
from napari_spatial_ar.evaluation.candidates import Candidate, Scored, label_of, score_items
from napari_spatial_ar.evaluation.compare import Comparison, Result
from napari_spatial_ar.evaluation.froc import FALSE_POSITIVES, Froc
from napari_spatial_ar.evaluation.metrics import PRO_MAX_FPR, Curve
from napari_spatial_ar.imaging.files import atomic_write_json, atomic_write_text
from napari_spatial_ar.imaging.raster import read_label
from napari_spatial_ar.imaging.tissue import tissue_mask
from napari_spatial_ar.imaging.windows import apply_window
from napari_spatial_ar.json_schemas import ComparisonFile, stamped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "COLOURS",
    "RESEARCH_USE",
    "Example",
    "curve_figures",
    "curves_svg",
    "examples",
    "patient_labels",
    "write_report",
]

Rgb = npt.NDArray[np.float64]


#: Colours of the methods, distinguishable with colour blindness (Okabe and Ito).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")


_LABEL = np.array([0.0, 0.9, 1.0])


_SIDE = 224


def curves_svg(results: Sequence[Result]) -> str:
    """Draw the ROC, precision-recall, PRO and FROC curves of every seed; "" without pixel labels.

    Returns
    -------
    str
        Four ``<svg>`` elements.
    """
    return "\n".join(_inline(title, figure) for title, figure in curve_figures(results).items())


def curve_figures(results: Sequence[Result]) -> dict[str, Figure]:
    """Plot ROC, precision-recall, PRO and FROC curves of every seed; none without pixel labels."""
    from matplotlib.figure import Figure

    seeds = [
        (COLOURS[number % len(COLOURS)], measured)
        for number, result in enumerate(results)
        for measured in result.measured
    ]
    curves = [(colour, one.curve) for colour, one in seeds if one.curve is not None]
    figures = {}
    for title, across, up, most, points in (
        ("ROC", "false-positive rate", "recall", 1.0, _roc),
        ("Precision and recall", "recall", "precision", 1.0, _precision_recall),
        ("PRO", "false-positive rate", "mean overlap of regions", PRO_MAX_FPR, _pro),
    ):
        figure = Figure((3.4, 3.2), layout="constrained")
        axes = figure.subplots()
        axes.grid(color="#ddd")
        for colour, curve in curves:
            axes.plot(*points(curve), color=colour, linewidth=1)
        axes.set(title=title, xlabel=across, ylabel=up, xlim=(0, most), ylim=(0, 1))
        figures[title] = figure
    if not curves:
        return {}
    figures["FROC"] = _froc([(colour, one.froc) for colour, one in seeds if one.froc is not None])
    return figures


def _froc(curves: Sequence[tuple[str, Froc]]) -> Figure:
    """Plot the share of lesions found against false positives per patient, on a log axis."""
    from matplotlib.figure import Figure

    figure = Figure((3.4, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.grid(color="#ddd")
    for colour, froc in curves:
        axes.step(*froc.curve(), where="post", color=colour, linewidth=1)
    axes.set_xscale("log", base=2)
    axes.set_xticks(FALSE_POSITIVES, ["1/8", "1/4", "1/2", "1", "2", "4", "8"])
    axes.set(
        title="FROC",
        xlabel="false positives per patient",
        ylabel="lesions found",
        xlim=(FALSE_POSITIVES[0], FALSE_POSITIVES[-1]),
        ylim=(0, 1),
    )
    return figure


def _inline(title: str, figure: Figure) -> str:
    """Write a figure as an element of a page: without a prolog, and with its text as text."""
    import matplotlib as mpl

    drawn = io.StringIO()
    # Parts are named by hashes of their content and the salt, the same in every run.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    text = re.sub(
        r"<metadata>.*?</metadata>|\s+xmlns(:\w+)?=\"[^\"]*\"", "", drawn.getvalue(), flags=re.S
    )
    element = text[text.index("<svg") + len("<svg") :].strip()
    return f'<svg role="img" aria-label="{escape(title)} curves" {element}'


Points = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


def _roc(curve: Curve) -> Points:
    return np.append(0.0, curve.fpr), np.append(0.0, curve.recall)


def _precision_recall(curve: Curve) -> Points:
    return curve.recall, curve.precision


def _pro(curve: Curve) -> Points:
    x, y = np.append(0.0, curve.fpr), np.append(0.0, curve.overlap)
    inside = x <= PRO_MAX_FPR
    end = np.interp(PRO_MAX_FPR, x, y)
    return np.append(x[inside], PRO_MAX_FPR), np.append(y[inside], end)


@dataclass(frozen=True)
class Example:
    """A slice of one patient and every method's heatmap over it.

    Parameters
    ----------
    rank : str
        "best", "median" or "worst".
    patient : int
        Index into ``Measured.patients``.
    value : float
        The figure by which patients were ranked.
    pictures : tuple of str
        ``data:`` URLs of PNGs: the slice with the outline of its label, then each method.
    """

    rank: str
    patient: int
    value: float
    pictures: tuple[str, ...]


def examples(comparison: Comparison) -> list[Example]:
    """Draw one slice each of the patients with the first method's best, median and worst result."""
    measured = comparison.results[0].measured[0]
    known = np.flatnonzero(np.isfinite(measured.patient_aupr))
    if not len(known):
        return []
    order = known[np.argsort(-measured.patient_aupr[known], kind="stable")]
    ranks = {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}
    chosen = {rank: int(patient) for rank, patient in ranks.items()}
    items = [_largest(comparison.items, measured.patients[p]) for p in chosen.values()]
    candidates = [Candidate(r.method.models[0], r.smoothing) for r in comparison.results]
    scored = list(score_items(items, candidates))
    limits = [_limits(scored, number) for number in range(len(candidates))]
    return [
        Example(
            rank, patient, float(measured.patient_aupr[patient]), tuple(_picture_row(one, limits))
        )
        for (rank, patient), one in zip(chosen.items(), scored, strict=True)
    ]


def _largest(items: Sequence[BmadItem], patient: str) -> BmadItem:
    """Return the patient's abnormal image with the largest label."""
    mine = [item for item in items if item.group == patient and item.abnormal]

    def area(item: BmadItem) -> int:
        if item.label is None:
            return 0
        return int(read_label(item.label).sum())

    return max(mine, key=area)


def _limits(scored: Sequence[Scored], number: int) -> tuple[float, float]:
    """From the median score of the body to nearly the highest, over all examples."""
    values = []
    for one in scored:
        body = tissue_mask(apply_window(one.image, *one.window))
        values.append(one.scores[number].nll[body] if body.any() else one.scores[number].nll)
    low, high = np.percentile(np.concatenate([v.ravel() for v in values]), [50, 99.8])
    return float(low), max(float(high), float(low) + 1e-6)


def _picture_row(one: Scored, limits: Sequence[tuple[float, float]]) -> list[str]:
    grey = np.repeat(apply_window(one.image, *one.window)[..., None], 3, axis=2).astype(np.float64)
    label = label_of(one.item, one.image.shape)
    edge = ndimage.binary_dilation(label) & ~label
    pictures = [np.where(edge[..., None], _LABEL, grey)]
    for score, (low, high) in zip(one.scores, limits, strict=True):
        unit = np.clip((score.nll - low) / (high - low), 0, 1)[..., None]
        opacity = 0.85 * unit**0.7
        pictures.append(grey * (1 - opacity) + _hot(unit) * opacity)
    return [_png(picture) for picture in pictures]


def _hot(unit: npt.NDArray[np.floating]) -> Rgb:
    """Black, red, yellow, white."""
    return np.asarray(np.clip(3 * unit - np.array([0.0, 1.0, 2.0]), 0, 1), np.float64)


def _png(picture: Rgb) -> str:
    image = Image.fromarray(np.rint(255 * np.clip(picture, 0, 1)).astype(np.uint8))
    scale = _SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    buffer = io.BytesIO()
    image.resize(size, Image.Resampling.BICUBIC).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


RESEARCH_USE = "For research use, not for diagnosis."


_COLUMNS = {
    "pixel_auroc": "pixel AUROC",
    "pixel_aupr": "pixel AUPR",
    "pixel_aupro": "AUPRO 0.3",
    "best_dice_oracle": "best Dice (oracle)",
    "dice_at_fpr": "Dice at threshold",
    "realised_fpr": "realised share",
    "lesion_sensitivity": "lesion sensitivity",
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
}


# As in a scan's report: light or dark as the reader's system, light on paper. Curves have a white
# background, since one of their colours is black.
_STYLE = """
:root{color-scheme:light dark;--page:#fff;--text:#1a1a1a;--quiet:#4a4a4a;--line:#ccc;--strong:#666;
--use:#800;--border:#a00}
@media screen and (prefers-color-scheme:dark){:root{--page:#161616;--text:#e4e4e4;--quiet:#b8b8b8;
--line:#444;--strong:#999;--use:#ffa9a0;--border:#d9544d}}
body{font:15px/1.5 system-ui,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;color:var(--text);
background:var(--page);margin:2rem auto;max-width:76rem;padding:0 1rem;overflow-wrap:anywhere}
table{border-collapse:collapse;margin:.6rem 0}
td,th{padding:.25rem .6rem;text-align:right;border-bottom:1px solid var(--line);font-weight:normal;
overflow-wrap:normal}
th{border-bottom:2px solid var(--strong);vertical-align:bottom}
td:first-child,th:first-child{text-align:left}
small{color:var(--quiet);white-space:nowrap}.wide{overflow-x:auto}
svg{background:#fff;max-width:100%}
.key{display:inline-block;width:1.1em;height:.7em;margin-right:.4em;outline:1px solid var(--line)}
.use{border:2px solid var(--border);color:var(--use);font-weight:bold;padding:.3rem .6rem;
display:inline-block}img{display:block}
@page{size:A4 landscape;margin:12mm;
@bottom-left{content:"For research use, not for diagnosis.";font-size:9pt}
@bottom-right{content:"Page " counter(page) " of " counter(pages);font-size:9pt}}
@media print{body{font-size:9pt;margin:0;padding:0;max-width:none}.wide{overflow:visible}
table{font-size:8pt}td,th{padding:.1rem .3rem}
td:first-child,.examples th{overflow-wrap:anywhere;min-width:6rem}
h2,h2+p{break-after:avoid}tr,svg{break-inside:avoid}thead{display:table-header-group}
.examples{table-layout:fixed;width:100%}.examples small{white-space:normal}
img{width:100%;height:auto;max-width:224px}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""


def write_report(comparison: Comparison, folder: Path) -> list[Path]:
    """Write a comparison into a folder.

    No patient is named: patients are identified by `patient_labels`, images not at all.

    Returns
    -------
    list of Path
        ``results.json``, ``report.md`` and ``report.html``.

    Raises
    ------
    StorageError
        If one cannot be written.
    """
    paths = [folder / name for name in ("results.json", "report.md", "report.html")]
    document = {"use": RESEARCH_USE, **comparison.to_dict()}
    atomic_write_json(paths[0], stamped(ComparisonFile, document))
    atomic_write_text(paths[1], _markdown(comparison))
    atomic_write_text(paths[2], _html(comparison))
    return paths


def patient_labels(patients: Sequence[str]) -> list[str]:
    """Short names that cannot be reversed without the list of all patients.

    Parameters
    ----------
    patients : sequence of str
        All patients of the dataset: the same dataset gives the same names.
    """
    # Names come from file names, which need not be valid text.
    key = hashlib.sha256("\n".join(sorted(patients)).encode(errors="surrogatepass")).digest()
    return [
        hashlib.blake2b(patient.encode(errors="surrogatepass"), key=key, digest_size=4).hexdigest()
        for patient in patients
    ]


def _title(comparison: Comparison) -> str:
    return f"{comparison.dataset}, {comparison.split} split"


def _lines(comparison: Comparison) -> list[str]:
    """Describe what was measured and how, a sentence or two each."""
    first = comparison.results[0].measured[0].evaluation
    rate = first.base_rate
    fixed = comparison.settings["smoothing"]
    return [
        f"{first.images} images ({first.abnormal_images} abnormal) of {first.patients} patients."
        + (
            ""
            if rate is None
            else f" {100 * rate:.3g} % of the pixels are abnormal, which is the "
            "pixel AUPR of a random heatmap."
        ),
        "Pixel figures are over all pixels of all images at their own resolution."
        + ("" if rate is not None else " They are missing: not every abnormal image has a label."),
        f"Smoothing: {fixed} x {fixed} patches for all."
        if fixed is not None
        else "Smoothing: for each method the side with the best pixel AUPR on the validation "
        "split, if that has labels.",
        f"The threshold is calibrated for {100 * comparison.settings['fpr']:g} % of the tissue in "
        "the normal images of the validation split. The best Dice is an oracle's: its threshold "
        "is chosen with the labels of the evaluated split.",
        f"In brackets: 95 % intervals over patients ({comparison.settings['draws']} resampled "
        "sets). Figures of several seeds are means; the range is that of the seeds.",
        "Peak memory is that of the whole process, in which all methods were loaded. The time of "
        "a slice includes the backbone, which ran once for all methods that share it.",
    ]


def _figure(result: Result, name: str) -> tuple[str, str, str]:
    """Value, interval and range over seeds of a figure, as text."""
    value, ends, seeds = result.mean(name), result.interval(name), result.seed_range(name)
    return (
        "-" if value is None else f"{value:.4f}",
        "" if ends is None or value is None else f"[{ends[0]:.3f}, {ends[1]:.3f}]",
        "" if seeds is None else f"{seeds[0]:.3f} to {seeds[1]:.3f}",
    )


def _cost_row(result: Result) -> list[str]:
    evaluations = [measured.evaluation for measured in result.measured]

    def typical(values: list[float | None], digits: int = 1) -> str:
        known = [value for value in values if value is not None]
        return f"{np.mean(known):.{digits}f}" if known else "-"

    return [
        typical([e.ms_per_slice for e in evaluations]),
        typical([e.ms_per_slice_p95 for e in evaluations]),
        typical([e.ms_beyond_backbone for e in evaluations]),
        typical([e.fit_seconds for e in evaluations]),
        typical([e.model_bytes / 1e6 for e in evaluations], 2),
    ]


_COSTS = (
    *("ms a slice (median)", "ms a slice (95th percentile)", "ms excluding the backbone"),
    *("fit s (after embedding)", "model MB"),
)


def _ratio_lines(comparison: Comparison) -> Iterator[str]:
    for ratio in comparison.ratios:
        ends = ratio.interval
        within = "" if ends is None else f" [{ends[0]:.3f}, {ends[1]:.3f}]"
        name = _COLUMNS[ratio.figure]
        yield f"{name}, {ratio.first} over {ratio.other}: {ratio.ratio:.3f}{within}"


def _markdown(comparison: Comparison) -> str:
    parts = [f"# {_title(comparison)}", "", f"> {RESEARCH_USE}", ""]
    parts += [f"- {line}" for line in (*_lines(comparison), *comparison.notes)]
    parts += ["", _row("method", "smoothing", "seeds", *_COLUMNS.values())]
    parts.append(_row(*["---"] * (3 + len(_COLUMNS))))
    for result in comparison.results:
        cells = [" ".join(filter(None, _figure(result, name)[:2])) for name in _COLUMNS]
        side = f"{result.smoothing} x {result.smoothing}"
        parts.append(_row(result.method.name, side, str(len(result.measured)), *cells))
    parts += ["", _row("method", *_COSTS), _row(*["---"] * (1 + len(_COSTS)))]
    parts += [_row(result.method.name, *_cost_row(result)) for result in comparison.results]
    ratios = list(_ratio_lines(comparison))
    if ratios:
        parts += ["", "Paired over the same resampled patients:", ""]
        parts += [f"- {line}" for line in ratios]
    return "\n".join(parts) + "\n"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _html(comparison: Comparison) -> str:
    title = escape(_title(comparison))
    items = "".join(f"<li>{escape(t)}</li>" for t in (*_lines(comparison), *comparison.notes))
    ratios = "".join(f"<li>{escape(line)}</li>" for line in _ratio_lines(comparison))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<style>{_STYLE}</style></head><body>
<h1>{title}</h1><p class="use">{RESEARCH_USE}</p><ul>{items}</ul>
<h2>Figures</h2><div class="wide">{_figures_table(comparison)}</div>
<h2>Costs</h2><div class="wide">{_costs_table(comparison)}</div>
{f"<h2>Ratios</h2><p>Over the same resampled patients.</p><ul>{ratios}</ul>" if ratios else ""}
{_curves(comparison)}
{_examples(comparison)}
</body></html>
"""


def _name(number: int, result: Result) -> str:
    colour = COLOURS[number % len(COLOURS)]
    return f'<span class="key" style="background:{colour}"></span>{escape(result.method.name)}'


def _figures_table(comparison: Comparison) -> str:
    head = "".join(f"<th>{name}</th>" for name in ("method", "smoothing", *_COLUMNS.values()))
    rows = []
    for number, result in enumerate(comparison.results):
        cells = []
        for name in _COLUMNS:
            value, *rest = _figure(result, name)
            small = "".join(f"<br><small>{text}</small>" for text in rest if text)
            cells.append(f"<td>{value}{small}</td>")
        side = f"<td>{result.smoothing} x {result.smoothing}</td>"
        rows.append(f"<tr><td>{_name(number, result)}</td>{side}{''.join(cells)}</tr>")
    return f"<table><thead><tr>{head}</tr></thead>{''.join(rows)}</table>"


def _costs_table(comparison: Comparison) -> str:
    head = "".join(f"<th>{name}</th>" for name in ("method", *_COSTS))
    rows = []
    for number, result in enumerate(comparison.results):
        cells = "".join(f"<td>{cell}</td>" for cell in _cost_row(result))
        rows.append(f"<tr><td>{_name(number, result)}</td>{cells}</tr>")
    return f"<table><thead><tr>{head}</tr></thead>{''.join(rows)}</table>"


def _curves(comparison: Comparison) -> str:
    drawn = curves_svg(comparison.results)
    if not drawn:
        return ""
    key = " ".join(_name(number, result) for number, result in enumerate(comparison.results))
    return f"<h2>Curves over pixels and lesions</h2><p>{key}. A line for each seed.</p>{drawn}"


def _examples(comparison: Comparison) -> str:
    drawn = examples(comparison)
    if not drawn:
        return ""
    measured = comparison.results[0].measured[0]
    labels = patient_labels(measured.patients)
    ranked = "pixel AUPR" if measured.curve is not None else "image score"
    names = [escape(result.method.name) for result in comparison.results]
    head = "".join(f"<th>{name}</th>" for name in ("patient", "slice, label in cyan", *names))
    rows = []
    for example in drawn:
        images = "".join(f'<td><img alt="" src="{address}"></td>' for address in example.pictures)
        text = f"{example.rank}<br><small>{labels[example.patient]}<br>{example.value:.3f}</small>"
        rows.append(f"<tr><td>{text}</td>{images}</tr>")
    return (
        f"<h2>Examples</h2><p>The patients with the best, the median and the worst {ranked} of "
        f"{names[0]}, each by the slice with the largest label. Colours run from the median "
        "of the tissue to the highest scores of a method over these slices.</p>"
        f'<div class="wide"><table class="examples"><thead><tr>{head}</tr></thead>'
        f"{''.join(rows)}</table></div>"
    )
