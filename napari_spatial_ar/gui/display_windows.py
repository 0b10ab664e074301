"""Display windows of a scan: from its header, percentiles, or CT presets.

They affect the display only: the model window is the model's own setting.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from napari_spatial_ar.gui import settings
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.windows import CT_PRESETS, Window, display_limits
from napari_spatial_ar.normative.scoring_model import ScoringModel

__all__ = [
    "Drawn",
    "choices",
    "describe",
    "first_choice",
    "limits_of",
    "model_sees",
    "needs_voxels",
    "opening_window",
    "remember_choice",
]

_HEADER = "scan"
_PERCENTILES = "percentiles"


@dataclass(frozen=True)
class Drawn:
    """A choice and the voxel values that it draws black and white."""

    choice: str
    limits: tuple[float, float]


def choices(scan: Scan) -> dict[str, str]:
    """Available windows for a scan: key and text for the user."""
    found = {}
    if scan.window is not None:
        found[_HEADER] = "From the scan"
    found[_PERCENTILES] = "Percentiles"
    if scan.intensity == "hu":
        found |= {name: f"CT {name}" for name in CT_PRESETS}
    return found


def first_choice(scan: Scan) -> str:
    """Choose the initial window: the one used last for this kind of scan, else the scan's own.

    Without either, soft tissue for a CT and percentiles for any other scan.
    """
    wanted = str(settings.recall(_key(scan), ""))
    known = choices(scan)
    if wanted in known:
        return wanted
    if scan.window is not None:
        return _HEADER
    return "soft tissue" if scan.intensity == "hu" else _PERCENTILES


def remember_choice(scan: Scan, choice: str) -> None:
    """Use this window for the next scan of this kind."""
    settings.remember(_key(scan), choice)


def _key(scan: Scan) -> str:
    return f"display_window/{scan.intensity}"


def needs_voxels(choice: str) -> bool:
    """Whether `limits_of` reads the voxels, which takes time for a large scan."""
    return choice == _PERCENTILES


def limits_of(volume: Scan, choice: str) -> tuple[float, float]:
    """Voxel values to draw black and white.

    Raises
    ------
    InputError
        If a large scan is read for it and a file is damaged or missing.
    """
    if choice in CT_PRESETS:
        return CT_PRESETS[choice].low, CT_PRESETS[choice].high
    if choice == _HEADER and volume.window is not None:
        return volume.window
    return display_limits(replace(volume, window=None, intensity="arbitrary"))


def opening_window(volume: Scan) -> Drawn:
    """Choose the initial window of a scan; may read slices of a large one.

    Raises
    ------
    InputError
        As for `limits_of`.
    """
    choice = first_choice(volume)
    return Drawn(choice, limits_of(volume, choice))


def describe(window: Window, unit: str, *, short: bool = False) -> str:
    """Window as text, such as ``"-160..240 HU"``; ``short`` where space is limited."""
    ends = f"{window.low:g}..{window.high:g}"
    if window.kind == "percentile":
        return f"{ends} %" if short else f"percentiles {ends}"
    if window.kind == "full8":
        return "grey levels 0..255"
    return f"{ends} {unit}".rstrip()


def model_sees(model: ScoringModel) -> str:
    """State in one sentence which intensities a model sees."""
    window = model.header.preprocessing.window
    return f"Model window: {describe(window, 'HU' if model.modality == 'ct' else '')}."
