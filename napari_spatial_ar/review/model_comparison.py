"""Two models on one scan: their heatmaps side by side in one unit, and their agreement."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from scipy import stats

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.files import atomic_write_json
from napari_spatial_ar.imaging.geometry import slice_number
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.tissue import tissue_mask
from napari_spatial_ar.imaging.windows import apply_window, display_limits, resolve
from napari_spatial_ar.json_schemas import ModelComparisonFile, stamped
from napari_spatial_ar.normative.calibration.acquired import header_shift
from napari_spatial_ar.normative.calibration.calibration import Calibration
from napari_spatial_ar.normative.model import NormativeModel
from napari_spatial_ar.normative.scores import ScanScores
from napari_spatial_ar.normative.scoring import score_slices
from napari_spatial_ar.normative.scoring_model import ScoringModel
from napari_spatial_ar.review.drawing import (
    BACKGROUND,
    MUTED,
    grey_of,
    panel_size,
    resized,
    to_image,
    with_heat,
    with_outline,
    write_marks,
    write_png,
    write_text,
)
from napari_spatial_ar.review.pictures import highest_slices
from napari_spatial_ar.review.provenance import RESEARCH_USE
from napari_spatial_ar.steps import finish

__all__ = ["ModelComparison", "compare_models", "comparison_steps"]

Floats = npt.NDArray[np.float32]
Made = TypeVar("Made")
Steps = Generator[tuple[str, int, int], None, Made]

_SHARE, _RANK = "share of normal tissue", "rank in this scan"

# Maximum number of body voxels for the rank correlation: enough for three digits.
_SAMPLE = 500_000
_MARGIN, _GAP, _HEAD, _FOOT = 16, 10, 62, 30


@dataclass(frozen=True)
class ModelComparison:
    """How far two models agree on a scan.

    Parameters
    ----------
    models : (str, str)
        Their names.
    unit : str
        Unit of the heatmaps and of the masks' thresholds: ``"share of normal tissue"`` if both
        models are calibrated, else ``"rank in this scan"``.
    share : float
        Share of normal tissue, or of the scan's own body, that each mask flags.
    rank_correlation : float or None
        Spearman's, over voxels of the body; None if a heatmap is constant.
    dice : float or None
        Dice coefficient of the two masks; None if both are empty.
    flagged_voxels : (int, int)
        Number of voxels in each mask.
    slices : int
        Number of slices that both scored.
    files : dict of str to Path
        ``"png"`` and ``"json"``.
    shift_warnings : tuple of str
        A warning for each model whose training scans differ from the scan's header.
    """

    models: tuple[str, str]
    unit: str
    share: float
    rank_correlation: float | None
    dice: float | None
    flagged_voxels: tuple[int, int]
    slices: int
    files: dict[str, Path] = field(repr=False)
    shift_warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON form, without the files."""
        return {
            "research_use": RESEARCH_USE,
            "models": list(self.models),
            "unit": self.unit,
            "share": self.share,
            "rank_correlation": self.rank_correlation,
            "dice": self.dice,
            "flagged_voxels": list(self.flagged_voxels),
            "slices": self.slices,
            "unlike": list(self.shift_warnings),
        }


