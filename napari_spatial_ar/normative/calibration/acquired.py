"""How a model's training scans were acquired, and in which respects another scan differs.

This is read from headers, before anything is scored or embedded. What headers omit, or state for
less than half of the training scans, is not compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from napari_spatial_ar.datasets.slices import SliceRef, acquisition_of
from napari_spatial_ar.imaging.acquisition import Acquisition
from napari_spatial_ar.imaging.geometry import Plane
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.normative.calibration.domain_shift import DomainShift
from napari_spatial_ar.normative.slice_smoothing import measured_stack

if TYPE_CHECKING:
    from napari_spatial_ar.normative.model_file import ModelHeader
    from napari_spatial_ar.normative.scoring_model import Calibrated

__all__ = ["Acquired", "acquired_of", "header_shift", "header_shift_of"]

_UNKNOWN = "unknown"
# A smaller share of the scans for which something is known is chance, or a mistake.
_RARE = 0.1
_KINDS = {"mri": "MRI", "ct": "CT", "oct": "OCT"}


@dataclass(frozen=True)
class Acquired:
    """Number of scans by acquisition.

    Parameters
    ----------
    plane, sequence, contrast_agent, kernel : mapping of str to int
        Number of scans by value, including ``"unknown"``: the plane of the slices that the model
        saw, and the fields of `Acquisition` (``"yes"`` or ``"no"`` for a contrast agent).
    """

    plane: Mapping[str, int] = field(default_factory=dict)
    sequence: Mapping[str, int] = field(default_factory=dict)
    contrast_agent: Mapping[str, int] = field(default_factory=dict)
    kernel: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        scans: Iterable[tuple[Plane | None, Acquisition]],
        plane: Plane | None = None,
        described: Acquisition | None = None,
    ) -> Acquired | None:
        """Count scans, filling gaps with the user's statement; None if nothing is known."""
        stated = _values(plane, described or Acquisition())
        counts: dict[str, Counter[str]] = {name: Counter() for name in _FIELDS}
        for own_plane, own in scans:
            for name, value in _values(own_plane, own).items():
                counts[name][value or stated[name] or _UNKNOWN] += 1
        made = cls(**{name: dict(sorted(count.items())) for name, count in counts.items()})
        return made if any(made.usual(name) for name in _FIELDS) else None

    def usual(self, name: str) -> tuple[str, ...]:
        """Values of a parameter that are typical for the model, the most frequent first."""
        counts: Mapping[str, int] = getattr(self, name)
        known = {value: count for value, count in counts.items() if value != _UNKNOWN}
        total = sum(known.values())
        if not total or total < counts.get(_UNKNOWN, 0):
            return ()
        often = [value for value, count in known.items() if count >= _RARE * total]
        return tuple(sorted(often, key=lambda value: -known[value]))

    def to_dict(self) -> dict[str, dict[str, int]]:
        """JSON form, stored in the model file."""
        return {name: dict(getattr(self, name)) for name in _FIELDS}


_FIELDS = ("plane", "sequence", "contrast_agent", "kernel")


def _values(plane: Plane | None, found: Acquisition) -> dict[str, str]:
    agent = {True: "yes", False: "no", None: ""}[found.contrast_agent]
    return {
        "plane": plane or "",
        "sequence": found.sequence,
        "contrast_agent": agent,
        "kernel": found.kernel,
    }


def acquired_of(
    refs: Iterable[SliceRef], plane: Plane | None = None, described: Acquisition | None = None
) -> Acquired | None:
    """Read the headers of the scans that slices come from.

    Parameters
    ----------
    refs : iterable of SliceRef
        The slices.
    plane, described : Plane, Acquisition, optional
        The user's statement about scans whose headers omit it; see `read_acquired`.

    Returns
    -------
    Acquired or None
        None if nothing is known about most of them.

    Raises
    ------
    InputError
        If a file can no longer be read.
    """
    scans: dict[Any, SliceRef] = {}
    for ref in refs:
        picture = ref.index is None
        key = (ref.path.parent, ref.group) if picture else (ref.source, ref.volume, ref.plane)
        scans.setdefault(key, ref)
    return Acquired.of((acquisition_of(ref) for ref in scans.values()), plane, described)


def header_shift(header: ModelHeader, volume: Scan) -> DomainShift:
    """Compare a scan's header, or else its name, with a model's training scans.

    Parameters
    ----------
    header : ModelHeader
        Header of the model.
    volume : Scan
        The scan, with the slices that the model will score; no voxel is read.

    Returns
    -------
    DomainShift
        ``reasons`` for every difference: modality, sequence, plane, contrast agent, kernel, and
        slices that the model cannot average over although it does so.
    """
    found = volume.series.acquisition
    differences = _modality(header.modality, volume.modality, found)
    if not differences:
        geometry, acquired = volume.geometry, header.acquired or Acquired()
        cut = header.selection.cut
        values = _values(geometry.plane if geometry.spacing_known else None, found)
        for name in _ORDER:
            usual = (cut,) if name == "plane" and cut else acquired.usual(name)
            if values[name] and usual and values[name] not in usual:
                differences.append(_difference(name, values[name], usual, found.by_name))
    if header.scoring.smoothing_z and not measured_stack(volume.geometry):
        why = "the distances of its slices are unknown, so the model cannot average over them"
        differences.append((why, "slice spacing"))
    return DomainShift(
        tuple(reason for reason, _ in differences), topics=tuple(topic for _, topic in differences)
    )


def header_shift_of(model: Calibrated | None, scan: Scan | None) -> DomainShift | None:
    """As `header_shift`, for a scan sliced along the plane of the model's training slices.

    None without a scan or a model. If the scan cannot be sliced so, the
    acquired slices are compared.
    """
    if scan is None or model is None:
        return None
    header, geometry = model.header, scan.geometry
    cut = header.selection.cut
    if cut is not None and geometry.measurable:
        scan = replace(scan, geometry=geometry.along(cut))
    return header_shift(header, scan)


_ORDER = ("sequence", "plane", "contrast_agent", "kernel")


def _modality(of_model: str, of_scan: str, found: Acquisition) -> list[tuple[str, str]]:
    named = of_scan == "unknown"
    of_scan = (found.modality or of_scan) if named else of_scan
    if of_scan in ("unknown", of_model):
        return []
    scan = _KINDS.get(of_scan, "neither MRI, CT nor OCT")
    model = _KINDS.get(of_model, of_model)
    subject = "according to its name, it" if named else "it"
    return [
        (f"{subject} is {scan}, the model was trained on {model}", f"{scan} instead of {model}")
    ]


def _difference(name: str, value: str, usual: tuple[str, ...], by_name: bool) -> tuple[str, str]:
    """Describe a difference in a clause, and in a few words."""
    if name == "plane":
        those = _either(usual)
        return (
            f"its slices are {value}, the model was trained on {those} ones",
            f"{value} instead of {those} slices",
        )
    subject = "according to its name, it" if by_name else "it"
    if name == "sequence":
        those = _either(usual)
        return (
            f"{subject} is {value}, the model was trained on {those}",
            f"{value} instead of {those}",
        )
    if name == "contrast_agent":
        given = "with" if value == "yes" else "without"
        other = "without" if value == "yes" else "with"
        return (
            f"{subject} was acquired {given} contrast agent, the model's training scans {other} it",
            f"{given} contrast agent",
        )
    return (
        f"its kernel is a {value} one, the model was trained on {_either(usual)} ones",
        f"{value} instead of {_either(usual)} kernel",
    )


def _either(values: tuple[str, ...]) -> str:
    *others, last = values
    return f"{', '.join(others)} or {last}" if others else last
