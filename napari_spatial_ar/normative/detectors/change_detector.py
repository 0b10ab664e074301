"""A small network trained to detect synthetic anomalies: changes made to normal slices.

In the line of CutPaste (Li et al., CVPR 2021), DRAEM (Zavrtanik et al., ICCV 2021), Natural
Synthetic Anomalies (Schluter et al., ECCV 2022) and SimpleNet (Liu et al., CVPR 2023), whose small
discriminator on frozen features this is; here the changes are made to the slice itself
(`napari_spatial_ar.normative.fitting.synthetic_anomalies`), not to its features. No lesion and no
label of one is used.

Each patch is described together with its surroundings and whitened (`surroundings_bank`), using the
moments of unchanged patches: those of the changed slices, and those of all normal slices where they
are embedded too. A network of two layers is trained by cross-entropy to distinguish changed patches
from unchanged ones, in a ratio of one to three, with dropout before both layers.

Defaults: 600 changed slices (at most three of each normal slice), 256 components, 128 hidden
units, 1500 steps of 1024 patches.

Cost: embedding the changed slices, as long as for that many normal ones, then about a minute on a
CPU. Scoring is a product with a (2 D, 256) matrix, some milliseconds a slice; the file has 1 MB.

What the score is, and is not: the log odds of a change, by a network that knows only the kinds of
change it was trained on. It is measured from the lowest 0.1 % of the scores of unchanged patches
and clipped there, so that 0 is an ordinary patch. It is no likelihood and no probability of
disease: the odds are those of the training sample. What resembles none of the imitated changes may
be missed, however rare it is among normal slices: on scattered small lesions of multiple sclerosis
it did no better than the memory bank, and models of different seeds disagreed
(benchmarks/results/change_detector.json). A slice is not unusual to it merely because it comes from
another scanner or another part of the body.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.normative.detectors.base import Detector, FitContext, Learned, Learning, Step
from napari_spatial_ar.normative.detectors.grids import Draw, check_grid, present_in, score_rows
from napari_spatial_ar.normative.detectors.patch_labels import CHANGED, IGNORED, UNCHANGED
from napari_spatial_ar.normative.detectors.stored import take
from napari_spatial_ar.normative.detectors.surroundings_bank import Whitening, describe
from napari_spatial_ar.normative.detectors.whitening import Moments
from napari_spatial_ar.normative.model_schema import Count, Number, Part

__all__ = ["ChangeDetector"]

# Patches per step: changed, unchanged.
_BATCH = (256, 768)
_DROPOUT = 0.3
_PEAK_RATE, _WEIGHT_DECAY = 2e-3, 0.05
# Share of unchanged patches that score 0.
_FLOOR_SHARE = 1e-3
# Steps between two checks for cancellation.
_REPORT = 50
# Patches held as float32 at a time, and scores read at a time to find the zero point.
_CHUNK = 65_536

Pairs = Iterable[Any]  # of tuple[Tensor, Tensor]


class StoredChange(Part):
    """Schema of its parameters in a file."""

    zero: Number
    components: Count = 0
    hidden: Count = 0


class ChangeDetector(Detector):
    """Log odds, by a network trained on synthetic changes, that a patch was changed.

    Parameters
    ----------
    whitening : Whitening
        Describes patches, whitened by the moments of unchanged ones.
    weights : mapping of str to Tensor
        ``hidden.weight`` (h, k), ``hidden.bias`` (h,), ``out.weight`` (1, h), ``out.bias`` (1,).
    zero : float
        Log odds that score 0.
    """

    name: ClassVar[str] = "synthetic-change"
    stored: ClassVar[type[Part]] = StoredChange
    unit: ClassVar[str] = "log odds"
    summary: ClassVar[str] = "similarity to synthetic anomalies in normal slices"
    meaning: ClassVar[str] = (
        "The log odds that the patch is a synthetic anomaly, according to a network trained on "
        "such anomalies, above those of an ordinary patch; not a probability of disease."
    )
    reference: ClassVar[str] = (
        "in the line of CutPaste, DRAEM, NSA and SimpleNet (Liu et al., CVPR 2023)"
    )
    cost: ClassVar[str] = (
        "fits in minutes (changed slices are embedded too), scores in milliseconds, a file of 1 MB"
    )
    #: Learns from pairs of a changed slice's grid and its patches' labels, not from normal grids.
    needs_synthetic: ClassVar[bool] = True
    needs_normal: ClassVar[bool] = False
    replayable: ClassVar[bool] = True

    def __init__(
        self, whitening: Whitening, weights: Mapping[str, Tensor], zero: float = 0.0
    ) -> None:
        self.whitening = whitening
        # Initialising weights only to replace them would change torch's global random state.
        with torch.device("meta"):
            self.network = _network(whitening.basis.shape[1], len(weights["hidden.bias"]))
        self.network.load_state_dict(dict(weights), assign=True)
        self.network.eval().requires_grad_(False)
        self.zero = zero

    @classmethod
    def learn(
        cls,
        grids: Pairs,
        setup: FitContext,
        *,
        slices: int = 600,
        components: int = 256,
        hidden: int = 128,
        steps: int = 1500,
        samples: int = 300_000,
    ) -> Learning[ChangeDetector]:
        """Train on changed slices; see `Detector.learn`.

        Parameters
        ----------
        grids : iterable of ((B, D, Hp, Wp) float, (B, Hp, Wp) integer)
            Embeddings of changed slices, with labels of their patches: 1 changed, 0 unchanged, -1
            neither. Read three times.
        setup
            As for every detector; the patches of ``normals`` count as unchanged.
        slices : int, at least 1
            Pairs used, at most.
        components : int, at least 1
            Principal components used, at most 2 D.
        hidden : int, at least 1
            Units of the network.
        steps : int, at least 1
            Training steps of the network.
        samples : int, at least 1
            Patches drawn for each label, at most: limits the memory needed.

        Raises
        ------
        InputError
            If labels do not match their grid, or no patch has one of the labels.
        """
        moments, counts = Moments(), {CHANGED: 0, UNCHANGED: 0}
        for number, (grid, labels) in enumerate(_walk(grids, slices, setup), start=1):
            for label in counts:
                counts[label] += int((labels == label).sum())
            described = describe(grid.to(setup.device))
            moments.add(described[labels.flatten().to(setup.device) == UNCHANGED])
            yield Step(number, number, "Measuring unchanged patches")
        if not all(counts.values()):
            raise InputError(
                "changed and unchanged patches are both needed, but there are "
                f"{counts[CHANGED]} and {counts[UNCHANGED]}",
                fix="Give more slices, with more of the body in them",
            )
        whitening = Whitening.of_moments(moments, components).to(setup.device)
        drawn = {
            label: Draw(count, samples, [setup.seed, label]) for label, count in counts.items()
        }
        for number, (grid, labels) in enumerate(_walk(grids, slices, setup), start=1):
            patches, kinds = _scaled(grid.to(setup.device), whitening), labels.flatten()
            for label, draw in drawn.items():
                draw.add(patches[(kinds == label).to(patches.device)])
            yield Step(number, number, "Drawing patches")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(setup.seed)
            network = _network(whitening.basis.shape[1], hidden)
        network.to(setup.device)
        changed, unchanged = drawn[CHANGED].rows(), drawn[UNCHANGED].rows()
        for done, loss in _train(network, changed, unchanged, steps, setup):
            yield Step(done, steps, f"Learning changes, cross-entropy {loss:.3f}", images=0)
        weights = {key: value.detach().cpu() for key, value in network.state_dict().items()}
        detector = cls(whitening.to(torch.device("cpu")), weights)
        detector.zero = _zero(detector.network, unchanged)
        summary = {"changed_patches": counts[CHANGED], "unchanged_patches": counts[UNCHANGED]}
        return Learned(detector, summary)

    @property
    def heatmap_divisor(self) -> float:
        """1: the heatmap is in log odds already."""
        return 1.0

    @torch.inference_mode()
    def score(self, grid: Tensor) -> Tensor:
        """Log odds above `zero`, at least 0; see `Detector.score`."""
        patches = self.whitening(grid)
        return score_rows(patches, self.odds).reshape(len(grid), *grid.shape[2:])

    @torch.inference_mode()
    def odds(self, patches: Tensor) -> Tensor:
        """Log odds above `zero`, at least 0, of whitened patches: (N, k) to (N,)."""
        odds: Tensor = self.network(_stretched(patches))[:, 0]
        return (odds - self.zero).clamp_min(0)

    def parameters(self) -> dict[str, Any]:
        """Return the zero point and the sizes."""
        return {
            "zero": self.zero,
            "components": self.whitening.basis.shape[1],
            "hidden": len(self.network.state_dict()["hidden.bias"]),
        }

    def tensors(self) -> dict[str, Tensor]:
        """Return mean, basis and the network's weights."""
        network = {f"network.{k}": v.cpu() for k, v in self.network.state_dict().items()}
        return {**self.whitening.tensors(), **network}

    @classmethod
    def from_tensors(
        cls, parameters: dict[str, Any], tensors: Mapping[str, Tensor]
    ) -> ChangeDetector:
        """Rebuild from a model file; `ModelFileError` if its parts do not match."""
        whitening = Whitening.from_tensors(tensors)
        hidden = take(tensors, "network.hidden.bias", None)
        weights = {
            "hidden.weight": take(
                tensors, "network.hidden.weight", len(hidden), whitening.basis.shape[1]
            ),
            "hidden.bias": hidden,
            "out.weight": take(tensors, "network.out.weight", 1, len(hidden)),
            "out.bias": take(tensors, "network.out.bias", 1),
        }
        return cls(whitening, weights, parameters["zero"])

    def to(self, device: torch.device) -> ChangeDetector:
        """Move its tensors to a device, in place."""
        self.whitening = self.whitening.to(device)
        self.network.to(device)
        return self


