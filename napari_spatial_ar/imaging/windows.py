"""Intensity windows: the range of voxel values that maps to [0, 1] for a model.

numpy is imported where it is needed: the command line's help uses windows but no arrays.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.series import Intensity, Modality

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from napari_spatial_ar.imaging.scan import Sample, Scan

__all__ = [
    "CT_PRESETS",
    "Window",
    "WindowKind",
    "apply_window",
    "default_window",
    "display_limits",
    "read_window",
    "resolve",
]

WindowKind = Literal["full8", "percentile", "fixed"]


@dataclass(frozen=True)
class Window:
    """Rule that maps voxels to [0, 1] for a model. 8-bit grey is always mapped from 0..255.

    Parameters
    ----------
    kind : {"full8", "percentile", "fixed"}
        ``"full8"``: 0..255. ``"percentile"``: percentiles of the scan's own voxels, excluding those
        at its minimum (the background). ``"fixed"``: the same values for every scan.
    low, high : float
        Ends of the window: percent for ``"percentile"``, stored units (Hounsfield units in a
        CT) for ``"fixed"``, not used for ``"full8"``.

    Raises
    ------
    InputError
        If the kind is unknown, or the ends are not finite, increasing and, as percentiles,
        within 0..100.
    """

    kind: WindowKind
    low: float = 0.0
    high: float = 255.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(WindowKind):
            raise InputError(
                f"there is no intensity window of kind {self.kind!r}",
                fix=f"Choose from {', '.join(get_args(WindowKind))}",
            )
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise InputError(f"the intensity window {self.low} to {self.high} is empty")
        if self.kind == "percentile" and not (self.low >= 0 and self.high <= 100):
            raise InputError(
                f"the percentiles {self.low} and {self.high} are not both between 0 and 100"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


#: Windows radiologists use for a CT, Hounsfield units (centre and width as is usual in PACS).
CT_PRESETS: dict[str, Window] = {
    "brain": Window("fixed", 0.0, 80.0),  # 40 / 80
    "liver": Window("fixed", -20.0, 140.0),  # 60 / 160
    "lung": Window("fixed", -1350.0, 150.0),  # -600 / 1500
    "bone": Window("fixed", -450.0, 1050.0),  # 300 / 1500
    "soft tissue": Window("fixed", -160.0, 240.0),  # 40 / 400
}


def default_window(modality: Modality) -> Window:
    """Choose the window for a modality: percentiles, for a CT soft tissue (-160..240 HU)."""
    if modality == "ct":
        return CT_PRESETS["soft tissue"]
    return Window("percentile", 0.5, 99.5)


def read_window(text: str) -> Window:
    """Parse a window: the name of a preset, LOW:HIGH, or percentiles as pLOW:HIGH.

    Raises
    ------
    InputError
        If it is none of these.
    """
    preset = CT_PRESETS.get(text.strip().lower().replace("-", " ").replace("_", " "))
    if preset is not None:
        return preset
    low, colon, high = text.strip().lower().removeprefix("p").partition(":")
    try:
        ends = float(low), float(high.removeprefix("p"))
    except ValueError:
        colon = ""
    if not colon:
        raise InputError(
            f"there is no window '{text}'",
            fix=f"Give {', '.join(CT_PRESETS)}, LOW:HIGH, or percentiles such as p0.5:99.5",
        )
    return Window("percentile" if text.strip().lower().startswith("p") else "fixed", *ends)


def resolve(
    window: Window, scan: Scan | Sample | npt.NDArray[Any], intensity: Intensity | None = None
) -> tuple[float, float]:
    """Find the ends of the window for one scan, in the scan's own units.

    Parameters
    ----------
    window : Window
        The rule.
    scan : Scan, Sample or array
        The voxels it is applied to: a whole scan, or one image.
    intensity : {"grey8", "hu", "arbitrary"}, optional
        Unit of the voxels; by default that of a Scan, else ``"arbitrary"``.

    Returns
    -------
    (low, high)
        Values that map to 0 and 1.

    Raises
    ------
    InputError
        If percentiles are needed and the voxels are constant or not finite.
    """
    import numpy as np

    from napari_spatial_ar.imaging.scan import Sample, Scan

    if intensity is None:
        intensity = scan.intensity if isinstance(scan, Scan) else "arbitrary"
    if intensity == "grey8" or window.kind == "full8":
        return 0.0, 255.0
    if window.kind == "fixed":
        return window.low, window.high
    if isinstance(scan, Scan):
        sample = scan.sample
    else:
        sample = scan if isinstance(scan, Sample) else Sample.of(scan)
    minimum, maximum = sample.minimum, sample.maximum
    if not (math.isfinite(minimum) and math.isfinite(maximum)):
        raise InputError("the image holds values that are not finite numbers")
    if minimum == maximum:
        raise InputError(f"all pixels of the image have the same value, {minimum:g}")
    if sample.foreground.size:
        ends = np.percentile(sample.foreground, (window.low, window.high))
        low, high = (float(end) for end in ends)
        if low < high:
            return low, high
    return minimum, maximum


def display_limits(volume: Scan) -> tuple[float, float]:
    """Voxel values to be displayed black and white.

    The window in the scan's header; else soft tissue for a CT, percentiles for any other scan.
    """
    if volume.window is not None:
        return volume.window
    window = default_window("ct" if volume.intensity == "hu" else "unknown")
    try:
        # Not "grey8", which would leave a dark scan dark.
        return resolve(window, volume, "arbitrary")
    except InputError:
        # A constant scan is displayed too, as a uniform grey.
        low = float(volume.data.min())
        return low, low + 1.0


def apply_window(
    image: npt.NDArray[np.generic], low: float, high: float
) -> npt.NDArray[np.float32]:
    """Map low..high to [0, 1], clipped.

    Parameters
    ----------
    image : array of any shape
        Voxels in stored units.
    low, high : float
        Ends of the window, as from `resolve`.

    Returns
    -------
    array of the same shape, float32
        In [0, 1].
    """
    # In place: for a graphics card, each pass over a slice counts.
    import numpy as np

    unit = image.astype(np.float32)
    unit -= np.float32(low)
    unit /= np.float32(high - low)
    return np.clip(unit, 0.0, 1.0, out=unit)
