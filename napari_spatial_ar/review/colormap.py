"""Colours of heatmaps, small enough to carry.

Inferno and viridis (Smith and van der Walt 2015, CC0) and cividis (Nunez, Anderton and Renslow
2018) rise evenly in lightness to the eye, cividis also to one that does not tell red from green;
"red" is of one hue. All fade in from their low end, so that the scan is seen through.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

__all__ = ["DEFAULT_COLOURS", "HEAT_COLOURS", "INFERNO", "HeatColours", "inferno"]

_KNOTS = (
    "000004 040312 0b0724 150b37 210c4a 2e0a5a 3c0965 4a0c6b 57106d 63146e 70196e "
    "7d1e6d 89226a 962766 a32b61 af315c bb3755 c63e4d d14644 db4f3b e35932 eb6528 "
    "f1711e f67f14 f98d0a fb9c06 fcab0f fbba1f f9ca32 f5d949 f2e865 f3f586 fcffa4"
)


_VIRIDIS = (
    "440154 470d60 48186a 482374 472d7b 453681 424086 3f4989 3b528b 375a8d 33638d "
    "2f6a8e 2c728e 297a8e 26818e 23898e 21908c 1f988b 1f9f88 21a685 28ae80 31b57b "
    "3ebc74 4cc26c 5dc963 6ece58 82d34c 96d83f abdc32 c0df24 d5e21a eae51a fde725"
)
_CIVIDIS = (
    "00224e 00285b 002e6a 043371 1a386f 273e6e 32436d 3b496c 434e6c 4b546c 52596d "
    "5a5f6e 61656f 686a71 6f7073 757676 7c7b78 848179 8b8778 938d78 9b9376 a39a75 "
    "aba072 b3a670 bbad6c c3b469 ccba64 d4c15f ddc958 e6d051 efd748 f8df3c fee838"
)
_RED = "ff3b30 ff3b30"


def _table(words: str = _KNOTS) -> npt.NDArray[np.float32]:
    knots = np.array([list(bytes.fromhex(knot)) for knot in words.split()]) / 255
    at = np.linspace(0, len(knots) - 1, 256)
    columns = [np.interp(at, np.arange(len(knots)), knots[:, c]) for c in range(3)]
    table = np.stack(columns, axis=1).astype(np.float32)
    table.setflags(write=False)
    return table


#: (256, 3) float32 RGB in [0, 1], from low to high; within 1.5 of 255 of the original table.
INFERNO = _table()


@dataclass(frozen=True)
class HeatColours:
    """A choice of colours for a heatmap over a scan.

    Parameters
    ----------
    title : str
        Its name for people.
    rgba : (256, 4) float32
        From low to high, in [0, 1]; the low end is transparent.
    """

    title: str
    rgba: npt.NDArray[np.float32] = field(repr=False)


def _fading(title: str, rgb: npt.NDArray[np.float32]) -> HeatColours:
    opacity = 0.85 * np.linspace(0, 1, len(rgb)) ** 0.7
    rgba = np.column_stack([rgb, opacity]).astype(np.float32)
    rgba.setflags(write=False)
    return HeatColours(title, rgba)


#: Colours to choose from, by the name that is remembered.
HEAT_COLOURS = {
    "inferno": _fading("Inferno", INFERNO),
    "viridis": _fading("Viridis", _table(_VIRIDIS)),
    "cividis": _fading("Cividis", _table(_CIVIDIS)),
    "red": _fading("Red only", _table(_RED)),
}
DEFAULT_COLOURS = "inferno"


def inferno(unit: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Colours of values.

    Parameters
    ----------
    unit : (...) floating
        Values in [0, 1]; what lies outside is drawn as the nearest end.

    Returns
    -------
    (..., 3) float32
        RGB in [0, 1].
    """
    index = np.clip(np.rint(np.nan_to_num(unit) * 255), 0, 255).astype(np.intp)
    return np.asarray(INFERNO[index], dtype=np.float32)
