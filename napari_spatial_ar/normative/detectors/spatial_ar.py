"""The project's own method behind the detector interface.

Reference: Erdil et al., "Spatial Autoregressive Modeling of DINOv3 Embeddings for Unsupervised
Anomaly Detection". Defaults: the paper's dilated model; ``dilation`` 1 is its standard one,
``context`` "bidirectional" its third. Cost: the training; scoring is five convolutions.
`ar_network` and `ar_training` state what differs from the paper. ``dilations`` and ``whiten`` are
not the paper's: docs/explanation/method.md reports their measured effect.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.normative.detectors.ar_network import Context, Likelihood, SpatialAR
from napari_spatial_ar.normative.detectors.ar_training import (
    OptimizerName,
    TrainingSettings,
    TrainingState,
    products,
    train,
    turn,
)
from napari_spatial_ar.normative.detectors.base import Detector, FitContext, Learned, Learning, Step
from napari_spatial_ar.normative.detectors.explanation import Explanation, Quantity
from napari_spatial_ar.normative.detectors.grids import StoredGrids, check_grid
from napari_spatial_ar.normative.detectors.stored import loaded, take
from napari_spatial_ar.normative.detectors.von_mises_fisher import concentration
from napari_spatial_ar.normative.detectors.whitening import EqualVariance
from napari_spatial_ar.normative.heatmap import mean_around
from napari_spatial_ar.normative.model_schema import Closed, Part, Size
from napari_spatial_ar.normative.units import NATS_PER_DIMENSION

__all__ = ["SpatialARDetector", "StoredAR"]

_MEANING_OF_DIRECTIONS = (
    "How far the direction of the patch's embedding is from the one predicted from the patches "
    "before it, in nats for each of its dimensions: 0 is a perfect prediction."
)
_MEANING_OF_BOTH = (
    "How badly the patch is predicted from the patches before it, by direction and by distance: "
    "negative log-likelihoods, added, in nats for each of the embedding's dimensions. 0 is a "
    "perfect prediction."
)
_BOTH = "both"
# Share of the Gaussian in `both`, in standard deviations of normal patches.
_GAUSSIAN_SHARE = 0.25
# Side of the neighbourhood over which `both` compares.
_AROUND = 3
_TINY = 1e-6
# Directions in which the networks of a raster run.
_RASTERS = {"forward": ("forward",), "both": ("forward", "backward")}
_OPTIMIZERS = {"adamw": "AdamW", "adamw-cycle": "AdamW, one cycle", "muon": "Muon"}
_BACKWARD = "backward."
_WHITENING = "whitening."
_POOL = "pool"
# More than anyone trains, while still cheap to add up.
_MOST_LAYERS = 999


class StoredAR(Closed):
    """Schema of its parameters in a file."""

    channels: Size
    hidden: Size
    layers: Annotated[int, Field(ge=2, le=_MOST_LAYERS)]
    kernel: Annotated[int, Field(ge=3, le=99)]
    dilation: Size | Annotated[list[Size], Field(min_length=2, max_length=_MOST_LAYERS)]
    context: Context
    raster: Literal["forward", "both"] = "forward"
    whiten: bool = False
    likelihood: Literal[Likelihood, "both"] = "gaussian"

    @model_validator(mode="after")
    def _fits(self) -> StoredAR:
        if self.kernel % 2 == 0:
            raise ValueError(f"the kernel side is odd, not {self.kernel}")
        if isinstance(self.dilation, list) and len(self.dilation) != self.layers:
            raise ValueError(f"{self.layers} layers have {len(self.dilation)} dilations")
        return self


class SpatialARDetector(Detector):
    """Conditional NLL of each embedding under `SpatialAR` (Erdil et al.).

    Parameters
    ----------
    network : SpatialAR
        Predicts each embedding from those before it.
    backward : SpatialAR, optional
        Predicts each embedding from those after it, on grids rotated by 180 degrees; a patch then
        scores the mean of both.
    whitening : EqualVariance, optional
        Transform of the embeddings before the networks.
    pool : (2,) float32, optional
        Kappa and lambda of ``likelihood=both``: Gaussian networks, whose means are also those of
        von Mises-Fisher distributions. A patch scores

            kappa (1 - cos(F', mu')) + lambda |F' - mu'|^2 / 2,

        F' and mu' being the means of F and mu over the 3 x 3 patches around it, in which the noise
        of single patches cancels and what a lesion adds to all of them does not. It is an NLL
        under the product of both densities, the second one to the power lambda (a logarithmic
        opinion pool), above that of a perfect prediction.
    """

    name: ClassVar[str] = "spatial-ar"
    title: ClassVar[str] = "Spatial AR"
    stored: ClassVar[type[Part]] = StoredAR
    unit: ClassVar[str] = NATS_PER_DIMENSION
    summary: ClassVar[str] = "how badly a patch is predicted from the patches around it"
    meaning: ClassVar[str] = (
        "How badly the patch is predicted from the patches before it: its negative log- "
        "likelihood for each of the embedding's dimensions, never below 0.92."
    )
    reference: ClassVar[str] = "Spatial AR (Erdil et al.)"
    cost: ClassVar[str] = (
        "trains for minutes (GPU) to hours (CPU), scores in milliseconds, a file of 10 MB"
    )
    reports_losses: ClassVar[bool] = True
    replayable: ClassVar[bool] = True

    def __init__(
        self,
        network: SpatialAR,
        backward: SpatialAR | None = None,
        *,
        whitening: EqualVariance | None = None,
        pool: Tensor | None = None,
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.backward = None if backward is None else backward.eval().requires_grad_(False)
        self.whitening = whitening
        self.pool = pool
        if pool is not None:
            self.meaning = _MEANING_OF_BOTH  # type: ignore[misc]
        elif network.likelihood == "von-mises-fisher":
            self.meaning = _MEANING_OF_DIRECTIONS  # type: ignore[misc]

    @classmethod
    def learn(
        cls,
        grids: Sequence[Tensor],
        setup: FitContext,
        *,
        dilation: int = 4,
        dilations: str = "",
        context: str = "causal",
        raster: str = "forward",
        whiten: bool = False,
        likelihood: str = "gaussian",
        hidden: int = 256,
        convolutions: int = 5,
        kernel: int = 3,
        epochs: int = 40,
        patience: int = 0,
        batch_size: int = 64,
        learning_rate: float = 1e-3,
        optimizer: str = "adamw",
        noise_share: float = 0.2,
        noise_scale: float = 0.03,
    ) -> Learning[SpatialARDetector]:
        """Train the network, or resume from a checkpoint; see `Detector.learn`.

        Parameters
        ----------
        grids, setup
            As for every detector; here all grids must be `StoredGrids`, and the checkpoint is
            required.
        dilation : int, at least 1
            Distance between the patches that a convolution sees: 4 sees wide, 1 close.
        dilations : str
            Replaces the dilation, one for each convolution: 1-2-4-2-1 sees close and wide.
        context : {"causal", "bidirectional"}
            Predict a patch from those above and left of it, or from all around it.
        raster : {"forward", "both"}
            Both: a second network learns on grids rotated by 180 degrees, which doubles the
            time of training, and that of scoring excluding the backbone.
        whiten : bool
            Transform the embeddings to principal components of equal variance before the network,
            as measured on at most 128 training slices.
        likelihood : {"gaussian", "von-mises-fisher", "both"}
            Conditional of an embedding: the paper's Gaussian, or von Mises-Fisher, which judges
            its direction alone; both: trained as Gaussian, scored by both.
        hidden : int, at least 1
            Channels between the layers of the network.
        convolutions : int, at least 2
            Convolutions of the network.
        kernel : int, at least 3
            Side of each convolution in patches, an odd number.
        epochs : int, at least 1
            Passes over the training slices, at most.
        patience : int, at least 0
            Stop after this many epochs without a better validation NLL; 0: never stop early.
        batch_size : int, at least 1
            Slices per training step.
        learning_rate : float, above 0
            Learning rate of the training.
        optimizer : {"adamw", "adamw-cycle", "muon"}
            The paper's AdamW, at a constant learning rate; AdamW or Muon in one cycle of it, which
            need a tenth of the epochs (for example 8, with steps of 8 slices, at 0.002 or 0.003).
        noise_share : float, at least 0 and at most 1
            Share of the steps in which noise is added to the embeddings.
        noise_scale : float, at least 0
            Strength of this noise, in standard deviations of the embeddings.
        """
        valid = setup.valid
        if not (isinstance(grids, StoredGrids) and isinstance(valid, StoredGrids)):
            raise InputError("Spatial AR trains on stored grids", fix="Use fit or fit_steps")
        if not grids or not valid or setup.checkpoint is None:
            raise InputError(
                "Spatial AR needs slices to train and to validate on, and a checkpoint"
            )
        each = _read_dilations(dilations, convolutions)
        settings = TrainingSettings(
            network={
                "channels": grids[0].shape[1],
                "hidden": hidden,
                "layers": convolutions,
                "kernel": kernel,
                "dilation": each or dilation,
                "context": cast(Context, context),
                **({"likelihood": likelihood} if likelihood == "von-mises-fisher" else {}),
            },
            seed=setup.seed,
            batch_size=batch_size,
            learning_rate=learning_rate,
            optimizer=cast(OptimizerName, optimizer),
            noise_share=noise_share,
            noise_scale=noise_scale,
        )
        whitening = EqualVariance.measured(grids.paths, setup.device) if whiten else None
        states = []
        for number in range(len(_RASTERS[raster])):
            state = yield from _train(
                grids, valid, setup, settings, epochs, patience, raster, number, whitening
            )
            state.network.load_state_dict(state.best)
            states.append(state)
        steps = -(-len(grids) // batch_size)
        forward, *backward = (_outcome(state, steps) for state in states)
        summary = {
            **{k: v for k, v in asdict(settings).items() if k not in ("network", "seed")},
            "optimizer": _OPTIMIZERS[optimizer],
            "products": products(setup.device),
            "seconds": sum(state.seconds for state in states),
            "warnings": [text for state in states for text in state.portions.warnings],
            **forward,
        }
        if backward:
            summary["backward"] = backward[0]
        networks = [state.network for state in states]
        found = cls(*networks, whitening=whitening).to(setup.device)
        if likelihood == _BOTH:
            pool = yield from found._measure_pool(valid, setup.device)
            found = cls(*networks, whitening=found.whitening, pool=pool)
        return Learned(found.to(torch.device("cpu")), summary)

    def _measure_pool(
        self, grids: Sequence[Tensor], device: torch.device
    ) -> Generator[Step, None, Tensor]:
        """Measure `pool` on normal slices, and return it.

        Kappa is that of greatest likelihood; lambda brings the spread of distances to a quarter of
        that of directions.
        """
        found: list[Tensor] = []
        for number, grid in enumerate(grids, start=1):
            with torch.inference_mode():
                both = self._over_rasters(_distances, self._seen(grid.to(device)))
            found.append(both[:, ~both[0].isnan()].cpu())
            yield Step(number, number, "Comparing directions and distances")
        directions, distances = torch.cat(found, dim=1).double()
        kappa = concentration(self.network.channels, float(1 - directions.mean()))
        share = _GAUSSIAN_SHARE * kappa * directions.std() / distances.std().clamp_min(_TINY)
        return torch.tensor([kappa, float(share)])

    @classmethod
    def check(cls, options: Mapping[str, Any]) -> None:
        """Check the kernel, and that the raster and the dilations suit the network."""
        if options["kernel"] % 2 == 0:
            raise InputError(f"kernel must be an odd number, not {options['kernel']}")
        if options["raster"] == "both" and options["context"] != "causal":
            raise InputError(
                f"a {options['context']} network has no raster that could run both ways"
            )
        _read_dilations(options["dilations"], options["convolutions"])

    @classmethod
    def passes(cls, options: Mapping[str, Any], train: int, valid: int = 0) -> int:
        """Count all epochs of each network; see `Detector.passes`."""
        # Validation is a forward pass only, a third of the work.
        return int(
            len(_RASTERS.get(options["raster"], ())) * options["epochs"] * (train + valid / 3)
        )

    @property
    def heatmap_divisor(self) -> float:
        """D: the heatmap is in nats per dimension."""
        return float(self.network.channels)

    @torch.inference_mode()
    def score(self, grid: Tensor) -> Tensor:
        """A_ij in nats; above that of a perfect prediction, unless Gaussian."""
        if self.pool is None:
            return self._over_rasters(_nll, self._seen(grid))
        both = self._over_rasters(_distances, self._seen(grid))
        return (self.pool[:, None, None, None] * both).sum(dim=0)

    def _over_rasters(self, measure: Callable[[SpatialAR, Tensor], Tensor], grid: Tensor) -> Tensor:
        """Mean over the rasters of what is measured of a network's prediction of a grid."""
        found = measure(self.network, grid.contiguous(memory_format=torch.channels_last))
        if self.backward is None:
            return found
        turned = turn(grid).contiguous(memory_format=torch.channels_last)
        return (found + turn(measure(self.backward, turned))) / 2

    def _seen(self, grid: Tensor) -> Tensor:
        """Check a grid and return the input of the networks."""
        grid = check_grid(grid, self.network.channels)
        return grid if self.whitening is None else self.whitening(grid)

    @torch.inference_mode()
    def explain(self, grid: Tensor, row: int, column: int) -> Explanation:
        """See `Detector.explain`; adds the prediction error of each direction."""
        explanation = super().explain(grid, row, column)
        grid = self._seen(grid)
        seen = grid[0, :, row, column].float()
        sides = [("", self.network(grid)[0, :, row, column])]
        if self.backward is not None:
            back = turn(self.backward(turn(grid)))[0, :, row, column]
            sides = [(" from before", sides[0][1]), (" from after", back)]
        errors = [
            Quantity(f"Prediction error{side}", _rms(seen - mean.float()), "root mean square")
            for side, mean in sides
        ]
        of = "embedding" if self.whitening is None else "whitened embedding"
        size = Quantity(f"Size of the {of}", _rms(seen), "root mean square")
        return Explanation(explanation.meaning, (*explanation.quantities, *errors, size))

    def parameters(self) -> dict[str, Any]:
        """Return the arguments of `SpatialAR`, and what a plain network lacks.

        ``raster`` if it runs both ways, ``whiten`` if embeddings are whitened, ``likelihood`` if
        it is not the Gaussian.
        """
        own: dict[str, Any] = {} if self.backward is None else {"raster": "both"}
        own |= {} if self.whitening is None else {"whiten": True}
        own |= {} if self.pool is None else {"likelihood": _BOTH}
        return {**self.network.settings, **own}

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights, those of a second network under ``backward.``, and ``whitening.``."""
        state = dict(self.network.state_dict())
        if self.backward is not None:
            state |= {_BACKWARD + k: v for k, v in self.backward.state_dict().items()}
        if self.whitening is not None:
            state |= {_WHITENING + k: v for k, v in self.whitening.tensors().items()}
        if self.pool is not None:
            state[_POOL] = self.pool
        return {k: v.detach().cpu().contiguous() for k, v in state.items()}

    @classmethod
    def from_tensors(
        cls, parameters: dict[str, Any], tensors: Mapping[str, Tensor]
    ) -> SpatialARDetector:
        """Rebuild from a model file; `ModelFileError` if its parts do not match."""
        arguments, plain = dict(parameters), dict(tensors)
        whitens = arguments.pop("whiten", False)
        whitened = _taken(_WHITENING, plain) if whitens else {}
        pool = None
        if arguments.get("likelihood") == _BOTH:
            del arguments["likelihood"]
            pool = take(tensors, _POOL, 2)
            del plain[_POOL]
        states = [plain]
        if arguments.pop("raster", "forward") == "both":
            states.append(_taken(_BACKWARD, plain))
        networks = [loaded(lambda: SpatialAR(**arguments), state) for state in states]
        channels = networks[0].channels
        whitening = EqualVariance.from_tensors(whitened, channels) if whitens else None
        return cls(*networks, whitening=whitening, pool=pool)

    def to(self, device: torch.device) -> SpatialARDetector:
        """Move its tensors to a device, in place."""
        for network in (self.network, self.backward):
            if network is not None:
                network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.whitening = self.whitening and self.whitening.to(device)
        self.pool = None if self.pool is None else self.pool.to(device)
        return self


def _nll(network: SpatialAR, grid: Tensor) -> Tensor:
    """A_ij in nats; of directions, above that of a perfect prediction, which depends on kappa."""
    nll = network.nll(grid)
    return nll if network.likelihood == "gaussian" else nll - network.least_nll


def _distances(network: SpatialAR, grid: Tensor) -> Tensor:
    """1 - cos(F, mu) and |F - mu|^2 / 2 of means around, (2, B, Hp, Wp) float32; NaN if skipped."""
    mu = network(grid).float().masked_fill(grid[:, :1].isnan(), torch.nan)
    seen, expected = (mean_around(each, _AROUND) for each in (grid.float(), mu))
    apart = 1 - functional.cosine_similarity(seen, expected, dim=1)
    return torch.stack([apart, (seen - expected).square().sum(dim=1) / 2])


def _read_dilations(text: str, convolutions: int) -> list[int]:
    """Parse ``"1-2-4-2-1"``, one dilation per convolution; none if the text is empty."""
    if not text.strip():
        return []
    if not re.fullmatch(r"\s*[1-9]\d*(\s*-\s*[1-9]\d*)*\s*", text):
        raise InputError(
            f"'{text}' are no dilations", fix="Write one for each convolution, such as 1-2-4-2-1"
        )
    found = [int(number) for number in text.split("-")]
    if len(found) != convolutions:
        raise InputError(
            f"there are {len(found)} dilations ({text.strip()}) for {convolutions} convolutions",
            fix="Write one for each convolution, or change the number of convolutions",
        )
    return found


def _taken(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the entries whose names have this prefix, and return them without it."""
    names = [name for name in tensors if name.startswith(prefix)]
    return {name.removeprefix(prefix): tensors.pop(name) for name in names}


