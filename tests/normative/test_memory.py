"""Memory that runs short: less at once with the same outcome, then the CPU, then one sentence."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import napari_spatial_ar as nsar
from napari_spatial_ar.errors import MemoryShortage
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.series import Series
from napari_spatial_ar.normative import memory
from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.backbones.loading import load_backbone
from napari_spatial_ar.normative.detectors import MemoryBank, ar_training
from napari_spatial_ar.normative.detectors.ar_network import SpatialAR
from napari_spatial_ar.normative.fitting import fit
from napari_spatial_ar.normative.fitting.plan import FitProgress
from napari_spatial_ar.normative.memory import Portions, is_shortage, one_sentence
from napari_spatial_ar.normative.model import NormativeModel
from tests.tiny import fit_steps

CPU = torch.device("cpu")
SHORTAGES = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError(
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate"
    ),
    RuntimeError("MPS backend out of memory (MPS allocated: 17 GB)"),
    RuntimeError("Invalid buffer size: 9.75 GiB"),
    MemoryError(),
]


@pytest.fixture
def released(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One entry each time that memory is given back."""
    calls: list[None] = []
    monkeypatch.setattr(memory, "release", lambda: calls.append(None))
    return calls


@pytest.mark.parametrize("error", SHORTAGES)
def test_portions_are_halved_until_they_fit(error: Exception, released: list[None]) -> None:
    asked: list[int] = []

    def compute(size: int) -> str:
        asked.append(size)
        if size > 3:
            raise error
        return f"by {size}"

    portions = Portions("Embedding with it")
    assert portions.warnings == []
    assert portions.noted("Going") == "Going"
    assert portions(20, CPU, compute) == "by 2"
    assert asked == [20, 10, 5, 2]
    assert len(released) == 3
    assert portions(20, CPU, compute) == "by 2", "it is known by now"
    assert portions(1, CPU, compute) == "by 1"
    assert asked == [20, 10, 5, 2, 2, 1]
    assert portions.warnings == ["Embedding with it: memory ran short: at most 2 at once."]
    assert portions.noted("Going") == "Going (memory ran short: at most 2 at once)"


@pytest.mark.parametrize("error", SHORTAGES)
def test_no_room_for_one_is_a_sentence(error: Exception) -> None:
    def compute(size: int) -> None:
        raise error

    with pytest.raises(MemoryShortage, match=r"^Training needs more memory than is free on this"):
        Portions("Training")(8, CPU, compute)
    with pytest.raises(MemoryShortage, match=r"device 'cuda:0'.*on the CPU \(--device cpu\)"):
        Portions("Training")(1, torch.device("cuda:0"), compute)
    with pytest.raises(MemoryShortage), one_sentence("It", CPU):
        raise error


def test_other_errors_are_left_alone() -> None:
    def compute(size: int) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        Portions("It")(4, CPU, compute)
    with pytest.raises(RuntimeError, match="mat1"), one_sentence("It", CPU):
        compute(1)
    assert not is_shortage(ValueError("out of memory"))


# ---------------------------------------------------------------------- embedding and training


def room_for(
    monkeypatch: pytest.MonkeyPatch, kind: type, name: str, most: int, device: str = ""
) -> list[int]:
    """Let a method that computes batches run out of memory above ``most``; gives their sizes."""
    whole, sizes = getattr(kind, name), []

    def tight(self: Any, batch: torch.Tensor) -> torch.Tensor:
        short = not device or getattr(self, "device", CPU).type == device
        if short and len(batch) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        sizes.append(len(batch))
        return whole(self, batch)

    monkeypatch.setattr(kind, name, tight)
    return sizes