def compare_models(
    first: NormativeModel,
    second: NormativeModel,
    volume: Scan,
    out: str | Path,
    *,
    share: float = 0.01,
    rows: int = 4,
    overwrite: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> ModelComparison:
    """Compare two models on a scan, as `comparison_steps` does.

    Parameters
    ----------
    progress : callable, optional
        Called with (model, slices done, slices in all).
    """
    steps = comparison_steps(
        first, second, volume, out, share=share, rows=rows, overwrite=overwrite
    )
    return finish(steps, progress and (lambda step: progress(*step)))


def comparison_steps(
    first: NormativeModel,
    second: NormativeModel,
    volume: Scan,
    out: str | Path,
    *,
    share: float = 0.01,
    rows: int = 4,
    overwrite: bool = False,
) -> Steps[ModelComparison]:
    """Score one scan with two models and write ``compare.png`` and ``compare.json``.

    Parameters
    ----------
    first, second : NormativeModel
        The models.
    volume : Scan
        The scan.
    out : path
        Folder for the files.
    share : float
        Share that the masks flag, in (0, 1).
    rows : int
        Number of slices in the figure: those that the two models together find most unusual.
    overwrite : bool
        Whether files of an earlier run may be replaced.

    Yields
    ------
    (str, int, int)
        Model, slices done, slices in all; close the generator to stop.

    Returns
    -------
    ModelComparison

    Raises
    ------
    InputError
        If there are files of an earlier run, no slice can be scored, the models use slices of
        different planes, or a calibration does not cover the share.
    WeightsError
        If the weights of a backbone are missing.
    """
    files = {kind: Path(out) / f"compare.{kind}" for kind in ("png", "json")}
    if not overwrite and any(path.exists() for path in files.values()):
        raise InputError(
            "a comparison already exists", path=out, fix="Choose another folder, or overwrite it"
        )
    models = (first, second)
    seen = [model.cut(volume) for model in models]
    if seen[0].geometry.slice_axis != seen[1].geometry.slice_axis:
        raise InputError(
            f"'{first.name}' scores {seen[0].geometry.plane} slices of this scan but "
            f"'{second.name}' {seen[1].geometry.plane} ones, so they cannot be compared",
            fix="Choose models of the same plane",
        )
    volume = seen[0]
    calibrations = [model.header.calibration for model in models]
    cuts = [c.threshold_for_fpr(share) if c else None for c in calibrations]
    scores = []
    for model in models:
        scores.append((yield from _score_steps(model, volume)))
    both = np.flatnonzero(scores[0].scored & scores[1].scored)
    if not len(both):
        raise InputError("no slice of this scan shows a body, so there is nothing to compare")
    heat = [volume.geometry.to_slices(score.nll) for score in scores]
    body = _body(volume, both, resolve(first.header.preprocessing.window, volume))
    samples = [np.concatenate([h[i][m] for i, m in body.items()]) for h in heat]
    if len(samples[0]) > _SAMPLE:
        chosen = np.random.default_rng(0).choice(len(samples[0]), _SAMPLE, replace=False)
        samples = [sample[chosen] for sample in samples]
    scales: list[Callable[[Floats], Floats]]
    if all(calibrations):
        unit = _SHARE
        scales = [partial(Calibration.unit_heat, c) for c in calibrations if c]
    else:
        unit = _RANK
        cuts = [float(np.quantile(sample, 1 - share)) for sample in samples]
        scales = [_rank_scale(sample) for sample in samples]
    masks = [{i: (h[i] > cut) & body[i] for i in body} for h, cut in zip(heat, cuts, strict=True)]
    sizes = [sum(int(m.sum()) for m in mask.values()) for mask in masks]
    common = sum(int((masks[0][i] & masks[1][i]).sum()) for i in body)
    constant = any(np.ptp(sample) == 0 for sample in samples)
    result = ModelComparison(
        models=(first.name, second.name),
        unit=unit,
        share=share,
        rank_correlation=None if constant else float(stats.spearmanr(*samples).statistic),
        dice=2 * common / sum(sizes) if sum(sizes) else None,
        flagged_voxels=(sizes[0], sizes[1]),
        slices=len(both),
        files=files,
        shift_warnings=tuple(
            f"{model.name}: {found.warning}"
            for model in models
            if (found := header_shift(model.header, volume)).reasons
        ),
    )
    ranks = sum(stats.rankdata(score.image_scores[both]) for score in scores)
    order = np.full(len(scores[0].scored), np.nan)
    order[both] = ranks
    shown = highest_slices(order, rows, apart=max(1, len(order) // 16))
    panels = [
        [(scale(h[i]), mask[i]) for h, mask, scale in zip(heat, masks, scales, strict=True)]
        for i in shown
    ]
    write_png(files["png"], _picture(volume, shown, panels, result))
    atomic_write_json(files["json"], stamped(ModelComparisonFile, result.to_dict()))
    return result


def _score_steps(model: ScoringModel, volume: Scan) -> Steps[ScanScores]:
    scores = ScanScores.empty(volume.geometry)
    for done, _ in enumerate(score_slices(model, volume, scores=scores), start=1):
        yield model.name, done, len(scores.visited)
    return scores


def _body(
    volume: Scan, slices: npt.NDArray[np.intp], window: tuple[float, float]
) -> dict[int, npt.NDArray[np.bool_]]:
    return {int(i): tissue_mask(apply_window(volume.slice(int(i)), *window)) for i in slices}


def _rank_scale(sample: Floats) -> Callable[[Floats], Floats]:
    """Scale a heatmap to 0 (the median of the scan's body) .. 1 (its highest value)."""
    rising = np.sort(sample)
    return lambda heat: np.clip(
        2 * np.searchsorted(rising, heat) / len(rising) - 1, 0, 1, dtype=np.float32
    )


def _picture(
    volume: Scan,
    shown: list[int],
    panels: list[list[tuple[Floats, npt.NDArray[np.bool_]]]],
    result: ModelComparison,
) -> Image.Image:
    """Rows of scan | first model | second model, coloured in the shared unit, masks outlined."""
    geometry, window = volume.geometry, display_limits(volume)
    size = panel_size(geometry, panels[0][0][0].shape, 300)
    width = 2 * _MARGIN + 3 * size.width + 2 * _GAP
    page = Image.new("RGB", (width, _HEAD + len(shown) * (size.height + _GAP) + _FOOT), BACKGROUND)
    draw = ImageDraw.Draw(page)
    agreement = [
        f"{label} {'-' if value is None else format(value, '.2f')}"
        for label, value in (("rank correlation", result.rank_correlation), ("Dice", result.dice))
    ]
    write_text(draw, (_MARGIN, 10), f"In {result.unit}: {', '.join(agreement)}", 15)
    columns = [_MARGIN + column * (size.width + _GAP) for column in range(3)]
    for x, head in zip(columns, ("Scan", *result.models), strict=True):
        write_text(draw, (x, _HEAD - 8), head, 14, anchor="ls", fill=MUTED)
    for row, index in enumerate(shown):
        y = _HEAD + row * (size.height + _GAP)
        base = grey_of(volume, index, window, size)
        pictures = [base]
        for unit, mask in panels[row]:
            warm = with_heat(base, resized(unit, size, Image.Resampling.BILINEAR), 0, 1)
            inside = resized(mask, size, Image.Resampling.NEAREST) > 0.5
            pictures.append(with_outline(warm, inside))
        for x, picture in zip(columns, pictures, strict=True):
            page.paste(to_image(picture), (x, y))
            write_marks(draw, geometry, (x, y), size)
        note = f"slice {slice_number(index)}"
        write_text(draw, (_MARGIN + 6, y + size.height - 6), note, 13, anchor="ls")
    whole = "of normal tissue" if result.unit == _SHARE else "of this body"
    foot = f"Outlined: above {100 * result.share:.2g} % {whole}. {RESEARCH_USE}"
    write_text(draw, (_MARGIN, page.height - 10), foot, 13, anchor="ls")
    return page
