"""Devices: which is taken, and what Apple's GPUs cannot do is not asked of them.

None of them is at hand: torch's ``meta`` device, which knows shapes and types and computes
nothing, stands for one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.fx.experimental import _config
from torch.utils._python_dispatch import TorchDispatchMode

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.normative import speeds
from napari_spatial_ar.normative.backbones import devices, engines
from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.backbones.devices import resolve_device
from napari_spatial_ar.normative.backbones.loading import load_backbone
from napari_spatial_ar.normative.batching import BatchScorer, BatchSizes, Prepared
from napari_spatial_ar.normative.detectors import DETECTORS, FitContext, StoredGrids
from napari_spatial_ar.normative.detectors.ar_training import precision
from tests.normative.detectors.test_detectors import (
    BLOCKS,
    CASES,
    NAMES,
    learn,
    normal_grids,
    stored,
)

__all__ = ["stored"]  # a fixture

CPU, MPS, STAND_IN = (torch.device(name) for name in ("cpu", "mps", "meta"))


class NoFloat64(TorchDispatchMode):
    """Fails as Apple's GPUs do; of a value that is asked for, the stand-in says 1 or true."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs, first = kwargs or {}, args[0] if args else None
        aten = torch.ops.aten
        if isinstance(first, torch.Tensor) and first.is_meta:
            if func in (aten._local_scalar_dense.default, aten.item.default):
                return 1.0 if first.is_floating_point() else 1
            where = torch.device(kwargs.get("device") or first.device)
            if func is aten._to_copy.default and where == CPU:
                return torch.ones(first.shape, dtype=kwargs.get("dtype") or first.dtype)
        result = func(*args, **kwargs)
        for one in result if isinstance(result, tuple | list) else [result]:
            if isinstance(one, torch.Tensor) and one.is_meta and one.dtype == torch.float64:
                raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return result


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the stand-in do what Apple's GPUs do: autocast, and choosing by values."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    with _config.patch(meta_nonzero_assume_all_nonzero=True):
        yield


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Say which devices there are."""

    def has(*names: str) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in names)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in names)

    return has


# ---------------------------------------------------------------------- which is taken


@pytest.mark.parametrize(
    ("there", "taken"),
    [([], "cpu"), (["mps"], "mps"), (["cuda"], "cuda"), (["mps", "cuda"], "cuda")],
)
def test_the_fastest_that_is_there_is_taken(
    machine: Callable[..., None], there: list[str], taken: str
) -> None:
    machine(*there)
    assert resolve_device() == torch.device(taken)
    assert resolve_device("cpu") == CPU


def test_on_a_card_float32_is_float32(
    machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for device in ("auto", "cuda", torch.device("cuda:1")):
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
        machine("mps")
        resolve_device()
        assert torch.backends.cudnn.allow_tf32
        machine("cuda")
        resolve_device(device)
        assert not torch.backends.cudnn.allow_tf32


def test_a_device_that_is_not_there_is_one_sentence(machine: Callable[..., None]) -> None:
    machine("mps")
    assert resolve_device("mps") == MPS
    with pytest.raises(InputError, match=r"no device 'cuda:1' for torch.*auto, cpu, mps"):
        resolve_device("cuda:1")
    machine()
    with pytest.raises(InputError, match=r"no device 'mps' for torch.*Choose: auto, cpu"):
        load_backbone("pixels4", device="mps")
    with pytest.raises(InputError, match="there is no device 'abacus'"):
        resolve_device("abacus")


# ---------------------------------------------------------------------- Apple's GPUs


def test_engines_of_an_apple_gpu_are_those_it_has() -> None:
    assert engines.available(MPS) == ("float32", "float16")
    assert speeds.machine(MPS).startswith("mps, ")
    assert precision(MPS).__enter__ is not None  # torch takes the name


def test_time_is_taken_when_a_gpu_has_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[str] = []
    monkeypatch.setattr(torch.mps, "synchronize", lambda: waited.append("mps"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: waited.append(str(device)))
    for device in (CPU, MPS, torch.device("cuda:1")):
        devices.wait(device)
    assert waited == ["mps", "cuda:1"]


def test_copies_of_an_apple_gpu_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    # Nothing would say when they are done.
    asked: list[bool] = []
    to, copy = torch.Tensor.to, torch.Tensor.copy_

    def watched_to(self: Tensor, *args: Any, non_blocking: bool = False, **kwargs: Any) -> Tensor:
        asked.append(non_blocking)
        return to(self, *args, **kwargs)

    def watched_copy(self: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
        asked.append(non_blocking)
        return copy(self, source)

    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda shape, device: empty(shape))
    monkeypatch.setattr(torch.Tensor, "to", watched_to)
    monkeypatch.setattr(torch.Tensor, "copy_", watched_copy)

    def maps(batch: Tensor, kept: None) -> tuple[Tensor, Tensor, Tensor]:
        return batch, batch[:, None], batch.mean(dim=(1, 2))

    scorer = BatchScorer(maps, lambda unit: pytest.fail("alone"), MPS, graphs=True)
    shown = Prepared(np.full((2, 3), 0.5, np.float32))
    ((_, score),) = scorer([(0, shown)], BatchSizes())
    assert score.image_score == 0.5
    assert len(asked) >= 4
    assert not any(asked)


def test_no_float64_is_asked_of_it_by_a_backbone(tiny_backbone: Backbone) -> None:
    with NoFloat64(), torch.inference_mode():
        grid = tiny_backbone.network.to(STAND_IN)(torch.empty(2, 3, 64, 48, device=STAND_IN))
    assert (grid.device, grid.dtype) == (STAND_IN, torch.float32)
    with NoFloat64(), pytest.raises(TypeError, match="float64"):
        grid.double()


@pytest.mark.parametrize(("name", "options"), CASES, ids=NAMES)
@pytest.mark.usefixtures("stand_in")
@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")
def test_no_float64_is_asked_of_it_by_a_method(
    name: str, options: dict[str, Any], stored: tuple[StoredGrids, StoredGrids], tmp_path: Path
) -> None:
    few = {**options, **{k: 2 for k in ("epochs", "iterations", "passes") if k in options}}
    setup = FitContext(BLOCKS, 0, STAND_IN, valid=stored[1], checkpoint=tmp_path / "c.safetensors")
    grids = StoredGrids(stored[0].paths[:8])
    with NoFloat64():
        assert len(list(DETECTORS[name].learn(grids, setup, **few))) > 0
    detector = learn(name, few, stored, tmp_path)
    with NoFloat64(), torch.inference_mode():
        scores = detector.to(STAND_IN).score(normal_grids(2)[0].to(STAND_IN))
    assert (scores.device, scores.dtype) == (STAND_IN, torch.float32)
