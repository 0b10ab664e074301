"""Tables as CSV that any spreadsheet opens, and in which none of them finds a formula."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence

from napari_spatial_ar.errors import printable

__all__ = ["csv_text"]

# Characters that begin a formula in spreadsheets (OWASP, CSV injection), including wide forms.
_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Write rows as CSV.

    Numbers stay numbers; None and numbers that are not finite are left empty. Text that a
    spreadsheet would evaluate is preceded by ``'``; unprintable characters become escapes. Text may
    have several lines.

    Parameters
    ----------
    rows : iterable of sequences
        The headings first.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return ""
    if not isinstance(value, str):
        return value
    text = "\n".join(map(printable, value.split("\n")))
    if text.lstrip(" \n").startswith(_FORMULA) and not _NUMBER.fullmatch(text):
        return f"'{text}"
    return text
