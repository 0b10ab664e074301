"""The results of a scored scan: mask, findings, p-values and the record of their origin."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.dicom.deidentify import research_uid
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.segments import Segment
from napari_spatial_ar.normative.calibration.domain_shift import DomainShift
from napari_spatial_ar.normative.scores import ScanScores
from napari_spatial_ar.normative.scoring_model import ScoringModel
from napari_spatial_ar.review.body import Body
from napari_spatial_ar.review.domain_shift import (
    flagged_warning,
    scan_counts,
    shift_record,
    unseen_note,
)
from napari_spatial_ar.review.findings import Finding, FindingsList, list_findings
from napari_spatial_ar.review.masks import MaskSettings, make_mask
from napari_spatial_ar.review.p_values import PValues, p_values
from napari_spatial_ar.review.provenance import provenance
from napari_spatial_ar.review.segments import finding_segment

__all__ = ["ScanResults", "gather_results"]


@dataclass(frozen=True, eq=False)
class ScanResults:
    """Everything written for a scan, independent of the format.

    Parameters
    ----------
    volume, score : Scan, ScanScores
        The scan and its scores.
    threshold : float
        Threshold of the mask, in the model's unit.
    mask : (Z, Y, X) uint8
        Without rejected findings.
    listed : FindingsList
        Findings with a person's verdicts, including rejected ones.
    p_values : PValues or None
        None if the model was calibrated without them.
    record : dict
        See `provenance`, with ``likeness`` and ``p_values``.
    shift_warnings : tuple of str
        Warnings about a domain shift, and about slices that the model has not seen.
    settings : MaskSettings
        How the voxels above the threshold became the mask.
    de_identified : bool
        Whether UIDs are replaced by `research_uid`.
    """

    volume: Scan
    score: ScanScores
    threshold: float
    mask: npt.NDArray[np.uint8] = field(repr=False)
    listed: FindingsList = field(repr=False)
    p_values: PValues | None
    record: dict[str, Any] = field(repr=False)
    shift_warnings: tuple[str, ...] = ()
    settings: MaskSettings = field(default_factory=MaskSettings)
    de_identified: bool = False

    @property
    def unit(self) -> str:
        """Unit of scores and threshold."""
        return str(self.record["threshold"]["unit"])

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Highest peak first, including rejected ones (label 0)."""
        return self.listed.exported

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """One for each finding, including rejected ones, in their order."""
        uid = self.volume.series.uid
        uid = research_uid(uid) if self.de_identified else uid
        scan = f"{uid} {self.record['scan']['voxels_sha256']}"
        model = self.record["model"]["sha256"] or self.record["model"]["name"]
        return tuple(finding_segment(item, scan, model) for item in self.listed.items)

    @property
    def kept_segments(self) -> tuple[Segment, ...]:
        """Those of findings that are not rejected."""
        pairs = zip(self.segments, self.listed.items, strict=True)
        return tuple(segment for segment, item in pairs if item.status != "reject")

    @property
    def more(self) -> list[dict[str, Any]]:
        """Fields of each finding for tables besides its measures."""
        return [
            {
                "name": segment.name,
                "colour": "#{:02x}{:02x}{:02x}".format(*segment.colour),
                **item.columns,
                "tracking_id": segment.tracking_id,
                "tracking_uid": segment.tracking_uid,
            }
            for segment, item in zip(self.segments, self.listed.items, strict=True)
        ]


def gather_results(
    volume: Scan,
    score: ScanScores,
    model: ScoringModel,
    *,
    threshold: float,
    fpr: float | None = None,
    settings: MaskSettings | None = None,
    region: npt.NDArray[np.bool_] | None = None,
    mask: npt.NDArray[np.bool_ | np.uint8] | None = None,
    reviewed: FindingsList | None = None,
    keep_uids: bool = False,
    de_identify: bool = False,
    shift: DomainShift | None = None,
) -> ScanResults:
    """Compute everything to be written for a scan.

    Parameters
    ----------
    volume, score, model : Scan, ScanScores, NormativeModel
        The scan, its scores and the model that computed them.
    threshold, fpr, settings, region, mask, reviewed, keep_uids, de_identify, shift
        See `napari_spatial_ar.review.outputs.write_scan_outputs`.

    Raises
    ------
    InputError
        If the mask does not match the scan's grid.
    """
    settings = MaskSettings() if settings is None else settings
    score = score.counting_unseen(settings.unseen_slices)
    geometry, body = volume.geometry, Body(volume, model)
    computed = make_mask(
        score.nll,
        threshold,
        settings,
        geometry=geometry,
        scored=score.scored,
        body=body.whole(score.scored) if settings.body_only else None,
        region=region,
    )
    final = computed if mask is None else (np.asarray(mask) != 0).astype(np.uint8)
    if final.shape != geometry.shape:
        raise InputError(f"a mask of {final.shape} is not on the scan's grid {geometry.shape}")
    listed = reviewed or list_findings(
        final, score.nll, geometry, model=model, body=body.largest(score.scored)
    )
    final = listed.without_rejected(final)
    found = p_values(model, volume, score, body)
    record = provenance(
        model,
        volume,
        threshold=threshold,
        fpr=fpr,
        scored=int(np.count_nonzero(score.scored)),
        mask_edited=not np.array_equal(final, computed),
        refined=sum(item.refined for item in listed.items),
        keep_uids=keep_uids,
        de_identify=de_identify,
        settings=settings,
        region_voxels=None if region is None else int(np.count_nonzero(region)),
    )
    counts = scan_counts(volume, body, score.nll, score.scored)
    flagged = flagged_warning(
        model,
        counts.share_above,
        slices=int(np.count_nonzero(score.scored)),
        whole=bool((score.scored | score.left_out).all()),
    )
    unseen = unseen_note(score)
    record["likeness"] = shift_record(shift, flagged)
    record["p_values"] = None if found is None else found.to_dict()
    shift_warnings = tuple(filter(None, (shift.warning if shift else "", unseen, flagged)))
    return ScanResults(
        volume,
        score,
        threshold,
        final,
        listed,
        found,
        record,
        shift_warnings,
        settings,
        de_identify,
    )
