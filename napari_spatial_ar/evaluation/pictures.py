"""Curves and example heatmaps of a comparison, as text that stands inside an HTML page."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from napari_spatial_ar.datasets.folders import BmadItem
from napari_spatial_ar.evaluation.compare import Comparison, Result
from napari_spatial_ar.evaluation.contenders import Contender, Scored, label_of, score_items
from napari_spatial_ar.evaluation.metrics import PRO_MAX_FPR, Curve
from napari_spatial_ar.imaging.tissue import tissue_mask
from napari_spatial_ar.imaging.windows import apply_window

__all__ = ["COLOURS", "Example", "curves_svg", "examples"]

Rgb = npt.NDArray[np.float64]

#: Of the methods in turn; told apart with colour-blind eyes too (Okabe and Ito).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_WIDTH, _HEIGHT, _LEFT, _FOOT, _TOP = 320, 300, 46, 40, 26
_LABEL = np.array([0.0, 0.9, 1.0])
_SIDE = 224


def curves_svg(results: Sequence[Result]) -> str:
    """Draw the ROC, precision-recall and PRO curves of every seed; "" without pixel labels.

    Returns
    -------
    str
        Three ``<svg>`` elements.
    """
    curves = [
        (COLOURS[number % len(COLOURS)], measured.curve)
        for number, result in enumerate(results)
        for measured in result.measured
        if measured.curve is not None
    ]
    if not curves:
        return ""
    panels = [
        ("ROC", "false-positive rate", "recall", 1.0, _roc),
        ("Precision and recall", "recall", "precision", 1.0, _precision_recall),
        ("PRO", "false-positive rate", "mean overlap of regions", PRO_MAX_FPR, _pro),
    ]
    return "\n".join(_panel(*panel, curves) for panel in panels)


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


def _panel(
    title: str,
    across: str,
    up: str,
    most: float,
    points: Callable[[Curve], Points],
    curves: Sequence[tuple[str, Curve]],
) -> str:
    width, height = _WIDTH - _LEFT - 10, _HEIGHT - _FOOT - _TOP
    parts = [f'<text x="{_LEFT}" y="16" class="title">{escape(title)}</text>']
    for tick in np.linspace(0, 1, 6):
        x, y = _LEFT + tick * width, _TOP + (1 - tick) * height
        parts += [
            f'<path class="grid" d="M{x:.1f} {_TOP}v{height}M{_LEFT} {y:.1f}h{width}"/>',
            f'<text x="{x:.1f}" y="{_TOP + height + 14}" class="x">{tick * most:.2g}</text>',
            f'<text x="{_LEFT - 5}" y="{y + 4:.1f}" class="y">{tick:.1g}</text>',
        ]
    for colour, curve in curves:
        across_values, up_values = points(curve)
        x = np.round(_LEFT + across_values / most * width, 1)
        y = np.round(_TOP + (1 - up_values) * height, 1)
        new = np.append(True, (np.diff(x) != 0) | (np.diff(y) != 0))
        path = " ".join(f"{a:g},{b:g}" for a, b in zip(x[new], y[new], strict=True))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}"/>')
    middle = _TOP + height / 2
    parts += [
        f'<text x="{_LEFT + width / 2}" y="{_HEIGHT - 8}" class="x">{escape(across)}</text>',
        f'<text x="12" y="{middle}" class="x" transform="rotate(-90 12 {middle})">'
        f"{escape(up)}</text>",
    ]
    label = escape(f"{title} curves")
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" role="img" '
        f'aria-label="{label}">{"".join(parts)}</svg>'
    )


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
        What the patient was ranked by.
    pictures : tuple of str
        ``data:`` addresses of PNGs: the slice with the outline of its label, then each method.
    """

    rank: str
    patient: int
    value: float
    pictures: tuple[str, ...]


def examples(comparison: Comparison) -> list[Example]:
    """Draw a slice of the patients in whom the first method does best, middling and worst."""
    measured = comparison.results[0].measured[0]
    known = np.flatnonzero(np.isfinite(measured.patient_aupr))
    if not len(known):
        return []
    order = known[np.argsort(-measured.patient_aupr[known], kind="stable")]
    ranks = {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}
    chosen = {rank: int(patient) for rank, patient in ranks.items()}
    items = [_largest(comparison.items, measured.patients[p]) for p in chosen.values()]
    contenders = [Contender(r.rival.models[0], r.smoothing) for r in comparison.results]
    scored = list(score_items(items, contenders))
    limits = [_limits(scored, number) for number in range(len(contenders))]
    return [
        Example(rank, patient, float(measured.patient_aupr[patient]), tuple(_row(one, limits)))
        for (rank, patient), one in zip(chosen.items(), scored, strict=True)
    ]


def _largest(items: Sequence[BmadItem], patient: str) -> BmadItem:
    """Give the patient's abnormal image with the largest label."""
    mine = [item for item in items if item.group == patient and item.abnormal]

    def area(item: BmadItem) -> int:
        if item.label is None:
            return 0
        with Image.open(item.label) as picture:
            return int((np.asarray(picture.convert("L")) > 127).sum())

    return max(mine, key=area)


def _limits(scored: Sequence[Scored], number: int) -> tuple[float, float]:
    """From the median score of the body to nearly the highest, over all examples."""
    values = []
    for one in scored:
        body = tissue_mask(apply_window(one.image, *one.window))
        values.append(one.scores[number].nll[body] if body.any() else one.scores[number].nll)
    low, high = np.percentile(np.concatenate([v.ravel() for v in values]), [50, 99.8])
    return float(low), max(float(high), float(low) + 1e-6)


def _row(one: Scored, limits: Sequence[tuple[float, float]]) -> list[str]:
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
