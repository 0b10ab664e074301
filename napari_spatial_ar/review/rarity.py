"""How many normal patients have tissue that scores as high as a finding."""

from __future__ import annotations

from dataclasses import dataclass

from napari_spatial_ar.normative.calibration import Calibration

__all__ = ["Rarity", "rarity"]


@dataclass(frozen=True)
class Rarity:
    """How rare a score is among the normal patients a model was calibrated on.

    Parameters
    ----------
    patients : int
        The calibration patients, n; 0 where the model does not know them.
    reaching : int
        How many of them may have tissue that scores as high. It counts those who reach the
        highest calibrated threshold below the score, so it is never too small.
    reason : str
        Why there is no figure; "" where there is one.
    """

    patients: int = 0
    reaching: int = 0
    reason: str = ""

    @property
    def share(self) -> float | None:
        """Share of normal patients, (1 + reaching) / (1 + n): never finer than 1 / (n + 1)."""
        return (1 + self.reaching) / (1 + self.patients) if self.patients else None

    @property
    def one_in(self) -> int | None:
        """N of "1 in N normal patients", rounded towards the more common."""
        return (1 + self.patients) // (1 + self.reaching) if self.patients else None

    @property
    def sentence(self) -> str:
        """What a reader may say of it."""
        if not self.patients:
            return f"How rare this is among normal patients is unknown: {self.reason}."
        basis = f"of the {self.patients} that the model was calibrated on"
        if not self.reaching:
            return f"Rarer than 1 in {self.one_in} normal patients: none {basis} scores this high."
        if self.one_in == 1:
            return f"Common: {self.reaching} {basis} may score this high."
        return f"1 in {self.one_in} normal patients may score this high: {self.reaching} {basis}."


def rarity(model: object, peak: float) -> Rarity:
    """Rarity of a finding by its highest score.

    Parameters
    ----------
    model : NormativeModel
        What scored it.
    peak : float
        The finding's highest score, in the model's unit.

    Returns
    -------
    Rarity
        With ``reason`` where the model has no calibration by patient.
    """
    calibration = getattr(getattr(model, "header", None), "calibration", None)
    if not isinstance(calibration, Calibration):
        return Rarity(reason="the model is not calibrated")
    shares = calibration.fpr_of_patients(peak)
    if not shares:
        return Rarity(reason="the model was calibrated without telling patients apart")
    return Rarity(len(shares), sum(share > 0 for share in shares))