def _walk(grids: Pairs, limit: int, setup: FitContext) -> Iterator[tuple[Tensor, Tensor]]:
    """Iterate over at most ``limit`` pairs, then over normal slices, checking each."""
    if iter(grids) is grids:
        raise InputError("the embeddings are read more than once: give a sequence")
    channels = None
    for pair in islice(grids, limit):
        if isinstance(pair, Tensor):
            raise InputError("this method learns from pairs of embeddings and patch labels")
        grid, labels = pair
        channels = check_grid(grid, channels).shape[1]
        if labels.shape != (grid.shape[0], *grid.shape[2:]):
            raise InputError(
                f"patch labels of {tuple(labels.shape)} do not fit embeddings of "
                f"{tuple(grid.shape)}"
            )
        if not torch.isin(labels, torch.tensor([CHANGED, UNCHANGED, IGNORED])).all():
            raise InputError("patch labels must be 1 (changed), 0 (unchanged) or -1 (neither)")
        yield grid, labels.masked_fill(~present_in(grid), IGNORED)
    if channels is None:
        raise InputError("a detector needs at least one normal slice")
    for grid in setup.normals:
        present = present_in(check_grid(grid, channels))
        yield grid, torch.full(present.shape, UNCHANGED).masked_fill(~present, IGNORED)


