"""As much of anomalib and Lightning as is called, so that no test needs either."""

from __future__ import annotations

import sys
from collections import namedtuple
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from napari_spatial_ar.evaluation import anomalib_models

InferenceBatch = namedtuple("InferenceBatch", "pred_score anomaly_map")


class Normalise(nn.Module):
    """A pre-processor: from 0..1 to -1..1."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert images.shape[1:] == (3, *self.size)
        assert images.min() >= 0
        assert images.max() <= 1
        return 2 * images - 1


class Network(nn.Module):
    """Learns how bright training slices are; what is brighter is unusual."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = gain
        self.feature_extractor = nn.Linear(3, 4)
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("noise", torch.rand(1))  # what a seed changes

    def forward(self, images: torch.Tensor) -> InferenceBatch:
        assert not self.training
        scores = self.gain * (images - self.mean)[:, :1] + 1e-3 * self.noise
        return InferenceBatch(scores.amax((1, 2, 3)), scores)


class Padim:
    """The method: `Network` with the settings that anomalib's has."""

    trainer_arguments: ClassVar = {"max_epochs": 1, "gradient_clip_val": 0}
    #: Whether pretrained weights are at hand.
    online = True

    def __init__(
        self,
        backbone: str = "resnet18",
        pre_trained: bool = True,
        gain: float = 1.0,
        pre_processor: Any = True,
        post_processor: Any = True,
        evaluator: Any = True,
        visualizer: Any = True,
    ) -> None:
        assert (post_processor, evaluator, visualizer) == (False, False, False)
        if pre_trained and not self.online:
            raise FileNotFoundError("cannot reach the hub\nmore of it")
        if backbone == "resnet":
            raise RuntimeError("Unknown model (resnet)\nmore of it")
        self.pre_processor = pre_processor
        self.model = Network(gain)

    @staticmethod
    def configure_pre_processor(image_size: tuple[int, int]) -> Normalise:
        return Normalise(image_size)


class Draem(Padim):
    """A method without a backbone that trains for many epochs."""

    trainer_arguments: ClassVar = {"gradient_clip_val": 0}

    def __init__(self, dtd_dir: str | None = "./datasets/dtd", **around: Any) -> None:
        assert dtd_dir is not None
        super().__init__(pre_trained=False, **around)


class Stfpm(Padim):
    """A method that always wants pretrained weights."""

    def __init__(self, backbone: str = "resnet18", **around: Any) -> None:
        super().__init__(backbone, **around)


class Trainer:
    """Shows every slice to the network, epoch by epoch."""

    def __init__(self, **settings: Any) -> None:
        assert settings["accelerator"] == "cpu"
        assert settings["gradient_clip_val"] == 0  # what the method asks for
        self.max_epochs = settings["max_epochs"]
        self.callbacks = settings["callbacks"]

    def fit(self, module: Padim, datamodule: Any) -> None:
        assert module.pre_processor is None
        loader = datamodule.train_dataloader()
        self.num_training_batches = len(loader)
        seen = []
        for _ in range(self.max_epochs):
            for batch in loader:
                assert -1 <= batch.image.min() < -0.5 < 0 < batch.image.max() <= 1
                seen.append(batch.image)
                for callback in self.callbacks:
                    callback.on_train_batch_end(self, module, None, batch, 0)
        module.model.mean = torch.cat(seen).mean()[None]


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the fake where imports find it, and forget what was imported before."""

    def module(name: str, **content: Any) -> ModuleType:
        made = ModuleType(name)
        vars(made).update(content)
        monkeypatch.setitem(sys.modules, name, made)
        return made

    models = module("anomalib.models", Padim=Padim, Stfpm=Stfpm, Draem=Draem)
    data = module("anomalib.data", ImageBatch=SimpleNamespace)
    module("anomalib", __version__="2.0.fake", models=models, data=data, __path__=[])
    pytorch = module(
        "lightning.pytorch",
        Callback=type("Callback", (), {}),
        LightningDataModule=type("LightningDataModule", (), {}),
        Trainer=Trainer,
        seed_everything=lambda seed, verbose: torch.manual_seed(seed),
    )
    module("lightning", pytorch=pytorch, __path__=[])
    forget_link(monkeypatch)


def forget_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """Import what calls anomalib anew in this test, and once more after it."""
    monkeypatch.setitem(sys.modules, anomalib_models._LINK, None)
    monkeypatch.delitem(sys.modules, anomalib_models._LINK)
