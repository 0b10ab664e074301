"""Whether a scan looks like those that a model learned from: the input, not what is found in it.

Held-out normal patients say how far scans of the same kind lie from each other: in spacing, in the
share of a slice that is body, in how bright tissue is in the model's window, and in where the mean
patch embedding of the body lies. A patient counts by the median of their slices. What lies well
outside of all of them is said in words; nothing is corrected, and nothing is refused.

The distance of a patient's slices is the cosine distance of each slice's mean embedding from the
mean over the *other* patients, so that it stands for that of a patient who was never seen.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from napari_spatial_ar.errors import MemoryShortage
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.selection import place_in_stack
from napari_spatial_ar.imaging.tissue import tissue_mask
from napari_spatial_ar.imaging.volume import Volume
from napari_spatial_ar.imaging.windows import apply_window, resolve
from napari_spatial_ar.normative.tiling import Tiling, embed_slice

if TYPE_CHECKING:
    from napari_spatial_ar.normative.model import NormativeModel

__all__ = [
    "Likeness",
    "Looks",
    "NormalLooks",
    "compare_looks",
    "likeness",
    "likeness_steps",
    "look_at",
    "sum_up",
]

# Channels of the embedding that a model file keeps, spread evenly over all of them.
_MOST_CHANNELS = 512
_QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
# Parts of the middle of a stack that are looked at: its ends differ in every scan.
_PLACES = (0.3, 0.4, 0.5, 0.6, 0.7)
_GREYS = {"dark": 25, "middle": 50, "bright": 75}
# From so many patients on, the highest of them is near what a next one may have.
_ENOUGH = 5
# How many times as far as any normal patient is too far; of the spacing of slices, which the model
# does not see, more is let pass.
_TIMES = {
    "distance": 1.4,
    "body": 1.6,
    "field_of_view": 1.5,
    "pixel_spacing": 1.5,
    "slice_spacing": 2.0,
}
_GREY_MARGIN = 0.10
_SAID = 3


@dataclass(frozen=True)
class Looks:
    """What one slice looks like to a model, or the median of several.

    Parameters
    ----------
    measures : mapping of str to float
        ``body`` (share of the slice), ``dark``, ``middle``, ``bright`` (quartiles of the body's
        grey values in the model's window, 0..1) and, in mm where known, ``slice_spacing``,
        ``pixel_spacing``, ``field_of_view``.
    embedding : (D,) float32 or None
        Mean over the body's patches, of channels that are kept.
    """

    measures: Mapping[str, float]
    embedding: npt.NDArray[np.float32] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class NormalLooks:
    """What normal scans look like to a model; kept in its file.

    Parameters
    ----------
    patients, slices : int
        What it was measured on.
    quantiles : mapping of str to (float, ...)
        Lowest, quartiles and highest over patients, of the measures of `Looks` and of
        ``distance``, which takes two patients.
    embedding : tuple of float
        Mean over patients.
    """

    patients: int
    slices: int
    quantiles: Mapping[str, tuple[float, ...]]
    embedding: tuple[float, ...] = field(default=(), repr=False)

    def to_dict(self) -> dict[str, Any]:
        """JSON form, kept in the model file."""
        return {
            "patients": self.patients,
            "slices": self.slices,
            "quantiles": {name: list(values) for name, values in self.quantiles.items()},
            "mean_embedding": list(self.embedding),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> NormalLooks:
        """Inverse of `to_dict`."""
        found = {
            str(name): tuple(float(q) for q in quantiles)
            for name, quantiles in values["quantiles"].items()
        }
        if any(len(quantiles) != len(_QUANTILES) for quantiles in found.values()):
            raise ValueError("quantiles that are not five")
        return cls(
            patients=int(values["patients"]),
            slices=int(values["slices"]),
            quantiles=found,
            embedding=tuple(float(value) for value in values["mean_embedding"]),
        )


@dataclass(frozen=True)
class Likeness:
    """How a scan compares with what a model learned from.

    Parameters
    ----------
    reasons : tuple of str
        Why it is unlike, one clause each, the weightiest first; empty where nothing was found.
    measured : mapping of str to float
        What was compared, ``distance`` among it.
    complete : bool
        False where the model's file does not say what its scans looked like, or memory did not
        suffice to look.
    """

    reasons: tuple[str, ...] = ()
    measured: Mapping[str, float] = field(default_factory=dict)
    complete: bool = False

    @property
    def warning(self) -> str:
        """One or two sentences for the user; "" where nothing was found."""
        if not self.reasons:
            return ""
        more = len(self.reasons) - _SAID
        said = "; ".join(self.reasons[:_SAID]) + (f"; and {more} more" if more > 0 else "")
        return (
            f"This scan is unlike those the model learned from: {said}. Much of what is normal in "
            "it may score high."
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON form, for the record of a result."""
        return {
            "unlike": list(self.reasons),
            "measured": {name: round(value, 4) for name, value in self.measured.items()},
            "complete": self.complete,
        }


def look_at(
    unit: npt.NDArray[np.float32],
    grids: Tensor | None = None,
    tiling: Tiling | None = None,
    geometry: Geometry | None = None,
) -> Looks | None:
    """Measure one slice.

    Parameters
    ----------
    unit : (rows, columns) float32
        Grey values in 0..1.
    grids : (T, D, h, w) float32, optional
        Its embedding, of each tile; with ``tiling``.
    geometry : Geometry, optional
        Of the volume it is cut from.

    Returns
    -------
    Looks or None
        None where there is no body in it.
    """
    body = tissue_mask(unit)
    if not body.any():
        return None
    greys = np.percentile(unit[body], list(_GREYS.values()))
    measures = {"body": float(body.mean())}
    measures |= {name: float(grey) for name, grey in zip(_GREYS, greys, strict=True)}
    if geometry is not None and geometry.measurable:
        spacing = list(geometry.spacing)
        measures["slice_spacing"] = spacing.pop(geometry.slice_axis)
        across = [n for axis, n in enumerate(geometry.shape) if axis != geometry.slice_axis]
        measures["pixel_spacing"] = max(spacing)
        measures["field_of_view"] = max(n * s for n, s in zip(across, spacing, strict=True))
    if grids is None or tiling is None:
        return Looks(measures)
    weights = functional.interpolate(
        torch.from_numpy(body.astype(np.float32))[None, None], size=tiling.grid, mode="area"
    )[0, 0]
    weights = tiling.cut(weights).to(grids.device)[:, None]
    mean = (grids.float() * weights).sum(dim=(0, 2, 3)) / weights.sum()
    step = -(-len(mean) // _MOST_CHANNELS)
    return Looks(measures, mean[::step].cpu().numpy().astype(np.float32))


def _distance(embedding: npt.NDArray[Any], mean: npt.NDArray[Any]) -> float:
    lengths = float(np.linalg.norm(embedding) * np.linalg.norm(mean))
    return 1.0 - float(embedding @ mean) / lengths if lengths else 1.0


def sum_up(looks: Sequence[Looks], groups: Sequence[str]) -> NormalLooks | None:
    """Sum up slices of normal patients.

    Parameters
    ----------
    looks : sequence of Looks
        One a slice.
    groups : sequence of str
        Patient of each; nothing of it is kept.

    Returns
    -------
    NormalLooks or None
        None of no slices.
    """
    if not looks:
        return None
    of_patient: dict[str, list[Looks]] = {}
    for look, group in zip(looks, groups, strict=True):
        of_patient.setdefault(group, []).append(look)
    patients = list(of_patient.values())
    values: dict[str, list[float]] = {}
    for slices in patients:
        for name in slices[0].measures:
            of_slices = [s.measures[name] for s in slices if name in s.measures]
            values.setdefault(name, []).append(float(np.median(of_slices)))
    means = [
        np.mean([s.embedding for s in slices if s.embedding is not None], axis=0)
        for slices in patients
        if any(s.embedding is not None for s in slices)
    ]
    if len(means) == len(patients) > 1:
        for number, slices in enumerate(patients):
            other = np.mean([mean for n, mean in enumerate(means) if n != number], axis=0)
            far = [_distance(s.embedding, other) for s in slices if s.embedding is not None]
            values.setdefault("distance", []).append(float(np.median(far)))
    mean = np.mean(means, axis=0) if means else np.empty(0)
    return NormalLooks(
        patients=len(patients),
        slices=len(looks),
        quantiles={
            name: tuple(float(f"{q:.5g}") for q in np.quantile(found, _QUANTILES))
            for name, found in values.items()
        },
        embedding=tuple(float(f"{value:.4g}") for value in mean),
    )


def likeness_steps(model: NormativeModel, volume: Volume) -> Generator[None, None, Likeness]:
    """Compare a scan with what a model learned from; a few slices in its middle are embedded.

    Parameters
    ----------
    model : NormativeModel
        Whose file may say what normal scans look like; where it does not, only the modality is
        compared.
    volume : Volume
        The scan, with the slices that the model is to see.

    Yields
    ------
    None
        After each slice; stop iterating to cancel.

    Returns
    -------
    Likeness

    Raises
    ------
    InputError
        If the scan cannot be read.
    WeightsError
        If the backbone cannot be had.
    """
    reasons = _other_modality(model.modality, volume.modality)
    normal = model.header.looks
    if normal is None:
        return Likeness(reasons)
    shown = model.header.preprocessing
    window = resolve(shown.window, volume)
    tiling = Tiling.of(shown, model.backbone.patch)
    looks: list[Looks] = []
    complete = True
    for index in _middle(volume, model.header.selection.slice_range):
        yield
        unit = apply_window(volume.slice(index), *window)
        grids = None
        if complete and normal.embedding and min(unit.shape) >= model.backbone.patch:
            try:
                grids = embed_slice(model.backbone, shown, unit)
            except MemoryShortage:
                complete = False  # scoring moves to the CPU and says so; this is not worth it
        look = look_at(unit, grids, tiling, volume.geometry)
        if look is not None:
            looks.append(look)
    found = compare_looks(normal, looks)
    return Likeness((*reasons, *found.reasons), found.measured, complete and found.complete)


def likeness(model: NormativeModel, volume: Volume) -> Likeness:
    """Compare a scan with what a model learned from; see `likeness_steps`."""
    steps = likeness_steps(model, volume)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: Likeness = end.value
            return found


def _middle(volume: Volume, part: tuple[float, float]) -> list[int]:
    """Slices near the middle of the part of the stack that a model is for."""
    geometry = volume.geometry
    places = np.array([place_in_stack(geometry, index) for index in range(geometry.slice_count)])
    wanted = [part[0] + place * (part[1] - part[0]) for place in _PLACES]
    return sorted({int(np.argmin(np.abs(places - place))) for place in wanted})


def compare_looks(normal: NormalLooks, looks: Sequence[Looks]) -> Likeness:
    """Compare slices of a scan with normal ones.

    Parameters
    ----------
    normal : NormalLooks
        Of the model.
    looks : sequence of Looks
        Slices in the middle of the scan.

    Returns
    -------
    Likeness
    """
    if not looks:
        return Likeness(("the model finds no body in the slices in its middle",), {}, False)
    measured = {
        name: float(np.median([look.measures[name] for look in looks]))
        for name in looks[0].measures
    }
    mean = np.array(normal.embedding)
    embedded = [
        look.embedding
        for look in looks
        if look.embedding is not None and look.embedding.shape == mean.shape
    ]
    if embedded and "distance" in normal.quantiles:
        measured["distance"] = float(np.median([_distance(e, mean) for e in embedded]))
    told = {name: _clause(name, measured[name], normal) for name in _ORDER if name in measured}
    greys = [name for name in _GREYS if told.get(name)]
    for name in greys:
        if name != ("middle" if "middle" in greys else greys[0]):
            told[name] = ""  # it says the same once more
    return Likeness(tuple(filter(None, told.values())), measured, bool(embedded))


_ORDER = (
    *("distance", "middle", "bright", "dark", "body"),
    *("field_of_view", "pixel_spacing", "slice_spacing"),
)


def _clause(name: str, value: float, normal: NormalLooks) -> str:
    """Say how a measure lies outside; "" where it does not, or nothing is known of it."""
    quantiles = normal.quantiles.get(name)
    if quantiles is None:
        return ""
    low, high = quantiles[0], quantiles[-1]
    few = normal.patients < _ENOUGH
    if name in _GREYS:
        margin = (_GREY_MARGIN + (high - low) / 2) * (2 if few else 1)
        outside = not low - margin <= value <= high + margin
    else:
        times = _TIMES[name] ** (2 if few else 1)
        outside = value > high * times or (name != "distance" and value < low / times)
    if not outside:
        return ""
    whom = "the normal patient" if normal.patients == 1 else f"{normal.patients} normal patients"
    if name == "distance":
        return (
            f"its patches look {value / high:.1f} times as far from normal as those of any of "
            f"{whom}"
        )
    if name in _GREYS:
        which = {"dark": "the darkest quarter", "middle": "half", "bright": "three quarters"}[name]
        return (
            f"{which} of its tissue lies below {value:.0%} of the grey scale "
            f"({_range(low, high, '.0%')} in {whom})"
        )
    if name == "body":
        return f"the body fills {value:.0%} of a slice ({_range(low, high, '.0%')} in {whom})"
    what = {
        "field_of_view": "its field of view is",
        "pixel_spacing": "its pixels measure",
        "slice_spacing": "its slices lie apart by",
    }[name]
    return f"{what} {value:.3g} mm ({_range(low, high, '.3g')} mm in {whom})"


def _range(low: float, high: float, form: str) -> str:
    ends = f"{low:{form}}", f"{high:{form}}"
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def _other_modality(of_model: str, of_scan: str) -> tuple[str, ...]:
    if of_scan in ("unknown", of_model):
        return ()
    kinds = {"mri": "MRI", "ct": "CT", "oct": "OCT"}
    scan = kinds.get(of_scan, "neither MRI, CT nor OCT")
    return (f"it is {scan}, the model learned from {kinds.get(of_model, of_model)}",)