def _scaled(grid: Tensor, whitening: Whitening) -> Tensor:
    """(B, D, Hp, Wp) -> (B * Hp * Wp, k) float32, each of length sqrt(k), as network inputs."""
    return _stretched(whitening(grid))


def _stretched(patches: Tensor) -> Tensor:
    return patches * math.sqrt(patches.shape[1])


def _network(components: int, hidden: int) -> nn.Sequential:
    network = nn.Sequential()
    network.add_module("hidden", nn.Linear(components, hidden))
    network.add_module("gelu", nn.GELU())
    network.add_module("out", nn.Linear(hidden, 1))
    return network


def _train(
    network: nn.Sequential, changed: Tensor, unchanged: Tensor, steps: int, setup: FitContext
) -> Iterator[tuple[int, float]]:
    """Train in place; yields the steps done and the loss at intervals."""
    hidden, gelu, out = network
    generator = torch.Generator().manual_seed(setup.seed)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _PEAK_RATE, total_steps=steps)
    target = torch.cat([torch.ones(_BATCH[0]), torch.zeros(_BATCH[1])]).to(setup.device)

    def thinned(values: Tensor) -> Tensor:
        # torch's dropout would draw from the global random state.
        kept = torch.rand(values.shape, generator=generator) >= _DROPOUT
        return values * kept.to(values.device) / (1 - _DROPOUT)

    for step in range(1, steps + 1):
        parts = [
            rows[torch.randint(len(rows), (count,), generator=generator)]
            for rows, count in zip((changed, unchanged), _BATCH, strict=True)
        ]
        batch = torch.cat(parts).float().to(setup.device)
        odds = out(thinned(gelu(hidden(thinned(batch)))))[:, 0]
        loss = functional.binary_cross_entropy_with_logits(odds, target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if step % _REPORT == 0 or step == steps:
            yield step, loss.item()


@torch.inference_mode()
def _zero(network: nn.Sequential, unchanged: Tensor) -> float:
    """Log odds of the lowest scores of unchanged patches, which become 0."""
    odds = torch.cat([network(part.float())[:, 0] for part in torch.split(unchanged, _CHUNK)])
    return float(np.quantile(odds.numpy(), _FLOOR_SHARE))
