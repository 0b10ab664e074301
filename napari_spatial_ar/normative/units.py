"""Units of scores: each method has its own; one of them is a negative log-likelihood."""

from __future__ import annotations

__all__ = ["NATS_PER_DIMENSION", "is_nll"]

#: Unit of `napari_spatial_ar.normative.detectors.spatial_ar`.
NATS_PER_DIMENSION = "nats per dimension"


def is_nll(unit: str) -> bool:
    """Whether scores in a unit are negative log-likelihoods, as those of Spatial AR are."""
    return unit == NATS_PER_DIMENSION