def _rms(vector: Tensor) -> float:
    return float(vector.square().mean().sqrt())


def _train(
    grids: StoredGrids,
    valid: StoredGrids,
    setup: FitContext,
    settings: TrainingSettings,
    epochs: int,
    patience: int,
    raster: str,
    number: int,
    whitening: EqualVariance | None,
) -> Generator[Step, None, TrainingState]:
    """Train one of the networks of a raster."""
    ways = _RASTERS[raster]
    steps = -(-len(grids) // settings.batch_size)
    checkpoint = cast(Path, setup.checkpoint)
    if number:
        checkpoint = checkpoint.with_stem(f"{checkpoint.stem}-{ways[number]}")
    message = "Training" if len(ways) == 1 else f"Training {ways[number]}"
    state = None
    for state in train(
        grids.paths,
        valid.paths,
        settings,
        epochs=epochs,
        checkpoint=checkpoint,
        device=setup.device,
        turned=ways[number] == "backward",
        patience=patience,
        change=whitening,
    ):
        best = state.history[state.best_epoch].valid_nll if state.history else None
        yield Step(
            (number * epochs + len(state.history)) * steps + state.batches_done,
            len(ways) * epochs * steps,
            state.portions.noted(message)
            + ("" if best is None else f", best validation NLL {best:.4f} nats per dimension"),
            epoch=len(state.history),
            epochs=epochs,
            train_nll=tuple(epoch.train_nll for epoch in state.history),
            valid_nll=tuple(epoch.valid_nll for epoch in state.history),
            best_epoch=state.best_epoch,
            images=settings.batch_size,
        )
    assert state is not None  # train yields at least once
    return state


def _outcome(state: TrainingState, steps: int) -> dict[str, Any]:
    """Return the training record of one network for the model file, with its steps per epoch."""
    return {
        "epochs": len(state.history),
        "steps": len(state.history) * steps,
        "best_epoch": state.best_epoch + 1,
        "best_nll": state.history[state.best_epoch].valid_nll,
        "history": {
            "train_nll": [epoch.train_nll for epoch in state.history],
            "valid_nll": [epoch.valid_nll for epoch in state.history],
        },
    }