def test_the_backbone_embeds_the_same_in_smaller_batches(
    tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.randn(7, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    whole = tiny_backbone.embed(images)
    sizes = room_for(monkeypatch, Backbone, "compute", 2)
    torch.testing.assert_close(tiny_backbone.embed(images), whole)
    assert sizes == [1] * 7
    assert tiny_backbone.portions.warnings
    room_for(monkeypatch, Backbone, "compute", 0)
    with pytest.raises(MemoryShortage, match=f"Embedding with {tiny_backbone.spec.name} needs"):
        tiny_backbone.embed(images)


@pytest.fixture
def settings(tiny_backbone: Backbone) -> dict[str, Any]:
    return {
        "backbone": tiny_backbone,
        "size": (64, 64),
        "epochs": 3,
        "batch_size": 8,
        "dilation": 1,
        "device": "cpu",
    }


@pytest.mark.parametrize("size", [1, 3, 4, 7])
def test_gradients_of_portions_are_those_of_the_batch(size: int) -> None:
    torch.manual_seed(0)
    network = SpatialAR(12, hidden=8, layers=3, dilation=1)
    optimizer = torch.optim.AdamW(network.parameters())
    batch = torch.randn(8, 12, 5, 6)

    def gradients(portion: int) -> tuple[float, list[torch.Tensor]]:
        loss = ar_training._gradients(network, optimizer, batch, portion)
        return loss, [p.grad.clone() for p in network.parameters() if p.grad is not None]

    (whole, wanted), (loss, found) = gradients(8), gradients(size)
    assert loss == pytest.approx(whole, rel=1e-3)
    assert len(found) == len(wanted) == 6
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0.02, atol=0.02 * float(other.abs().max()))


def test_training_makes_the_same_updates_in_smaller_batches(
    normal_slices: Path,
    tmp_path: Path,
    settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = nsar.fit(normal_slices, out=tmp_path / "whole" / "m", **settings)
    assert whole.header.training["warnings"] == []
    sizes = room_for(monkeypatch, SpatialAR, "nll", 3)
    steps: list[FitProgress] = []
    parts = nsar.fit(normal_slices, out=tmp_path / "m", progress=steps.append, **settings)
    assert max(sizes) == 2
    assert sizes.count(2) >= 12
    torch.testing.assert_close(
        parts.header.training["history"], whole.header.training["history"], rtol=1e-4, atol=0
    )
    note = "memory ran short: at most 2 at once"
    assert parts.header.training["warnings"] == [f"Training: {note}."]
    told = [note in step.message for step in steps if step.stage == "training"]
    assert told == [False, *[True] * (len(told) - 1)]


def test_slices_of_several_tiles_are_embedded_in_smaller_batches(
    normal_slices: Path,
    tmp_path: Path,
    settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    room_for(monkeypatch, Backbone, "compute", 4)
    settings |= {"size": (96, 96), "tile": 64, "epochs": 1}
    steps: list[FitProgress] = []
    model = nsar.fit(normal_slices, out=tmp_path / "m", progress=steps.append, **settings)
    assert model.header.training["warnings"] == []
    room_for(monkeypatch, Backbone, "compute", 2)
    settings |= {"size": (96, 128)}
    model = nsar.fit(normal_slices, out=tmp_path / "n", progress=steps.append, **settings)
    note = "memory ran short: at most 1 at once"
    name = settings["backbone"].spec.name
    assert model.header.training["warnings"] == [f"Embedding with {name}: {note}."]
    assert note in [step.message for step in steps if step.stage == "features"][-1]


def test_no_room_for_a_slice_ends_a_fit_with_one_sentence(
    normal_slices: Path,
    tmp_path: Path,
    settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        room_for(patch, SpatialAR, "nll", 0)
        with pytest.raises(MemoryShortage, match=r"^Training needs more memory"):
            nsar.fit(normal_slices, out=tmp_path / "m", **settings)
    model = nsar.fit(normal_slices, out=tmp_path / "m", **settings)  # goes on
    assert model.header.training["epochs"] == 3


def test_a_method_that_cannot_do_with_less_ends_with_one_sentence(
    normal_slices: Path,
    tmp_path: Path,
    settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("epochs", "batch_size", "dilation"):
        del settings[name]

    def full(*args: Any, **kwargs: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    settings["method"] = "memory-bank"
    with monkeypatch.context() as patch:
        patch.setattr("napari_spatial_ar.normative.detectors.memory_bank.present_rows", full)
        with pytest.raises(MemoryShortage, match=r"^Learning by Memory bank needs"):
            nsar.fit(normal_slices, out=tmp_path / "m", **settings)
    monkeypatch.setattr(MemoryBank, "score", full)
    with pytest.raises(MemoryShortage, match=r"^Scoring normal slices needs"):
        nsar.fit(normal_slices, out=tmp_path / "m", **settings)


# ---------------------------------------------------------------------- scoring


@pytest.fixture
def volume() -> Scan:
    data = np.random.default_rng(0).normal(100, 20, (3, 48, 40)).astype(np.float32)
    return Scan(data, Geometry(data.shape, np.eye(4)), "mri", Series("FLAIR"))


@pytest.fixture(params=["cuda:0", "mps"])
def on_gpu(
    normal_slices: Path,
    tmp_path: Path,
    settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> NormativeModel:
    """A model that takes itself to be on a GPU."""
    model = nsar.fit(normal_slices, out=tmp_path / "m", **settings)
    model.device = model.backbone.device = torch.device(request.param)
    to = torch.Tensor.to

    def to_cpu(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        args = tuple(CPU if isinstance(arg, torch.device) else arg for arg in args)
        return to(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "to", to_cpu)
    return model


def test_scoring_goes_to_the_cpu_where_the_gpu_is_full(
    on_gpu: NormativeModel,
    volume: Scan,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = nsar.load_model(tmp_path / "m", device="cpu")
    wanted.backbone = on_gpu.backbone
    expected = wanted.score_volume(volume)
    assert on_gpu.notes == []
    gpu = on_gpu.device
    room_for(monkeypatch, Backbone, "compute", 0, device=gpu.type)
    found = on_gpu.score_volume(volume)
    np.testing.assert_array_equal(found.nll, expected.nll)
    assert on_gpu.device == on_gpu.backbone.device == CPU
    assert on_gpu.notes == [
        f"Memory of the device '{gpu}' ran short, so slices are scored on the CPU, which is slower."
    ]


def test_a_detector_without_room_goes_to_the_cpu_too(
    on_gpu: NormativeModel, volume: Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = type(on_gpu.detector).score

    def tight(self: Any, grid: torch.Tensor) -> torch.Tensor:
        if on_gpu.device.type != "cpu":
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return score(self, grid)

    monkeypatch.setattr(type(on_gpu.detector), "score", tight)
    assert on_gpu.score_volume(volume).scored.all()
    assert len(on_gpu.notes) == 1


def test_without_room_on_the_cpu_scoring_ends_with_one_sentence(
    on_gpu: NormativeModel, volume: Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_for(monkeypatch, Backbone, "compute", 0)
    with pytest.raises(MemoryShortage, match="more memory than is free on this machine"):
        on_gpu.score_volume(volume)


# ---------------------------------------------------------------------- giving it back


@pytest.mark.parametrize("available", [True, False])
def test_the_cache_of_a_gpu_is_emptied(monkeypatch: pytest.MonkeyPatch, available: bool) -> None:
    emptied: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: available)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append("cuda"))
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: emptied.append("mps"))
    memory.release()
    assert emptied == (["cuda", "mps"] if available else [])


@pytest.fixture
def backbones(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[Backbone]]:
    """What a fit has loaded, and does not keep alive."""
    made: list[weakref.ref[Backbone]] = []

    def load(*args: Any, **kwargs: Any) -> Backbone:
        backbone = load_backbone(*args, **kwargs)
        made.append(weakref.ref(backbone))
        return backbone

    monkeypatch.setattr(fit, "load_backbone", load)
    return made


@pytest.mark.parametrize("stage", ["features", "training", "calibration", "saving"])
def test_a_fit_that_is_stopped_keeps_no_backbone_and_gives_memory_back(
    normal_slices: Path,
    tmp_path: Path,
    tiny_name: str,
    tiny_weights: Path,
    settings: dict[str, Any],
    backbones: list[weakref.ref[Backbone]],
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
) -> None:
    alive: list[bool] = []
    monkeypatch.setattr(memory, "release", lambda: alive.append(backbones[0]() is not None))
    settings |= {"backbone": tiny_name, "weights": tiny_weights, "size": 80}
    steps = fit_steps(normal_slices, out=tmp_path / "m", **settings)
    for step in steps:
        if step.stage == stage and (step.done or stage == "saving"):
            break
    assert backbones[0]() is not None
    del step
    steps.close()
    assert alive == [False], "released once, and not before the backbone was let go"


def test_a_finished_fit_gives_memory_back_and_only_the_model_keeps_the_backbone(
    normal_slices: Path,
    tmp_path: Path,
    tiny_name: str,
    tiny_weights: Path,
    settings: dict[str, Any],
    backbones: list[weakref.ref[Backbone]],
    released: list[None],
) -> None:
    settings |= {"backbone": tiny_name, "weights": tiny_weights}
    model: NormativeModel | None = nsar.fit(normal_slices, out=tmp_path / "m", **settings)
    assert len(released) == 1
    assert model is not None
    assert model.backbone is backbones[0]()
    model = None
    assert backbones[0]() is None


@pytest.mark.parametrize("how", ["closed", "dropped", "done"])
def test_scoring_gives_memory_back_when_it_ends(
    normal_slices: Path,
    tmp_path: Path,
    settings: dict[str, Any],
    volume: Scan,
    released: list[None],
    how: str,
) -> None:
    model = nsar.fit(normal_slices, out=tmp_path / "m", **settings)
    released.clear()
    ends: dict[str, Callable[[], object]] = {
        "closed": lambda: slices.close(),
        "dropped": lambda: None,
        "done": lambda: list(slices),
    }
    slices = model.iter_volume(volume)
    next(slices)
    assert released == []
    ends[how]()
    if how == "dropped":
        del ends, slices
    assert len(released) == 1
