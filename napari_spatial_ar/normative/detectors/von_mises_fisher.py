"""The von Mises-Fisher distribution of unit vectors in many dimensions.

p(u) = C_D(kappa) exp(kappa m . u) for unit vectors u and m in R^D (Mardia and Jupp, Directional
Statistics, 2000, equation 9.3.4), with

    log C_D(kappa) = (D/2 - 1) log kappa - D/2 log 2 pi - log I_{D/2 - 1}(kappa).

The Bessel function overflows float64 at the orders of embeddings (D = 384 and more), so its
logarithm is taken from the uniform expansion for large orders (Abramowitz and Stegun 9.7.7),
whose relative error at D = 384 is below 1e-12.
"""

from __future__ import annotations

import math

__all__ = ["concentration", "log_normalizer", "mean_resultant"]

# Polynomials u_1 .. u_4 in t of the expansion (Abramowitz and Stegun 9.3.9): divisor, and the
# coefficients of t^k, t^(k + 2), ...
_TERMS: tuple[tuple[float, tuple[float, ...]], ...] = (
    (24.0, (3.0, -5.0)),
    (1152.0, (81.0, -462.0, 385.0)),
    (414720.0, (30375.0, -369603.0, 765765.0, -425425.0)),
    (39813120.0, (4465125.0, -94121676.0, 349922430.0, -446185740.0, 185910725.0)),
)
_STEPS = 60
_LARGEST_COSINE = 1 - 1e-6


def _scaled_log_bessel(order: float, kappa: float) -> float:
    """Return log I_order(kappa) - order log kappa, finite at kappa = 0."""
    z = kappa / order
    root = math.hypot(1.0, z)
    t = 1.0 / root
    series = 1.0
    for k, (divisor, coefficients) in enumerate(_TERMS, start=1):
        polynomial = sum(c * t ** (k + 2 * n) for n, c in enumerate(coefficients)) / divisor
        series += polynomial / order**k
    return (
        order * (root - math.log1p(root) - math.log(order))
        - 0.5 * math.log(2 * math.pi * order)
        - 0.5 * math.log(root)
        + math.log(series)
    )


def log_normalizer(dimensions: int, kappa: float) -> float:
    """Return log C_D(kappa), in nats.

    Parameters
    ----------
    dimensions : int
        D, at least 8: the expansion is for large orders.
    kappa : float
        Concentration, at least 0; 0 is the uniform distribution on the sphere.
    """
    return -dimensions / 2 * math.log(2 * math.pi) - _scaled_log_bessel(dimensions / 2 - 1, kappa)


def mean_resultant(dimensions: int, kappa: float) -> float:
    """Return A_D(kappa) = I_{D/2}(kappa) / I_{D/2 - 1}(kappa): the expected cosine to the mean."""
    if kappa == 0:
        return 0.0
    order = dimensions / 2 - 1
    ratio = _scaled_log_bessel(order + 1, kappa) - _scaled_log_bessel(order, kappa)
    return math.exp(ratio + math.log(kappa))


def concentration(dimensions: int, cosine: float) -> float:
    """Return the kappa of greatest likelihood, whose expected cosine is the one observed.

    Parameters
    ----------
    dimensions : int
        D, at least 8.
    cosine : float
        Mean cosine between unit vectors and their predicted means. From 1 - 1e-6 on, where float32
        cannot tell it from 1, that is used.

    Returns
    -------
    float
        0 if the predictions are no better than none (a cosine of at most 0).
    """
    if cosine <= 0:
        return 0.0
    cosine = min(cosine, _LARGEST_COSINE)
    # Banerjee et al., JMLR 6 (2005), then Newton's method on A_D(kappa) = cosine.
    kappa = cosine * (dimensions - cosine**2) / (1 - cosine**2)
    for _ in range(_STEPS):
        expected = mean_resultant(dimensions, kappa)
        slope = 1 - expected**2 - (dimensions - 1) / kappa * expected
        step = (expected - cosine) / slope
        kappa = max(kappa - step, kappa / 2)
        if abs(step) <= 1e-12 * kappa:
            break
    return kappa
