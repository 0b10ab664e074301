"""Findings as segments: the number, name, colour and identity that one has in every file."""

from __future__ import annotations

import uuid

from napari_spatial_ar.imaging.segments import Segment, colour_of
from napari_spatial_ar.review.findings import ReviewedFinding

__all__ = ["finding_name", "finding_segment"]


def finding_name(item: ReviewedFinding) -> str:
    """Name for people: a flagged region is called a finding once a reader keeps it."""
    kind = "Finding" if item.status == "keep" else "Flagged region"
    return f"{kind} {item.finding.rank}"


def finding_segment(item: ReviewedFinding, scan: str, model: str) -> Segment:
    """Segment of a finding.

    Parameters
    ----------
    item : ReviewedFinding
        The finding.
    scan, model : str
        What names the scan and the model by their content. With the voxel of the peak they make
        the tracking UID, so that a region is the same one in a later export, also where another
        threshold or a stroke made it larger.
    """
    peak = ",".join(map(str, item.finding.peak_zyx))
    made = uuid.uuid5(uuid.NAMESPACE_OID, f"{scan} {model} {peak}")
    return Segment(
        number=item.finding.rank,
        name=finding_name(item),
        colour=colour_of(item.finding.rank),
        tracking_id=f"region-{made.hex[:12]}",
        tracking_uid=f"2.25.{made.int}",
    )
