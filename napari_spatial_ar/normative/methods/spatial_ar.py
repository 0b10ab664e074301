"""The project's own method behind the detector interface.

Reference: Erdil et al., "Spatial Autoregressive Modeling of DINOv3 Embeddings for Unsupervised
Anomaly Detection". Defaults: the paper's dilated model; ``dilation`` 1 is its standard one,
``context`` "bidirectional" its third. Cost: the training; scoring is five convolutions. What
differs from the paper is said in `autoregressive` and `training`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from napari_spatial_ar.errors import InputError, ModelFileError, SpatialARError
from napari_spatial_ar.normative.autoregressive import Context, SpatialAR
from napari_spatial_ar.normative.methods.base import Detector, FitSetup, Learned, Learning, Step
from napari_spatial_ar.normative.methods.grids import StoredGrids, check_grid
from napari_spatial_ar.normative.training import TrainingSettings, train

__all__ = ["SpatialARDetector"]


class SpatialARDetector(Detector):
    """Conditional NLL of each embedding under `SpatialAR` (Erdil et al.)."""

    name: ClassVar[str] = "spatial-ar"
    unit: ClassVar[str] = "nats per dimension"
    summary: ClassVar[str] = "how badly a patch is predicted from the patches around it"
    reference: ClassVar[str] = "Spatial AR (Erdil et al.)"
    cost: ClassVar[str] = (
        "trains for minutes (GPU) to hours (CPU), scores in milliseconds, a file of 10 MB"
    )

    def __init__(self, network: SpatialAR) -> None:
        self.network = network.eval().requires_grad_(False)

    @classmethod
    def learn(
        cls,
        grids: Sequence[Tensor],
        setup: FitSetup,
        *,
        dilation: int = 4,
        context: str = "causal",
        hidden: int = 256,
        convolutions: int = 5,
        kernel: int = 3,
        epochs: int = 40,
        batch_size: int = 64,
        learning_rate: float = 1e-3,
        noise_share: float = 0.2,
        noise_scale: float = 0.03,
    ) -> Learning[SpatialARDetector]:
        """Train the network, going on from a checkpoint; see `Detector.learn`.

        Parameters
        ----------
        grids, setup
            As for every detector; here both sets of grids are `StoredGrids` and the checkpoint
            is needed.
        dilation, context, hidden, convolutions, kernel
            Of the network, see `SpatialAR`, which calls the convolutions layers; here that name
            is taken by the blocks of the backbone.
        epochs
            Passes over the slices.
        batch_size, learning_rate, noise_share, noise_scale
            Of the training, see `TrainingSettings`.
        """
        valid = setup.valid
        if not (isinstance(grids, StoredGrids) and isinstance(valid, StoredGrids)):
            raise InputError("Spatial AR trains on stored grids", fix="Use fit or fit_steps")
        if not grids or not valid or setup.checkpoint is None or epochs < 1 or batch_size < 1:
            raise InputError(
                "Spatial AR needs slices to train and to validate on, a checkpoint, and at least "
                "one epoch and one slice a step"
            )
        settings = TrainingSettings(
            network={
                "channels": grids[0].shape[1],
                "hidden": hidden,
                "layers": convolutions,
                "kernel": kernel,
                "dilation": dilation,
                "context": cast(Context, context),
            },
            seed=setup.seed,
            batch_size=batch_size,
            learning_rate=learning_rate,
            noise_share=noise_share,
            noise_scale=noise_scale,
        )
        steps = -(-len(grids) // batch_size)
        state = None
        for state in train(
            grids.paths,
            valid.paths,
            settings,
            epochs=epochs,
            checkpoint=setup.checkpoint,
            device=setup.device,
        ):
            best = state.history[state.best_epoch].valid_nll if state.history else None
            yield Step(
                len(state.history) * steps + state.batches_done,
                epochs * steps,
                "Training"
                + ("" if best is None else f", best validation NLL {best:.4f} nats per dimension"),
                epoch=len(state.history),
                epochs=epochs,
                train_nll=tuple(epoch.train_nll for epoch in state.history),
                valid_nll=tuple(epoch.valid_nll for epoch in state.history),
                best_epoch=state.best_epoch,
                images=batch_size,
            )
        assert state is not None  # train yields at least once
        state.network.load_state_dict(state.best)
        summary = {
            **{k: v for k, v in asdict(settings).items() if k not in ("network", "seed")},
            "optimizer": "AdamW",
            "epochs": len(state.history),
            "steps": len(state.history) * steps,
            "seconds": state.seconds,
            "best_epoch": state.best_epoch + 1,
            "best_nll": state.history[state.best_epoch].valid_nll,
            "history": {
                "train_nll": [epoch.train_nll for epoch in state.history],
                "valid_nll": [epoch.valid_nll for epoch in state.history],
            },
        }
        return Learned(cls(state.network), summary)

    @property
    def heatmap_divisor(self) -> float:
        """D: the heatmap is in nats per dimension."""
        return float(self.network.channels)

    @torch.inference_mode()
    def score(self, grid: Tensor) -> Tensor:
        """A_ij in nats; see `Detector.score`."""
        grid = check_grid(grid, self.network.channels)
        return self.network.nll(grid.contiguous(memory_format=torch.channels_last))

    def parameters(self) -> dict[str, Any]:
        """Give the arguments of `SpatialAR`."""
        return dict(self.network.settings)

    def tensors(self) -> dict[str, Tensor]:
        """Give the weights of the network."""
        return {k: v.detach().cpu().contiguous() for k, v in self.network.state_dict().items()}

    @classmethod
    def from_tensors(
        cls, parameters: dict[str, Any], tensors: Mapping[str, Tensor]
    ) -> SpatialARDetector:
        """See `Detector.from_tensors`."""
        try:
            network = SpatialAR(**parameters)
            network.load_state_dict(dict(tensors))
        except (TypeError, RuntimeError, SpatialARError) as error:
            raise ModelFileError(
                "the network's weights do not fit the network it describes"
            ) from error
        return cls(network)

    def to(self, device: torch.device) -> SpatialARDetector:
        """See `Detector.to`."""
        self.network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self
