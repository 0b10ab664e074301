"""The inferno colour map, small enough to carry (Smith and van der Walt 2015, CC0)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["INFERNO", "inferno"]

_KNOTS = (
    "000004 040312 0b0724 150b37 210c4a 2e0a5a 3c0965 4a0c6b 57106d 63146e 70196e "
    "7d1e6d 89226a 962766 a32b61 af315c bb3755 c63e4d d14644 db4f3b e35932 eb6528 "
    "f1711e f67f14 f98d0a fb9c06 fcab0f fbba1f f9ca32 f5d949 f2e865 f3f586 fcffa4"
)


def _table() -> npt.NDArray[np.float32]:
    knots = np.array([list(bytes.fromhex(knot)) for knot in _KNOTS.split()]) / 255
    at = np.linspace(0, len(knots) - 1, 256)
    columns = [np.interp(at, np.arange(len(knots)), knots[:, c]) for c in range(3)]
    table = np.stack(columns, axis=1).astype(np.float32)
    table.setflags(write=False)
    return table


#: (256, 3) float32 RGB in [0, 1], from low to high; within 1.5 of 255 of the original table.
INFERNO = _table()


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
