"""The row of a bank nearest to each query, with the same result on every processor.

If a processor multiplies bfloat16 matrices fast, such products narrow down in which parts of the
bank the nearest row can be, and only these are multiplied in float32. It cannot be missed. Let q^
and b^ be a query and a row rounded to bfloat16, u = 2^-8 its unit roundoff, and p their product as
computed: k terms summed in float32, of unit roundoff v = 2^-24, and rounded to bfloat16. Then

    |q^ . b^ - q . b| <= (2 u + u^2) |q| |b|              each factor is off by u; Cauchy-Schwarz
    |p - q^ . b^|     <= (u + 2 k v) (1 + u)^3 |q| |b|    even if sums are not rounded to nearest

(N. Higham, Accuracy and Stability of Numerical Algorithms, section 3.1), so that
|p - q . b| <= e = (3.1 u + 2.1 k v) |q| |b|, which leaves 0.08 u for the rounding of float32
products themselves. A part whose largest p is below m - e, where m is the product with some row,
does not contain the nearest row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from napari_spatial_ar.normative.backbones.devices import bfloat16_products, native_bfloat16

__all__ = ["largest_products"]

# Rows compared at a time: on a CPU few enough for the products to stay in its cache.
_PART, _PART_ON_CARD = 256, 32_768
_ROUNDOFF, _ROUNDOFF_OF_SUMS = 2**-8, 2**-24


@torch.inference_mode()
def largest_products(queries: Tensor, rows: Tensor) -> Tensor:
    """Largest inner product of each query with any row, in float32.

    Parameters
    ----------
    queries : (N, k) float32
        The vectors to compare.
    rows : (M, k) float16 or float32
        The bank, on the same device; M at least 1.

    Returns
    -------
    (N,) float32
        For unit-length vectors: the cosine similarity to the nearest row.
    """
    on_processor = queries.device.type == "cpu"
    parts = torch.split(rows, _PART if on_processor else _PART_ON_CARD)
    if on_processor and len(parts) > 1 and native_bfloat16(queries.device):
        return _in_likely_parts(queries, parts)
    largest = _in_part(queries, parts[0])
    for part in parts[1:]:
        largest = torch.maximum(largest, _in_part(queries, part))
    return largest


def _in_part(queries: Tensor, part: Tensor) -> Tensor:
    return (queries @ part.float().T).amax(dim=1)


def _in_likely_parts(queries: Tensor, parts: tuple[Tensor, ...]) -> Tensor:
    """Multiply each query first with the most promising part, then with all other candidates."""
    short = queries.bfloat16()
    peaks = torch.stack([bfloat16_products(short, p.bfloat16()).amax(dim=1) for p in parts]).float()
    longest = torch.stack([_norms(part).amax() for part in parts])
    relative = 3.1 * _ROUNDOFF + 2.1 * queries.shape[1] * _ROUNDOFF_OF_SUMS
    error = relative * longest[:, None] * _norms(queries)
    likeliest = peaks.argmax(dim=0)
    largest = torch.full_like(peaks[0], -torch.inf)

    def look(number: int, where: Tensor) -> None:
        chosen = where.nonzero()[:, 0]
        if len(chosen):
            found = _in_part(queries[chosen], parts[number])
            largest[chosen] = torch.maximum(largest[chosen], found)

    for number in range(len(parts)):
        look(number, likeliest == number)
    for number in range(len(parts)):
        possible = peaks[number] >= largest - error[number]
        look(number, possible & (likeliest != number))
    return largest


def _norms(rows: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float32)
    return norms
