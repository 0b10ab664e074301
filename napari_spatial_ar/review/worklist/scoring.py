"""Scores a scan of a worklist slice by slice, so that scoring can be paused and resumed."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace

from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.normative.calibration.calibration import scan_score
from napari_spatial_ar.normative.scores import ScanScores
from napari_spatial_ar.normative.scoring import score_slices
from napari_spatial_ar.normative.scoring_model import ScoringModel
from napari_spatial_ar.review.body import Body
from napari_spatial_ar.review.findings import label_components
from napari_spatial_ar.review.masks import MaskSettings, make_mask
from napari_spatial_ar.review.p_values import p_values
from napari_spatial_ar.review.worklist.entries import Summary
from napari_spatial_ar.review.worklist.store import WorklistStore, model_key

__all__ = ["MaskRule", "score_steps", "summarise"]

# Scores of an unfinished scan are written this often: a crash costs no more than that.
_SAVE_SECONDS = 60.0


@dataclass(frozen=True)
class MaskRule:
    """How findings are counted.

    Parameters
    ----------
    threshold : float or None
        In the model's unit; None if unknown, and nothing is counted.
    settings : MaskSettings
        Sizes in mm are ignored for scans without a spacing in mm.
    """

    threshold: float | None = None
    settings: MaskSettings = field(default_factory=MaskSettings)

    def settings_for(self, geometry: Geometry) -> MaskSettings:
        """Return the settings that apply to a scan."""
        if geometry.exact:
            return self.settings
        return replace(self.settings, smoothing_mm=0.0, min_area_mm2=0.0, min_size_mm3=0.0)


def summarise(model: ScoringModel, volume: Scan, scores: ScanScores, rule: MaskRule) -> Summary:
    """Summarise a scan's scores.

    Parameters
    ----------
    model : NormativeModel
        The model that scored it.
    volume : Scan
        The scan, with the slices that were scored.
    scores : ScanScores
        Scores of all its slices.
    rule : MaskRule
        Defines findings.
    """
    scores = scores.counting_unseen(rule.settings.unseen_slices)
    scored, geometry, body = scores.scored, volume.geometry, Body(volume, model)
    found = p_values(model, volume, scores, body)
    p_value = found.scan if found else None
    findings = None
    if rule.threshold is not None:
        settings = rule.settings_for(geometry)
        mask = make_mask(
            scores.nll,
            rule.threshold,
            settings,
            geometry=geometry,
            scored=scored,
            body=body.whole(scored) if settings.body_only else None,
        )
        findings = int(label_components(mask).max(initial=0))
    return Summary(
        score=scan_score(scores.image_scores) if scored.any() else None,
        p_value=p_value,
        patients=found.patients if found and p_value is not None else 0,
        findings=findings,
        threshold=rule.threshold,
    )


def score_steps(
    model: ScoringModel,
    scan: Scan,
    key: str,
    store: WorklistStore,
    rule: Callable[[], MaskRule],
) -> Generator[tuple[int, int], None, Summary]:
    """Score the remaining slices of a scan, from the middle outward, and store the result.

    However it ends (closed, an error, the process killed), scores are on disk and are not computed
    again, except those of the last minute before a kill.

    Parameters
    ----------
    model : NormativeModel
        The model, which scores in the plane of its training slices.
    scan : Scan
        Read here, and released at the end.
    key, store : str, WorklistStore
        Where scores are stored, and under which key.
    rule : callable
        Called at the end for the definition of findings.

    Yields
    ------
    (int, int)
        Slices done, slices in all.

    Raises
    ------
    SpatialARError
        If the scan cannot be read or scored, or the scores cannot be written.
    """
    volume = scan.read().along(model.plane)
    geometry, by = volume.geometry, model_key(model)
    scores = store.load_scores(key, by, geometry) or ScanScores.empty(geometry)
    total, middle = len(scores.visited), len(scores.visited) // 2
    left = sorted(scores.left, key=lambda index: (abs(index - middle), index))
    done, saved_at, unsaved = total - len(left), time.monotonic(), False
    yield done, total
    try:
        for _ in score_slices(model, volume, left, scores=scores):
            done, unsaved = done + 1, True
            if done < total and time.monotonic() - saved_at > _SAVE_SECONDS:
                store.save_scores(key, by, scores)
                saved_at, unsaved = time.monotonic(), False
            yield done, total
        summary = summarise(model, volume, scores, rule())
        if unsaved:
            store.save_scores(key, by, scores, summary)
            unsaved = False
        else:
            store.save_summary(key, by, done, summary)
        return summary
    finally:
        if unsaved:
            store.save_scores(key, by, scores)
