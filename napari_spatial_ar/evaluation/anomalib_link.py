"""All calls to the anomalib library; importing this module imports it, and Lightning.

Slices arrive resized, as intensities in 0..1. What a method does to them before its network (most
normalise them) is applied here rather than left to anomalib's callback, because not everything that
reads a training slice passes that callback: the first centroid of CFA does not.
"""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anomalib
import torch
from anomalib import models
from anomalib.data import ImageBatch
from lightning.pytorch import Callback, LightningDataModule, Trainer, seed_everything
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

__all__ = ["VERSION", "build", "options", "train"]

VERSION: str = anomalib.__version__
# Parts of anomalib around a network that the comparison does itself.
_AROUND = ("pre_processor", "post_processor", "evaluator", "visualizer")


def options(kind: str) -> dict[str, Any]:
    """List the settings of a model class of anomalib, with their defaults."""
    parameters = inspect.signature(getattr(models, kind)).parameters.values()
    return {p.name: p.default for p in parameters if p.name not in _AROUND}


def build(kind: str, settings: dict[str, Any], size: int, seed: int) -> tuple[Any, Any]:
    """Build an untrained model.

    Returns
    -------
    module : lightning.LightningModule
        Its ``model`` is the network.
    prepare : callable
        From slices (B, 3, size, size) in 0..1 to the network's input.
    """
    with _quiet():
        seed_everything(seed, verbose=False)
        wanted = getattr(models, kind)
        pre_processor = wanted.configure_pre_processor(image_size=(size, size))
        around = dict.fromkeys(_AROUND[1:], False)
        module = wanted(pre_processor=pre_processor, **around, **settings)
    module.pre_processor = None
    return module, pre_processor


def train(
    module: Any,
    prepare: Callable[[Tensor], Tensor],
    slices: Dataset[Tensor],
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    device: torch.device,
    progress: Callable[[int, int], None],
) -> None:
    """Train a model on normal slices.

    Parameters
    ----------
    module, prepare
        From `build`.
    slices : dataset of (3, size, size)
        In 0..1.
    epochs, batch_size, seed, device
        Settings of the training.
    progress : callable
        Called with (batches done, batches in all).
    """
    data = _Slices(slices, prepare, batch_size, seed)
    settings = {
        "max_epochs": epochs,
        "accelerator": device.type,
        "devices": 1,
        "callbacks": [_Progress(progress)],
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        **module.trainer_arguments,
    }
    with _quiet():
        try:
            Trainer(**settings).fit(module, datamodule=data)
        except SystemExit as error:  # Lightning's answer to Ctrl+C
            raise KeyboardInterrupt from error


class _Slices(LightningDataModule):
    def __init__(
        self, slices: Any, prepare: Callable[[Tensor], Tensor], batch_size: int, seed: int
    ) -> None:
        super().__init__()
        self._slices, self._prepare = slices, prepare
        self._batch_size, self._seed = batch_size, seed

    def train_dataloader(self) -> Any:
        return DataLoader(
            self._slices,
            self._batch_size,
            shuffle=True,
            generator=torch.Generator().manual_seed(self._seed),
            collate_fn=lambda slices: ImageBatch(image=self._prepare(torch.stack(slices))),
        )


class _Progress(Callback):
    def __init__(self, report: Callable[[int, int], None]) -> None:
        self._report, self._done = report, 0

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self._done += 1
        self._report(self._done, trainer.num_training_batches * trainer.max_epochs)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress advice for developers, and reports of repeated downloads."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)
