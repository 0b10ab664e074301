"""The distribution of directions against mpmath, at the dimensions of embeddings and below."""

from __future__ import annotations

import math

import mpmath
import pytest

from napari_spatial_ar.normative.detectors.von_mises_fisher import (
    concentration,
    log_normalizer,
    mean_resultant,
)

# Dimensions, and the error of the expansion that is allowed there.
CASES = [(12, 1e-6), (24, 2e-7), (64, 1e-9), (384, 1e-12), (768, 4e-12)]


@pytest.mark.parametrize(("dimensions", "error"), CASES)
@pytest.mark.parametrize("kappa", [1e-3, 0.5, 10.0, 120.0, 700.0])
def test_normalizer_and_expected_cosine_equal_those_of_mpmath(
    dimensions: int, error: float, kappa: float
) -> None:
    with mpmath.workdps(40):
        order = mpmath.mpf(dimensions) / 2 - 1
        bessel = mpmath.besseli(order, kappa)
        expected = order * mpmath.log(kappa) - (order + 1) * mpmath.log(2 * mpmath.pi)
        expected -= mpmath.log(bessel)
        cosine = mpmath.besseli(order + 1, kappa) / bessel
    assert log_normalizer(dimensions, kappa) == pytest.approx(float(expected), abs=error)
    assert mean_resultant(dimensions, kappa) == pytest.approx(float(cosine), abs=error)


def test_without_concentration_it_is_the_uniform_distribution() -> None:
    area = math.log(2) + 192 * math.log(math.pi) - math.lgamma(192)
    assert log_normalizer(384, 0.0) == pytest.approx(-area, abs=1e-11)
    assert mean_resultant(384, 0.0) == 0
    assert concentration(384, 0.0) == concentration(384, -0.2) == 0


@pytest.mark.parametrize("dimensions", [24, 384, 1536])
@pytest.mark.parametrize("cosine", [1e-3, 0.1, 0.5, 0.9, 0.999])
def test_the_concentration_is_the_one_whose_expected_cosine_was_seen(
    dimensions: int, cosine: float
) -> None:
    kappa = concentration(dimensions, cosine)
    assert mean_resultant(dimensions, kappa) == pytest.approx(cosine, rel=1e-9)

    def likelihood(other: float) -> float:
        return log_normalizer(dimensions, other) + other * cosine

    assert likelihood(kappa) > max(likelihood(0.99 * kappa), likelihood(1.01 * kappa))


def test_a_perfect_prediction_has_a_finite_concentration() -> None:
    largest = concentration(384, 1.0)
    assert concentration(384, 1.0 + 1e-7) == largest == pytest.approx(383 / 2e-6, rel=1e-3)
