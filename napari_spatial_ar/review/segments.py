"""Findings as segments, with the same number, name, colour and identity in every file."""

from __future__ import annotations

import uuid
from pathlib import Path

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.json_text import parse_json
from napari_spatial_ar.imaging.segments import Segment, colour_of
from napari_spatial_ar.review.findings import ReviewedFinding

__all__ = ["finding_name", "finding_segment", "recorded_segments"]


def finding_name(item: ReviewedFinding) -> str:
    """Name for users: a flagged region is called a finding once a reader keeps it."""
    kind = "Finding" if item.status == "keep" else "Flagged region"
    return f"{kind} {item.finding.rank}"


def finding_segment(item: ReviewedFinding, scan: str, model: str) -> Segment:
    """Segment of a finding.

    Parameters
    ----------
    item : ReviewedFinding
        The finding.
    scan, model : str
        Identify the scan and the model by content. With the voxel of the peak they determine the
        tracking UID, so that a region has the same one in a later export, even if another threshold
        or a manual edit made it larger.
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


def recorded_segments(numbers: Path) -> tuple[Segment, ...]:
    """Read the segments of a ``findings.nii.gz`` from the ``findings.json`` beside it.

    Returns
    -------
    tuple of Segment
        Those that are not rejected; empty for another file.

    Raises
    ------
    InputError
        If that file is not a table of findings.
    """
    beside = numbers.with_name("findings.json")
    if numbers.name != "findings.nii.gz" or not beside.is_file():
        return ()
    try:
        return tuple(
            Segment(
                number=int(found["label"]),
                name=str(found["name"]),
                colour=_rgb(found["colour"]),
                tracking_id=str(found["tracking_id"]),
                tracking_uid=str(found["tracking_uid"]),
            )
            for found in parse_json(beside.read_bytes())["findings"]
            if found["label"]
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            "does not list the regions of the map beside it", path=beside, fix="Give mask.nii.gz"
        ) from error


def _rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue
