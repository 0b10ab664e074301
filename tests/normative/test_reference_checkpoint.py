"""Checkpoints of the paper's authors: the same maps, nothing assumed, the unknown refused."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import napari_spatial_ar as nsar
from napari_spatial_ar.errors import InputError, ModelFileError
from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.importing import import_reference, is_reference_checkpoint
from napari_spatial_ar.normative.library import list_models
from napari_spatial_ar.normative.reference_checkpoint import (
    layer_dilations,
    load_reference_checkpoint,
    read_dilations,
    read_reference_checkpoint,
)
from napari_spatial_ar.paths import user_models_dir
from tests.normative.test_model import picture
from tests.tiny import TINY

D, HIDDEN = 24, 8


class Masked(nn.Conv2d):
    """The published layer: a whole kernel times a mask buffer of the kernel's own shape."""

    def __init__(self, kind: str, channels: tuple[int, int], kernel: int, dilation: int) -> None:
        padding = kernel // 2 * dilation
        super().__init__(*channels, kernel, padding=padding, dilation=dilation)
        half, mask = kernel // 2, torch.ones_like(self.weight)
        if kind in "AB":
            mask[:, :, half, half + (kind == "B") :] = 0
            mask[:, :, half + 1 :] = 0
        else:
            mask[:, :, half, half] = 0
        self.register_buffer("mask", mask)

    def forward(self, values: Tensor) -> Tensor:
        weight = self.weight * self.mask
        return functional.conv2d(
            values, weight, self.bias, padding=self.padding, dilation=self.dilation
        )


def theirs(
    mode: str = "causal",
    schedule: Sequence[int] = (4, 4, 4, 4),
    *,
    kernel: int = 3,
    layers: int = 5,
    hidden: int = HIDDEN,
) -> nn.Module:
    """The published network: the last entry of the schedule is that of the last layer too."""
    torch.manual_seed(4)
    widths = [D, *[hidden] * (layers - 1), D]
    parts: list[nn.Module] = []
    for number in range(layers):
        channels = widths[number], widths[number + 1]
        dilation = schedule[number] if number < layers - 1 else schedule[-1]
        if number:
            parts.append(nn.ReLU(inplace=True))
        if mode == "causal":
            parts.append(Masked("B" if number else "A", channels, kernel, dilation))
        elif mode == "bidirectional" and not number:
            parts.append(Masked("hollow", channels, kernel, dilation))
        else:
            padding = kernel // 2 * dilation
            parts.append(nn.Conv2d(*channels, kernel, padding=padding, dilation=dilation))
    module = nn.Module()
    module.net = nn.Sequential(*parts)
    return module


def save(path: Path, network: nn.Module, **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    said = {"epoch": 3, "val_loss": 0.25, "img_size": 448, **more}
    said = {key: value for key, value in said.items() if value is not ...}
    torch.save({"model_state_dict": network.state_dict(), **said}, path)
    return path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[..., Path]:
    def make(network: nn.Module | None = None, **more: Any) -> Path:
        return save(tmp_path / "model_best_val_loss.pth", network or theirs(), **more)

    return make


@pytest.fixture
def no_models() -> Iterator[None]:
    yield
    shutil.rmtree(user_models_dir(), ignore_errors=True)


@pytest.mark.parametrize("mode", ["causal", "bidirectional"])
@pytest.mark.parametrize(
    ("schedule", "dilation", "each"),
    [
        ([4, 4, 4, 4], 4, 4),
        ([1, 1, 1, 1], 1, 1),
        ([1, 2, 4, 8], [1, 2, 4, 8], [1, 2, 4, 8, 8]),
        ([1, 2, 4, 2, 1], (1, 2, 4, 2, 1), [1, 2, 4, 2, 1]),
        ([2, 2, 2, 2], [2, 2, 2, 2], 2),
    ],
)
@pytest.mark.parametrize(("kernel", "layers"), [(3, 5), (5, 5)])
def test_the_same_maps(
    checkpoint: Callable[..., Path],
    mode: Any,
    schedule: list[int],
    dilation: Any,
    each: Any,
    kernel: int,
    layers: int,
) -> None:
    network = theirs(mode, schedule, kernel=kernel, layers=layers)
    ours = nsar.load_reference_checkpoint(checkpoint(network), dilation=dilation, context=mode)
    assert ours.settings == {
        "channels": D,
        "hidden": HIDDEN,
        "layers": layers,
        "kernel": kernel,
        "dilation": each,
        "context": mode,
    }
    values = torch.randn(2, D, 11, 9, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        squared = (values - network.net(values)).square().sum(1)
        expected = D / 2 * math.log(2 * math.pi) + squared / 2
        torch.testing.assert_close(ours.nll(values), expected, atol=1e-5, rtol=1e-5)


def test_what_the_file_says(checkpoint: Callable[..., Path]) -> None:
    found = read_reference_checkpoint(checkpoint(theirs("bidirectional", layers=4), img_size=224))
    assert (found.layers, found.channels, found.hidden, found.kernel) == (4, D, HIDDEN, 3)
    assert (found.context, found.size, found.epoch, found.val_loss) == (
        "bidirectional",
        224,
        3,
        0.25,
    )
    assert (found.folder_dilations, found.folder_backbone) == ((), "")
    found = read_reference_checkpoint(checkpoint(img_size=..., epoch=..., val_loss=float("nan")))
    assert (found.context, found.size, found.epoch, found.val_loss) == ("causal", None, None, None)


def test_what_the_folder_of_an_experiment_says(tmp_path: Path) -> None:
    name = "dinov3_vits16plus_brats_causal_ks3_dil1x2x4x8_seed42_ep40_img448_20260101-120000"
    path = save(tmp_path / name / "ckpt" / "model_best_val_aupr.pth", theirs())
    found = read_reference_checkpoint(path)
    assert (found.folder_dilations, found.folder_backbone) == ((1, 2, 4, 8), "dinov3_vits16plus")


def test_dilations_are_asked_for_and_masks_are_believed(checkpoint: Callable[..., Path]) -> None:
    path = checkpoint()
    with pytest.raises(InputError, match=r"does not state its dilations.*1-2-4-8"):
        load_reference_checkpoint(path)
    with pytest.raises(ModelFileError, match="those of a causal network, not of a bidirectional"):
        load_reference_checkpoint(path, dilation=4, context="bidirectional")
    for dilation in ([1, 2], [1] * 6, [], 0, -1, 1.5, "4", [1, 2, 0, 1, 1], True):
        with pytest.raises(InputError, match="dilations"):
            load_reference_checkpoint(path, dilation=dilation)  # type: ignore[arg-type]


def test_no_masks_at_all_are_another_kind_of_network(checkpoint: Callable[..., Path]) -> None:
    with pytest.raises(ModelFileError, match=r"--mode standard: its convolutions have no masks"):
        load_reference_checkpoint(checkpoint(theirs("standard")), dilation=4)


def _changed(change: Callable[[dict[str, Any]], None]) -> nn.Module:
    """Something whose state is that of a checkpoint, changed."""
    state = dict(theirs().state_dict())
    change(state)
    module = nn.Module()
    module.state_dict = lambda: state  # type: ignore[assignment, method-assign, misc]
    return module


def _flip(name: str) -> Callable[[dict[str, Any]], None]:
    def change(state: dict[str, Any]) -> None:
        state[name] = 1 - state[name]

    return change


def _both(layer: str, *shape: int) -> Callable[[dict[str, Any]], None]:
    def change(state: dict[str, Any]) -> None:
        state[f"{layer}.weight"] = state[f"{layer}.mask"] = torch.zeros(shape)

    return change


WRONG: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "unknown key": (lambda s: s.update(extra=torch.zeros(1)), "'extra', which is no part"),
    "parallel": (
        lambda s: [s.update({f"module.{k}": s.pop(k)}) for k in list(s) if k != "net.0.weight"],
        "'module.net.0.bias', which is no part",
    ),
    "key that is no text": (lambda s: s.update({3: torch.zeros(1)}), "'3', which is no part"),
    "odd layer": (lambda s: s.update({"net.3.weight": torch.zeros(1)}), "'net.3.weight', which"),
    "no bias": (lambda s: s.pop("net.4.bias"), "lacks net.4.bias"),
    "no weight": (lambda s: s.pop("net.8.weight"), "lacks net.8.weight"),
    "layer missing": (
        lambda s: [s.pop(f"net.4.{part}") for part in ("weight", "bias", "mask")],
        r"layers are \[0, 2, 6, 8\]",
    ),
    "one layer": (lambda s: [s.pop(k) for k in list(s) if "net.0" not in k], r"layers are \[0\]"),
    "width": (
        lambda s: s.update({"net.4.weight": torch.zeros(9, 8, 3, 3)}),
        "net.4.bias is 8, not 9",
    ),
    "another width": (
        _both("net.4", 8, 9, 3, 3),
        "net.4.weight is 8 x 9 x 3 x 3, not 8 x 8 x 3 x 3",
    ),
    "kernels of two sizes": (
        _both("net.4", 8, 8, 5, 5),
        "net.4.weight is 8 x 8 x 5 x 5, not 8 x 8 x 3 x 3",
    ),
    "not square": (
        _both("net.0", 8, D, 3, 5),
        "net.0.weight is 8 x 24 x 3 x 5, not 8 x 24 x 3 x 3",
    ),
    "vector": (lambda s: s.update({"net.2.weight": torch.zeros(8)}), "not out x in x k x k"),
    "mask of another shape": (
        lambda s: s.update({"net.2.mask": torch.ones(3, 3)}),
        "net.2.mask is 3 x 3, not 8 x 8 x 3 x 3",
    ),
    "mask of one channel": (lambda s: s["net.2.mask"][1, 2].fill_(1), "neither those of a causal"),
    "mask turned around": (_flip("net.2.mask"), "neither those of a causal"),
    "mask left out": (lambda s: s.pop("net.2.mask"), "neither those of a causal"),
    "first mask sees the centre": (
        lambda s: s["net.0.mask"][:, :, 1, 1].fill_(1),
        "neither those of a causal",
    ),
    "not finite": (lambda s: s["net.2.weight"][0, 0].fill_(torch.nan), "not finite"),
    "whole numbers": (lambda s: s.update({"net.2.bias": torch.zeros(8).long()}), "floating-point"),
    "no tensor": (lambda s: s.update({"net.2.bias": [0.0] * 8}), "floating-point"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_state_that_is_not_theirs(checkpoint: Callable[..., Path], case: str) -> None:
    change, words = WRONG[case]
    path = checkpoint(_changed(change))
    with pytest.raises(ModelFileError, match=words) as error:
        load_reference_checkpoint(path, dilation=4)
    assert str(error.value).startswith(f"{path}: ")


@pytest.mark.parametrize("size", [0, -448, 448.0, "448", (448, 448), True, 10**9, [448]])
def test_a_size_that_is_none(checkpoint: Callable[..., Path], size: Any) -> None:
    with pytest.raises(ModelFileError, match=r"img_size is .* should be a number of pixels"):
        read_reference_checkpoint(checkpoint(img_size=size))


def test_a_checkpoint_that_runs_code_is_refused(tmp_path: Path) -> None:
    path, marker = tmp_path / "evil.pth", tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[Path]]:
            return Path.touch, (marker,)

    torch.save({"model_state_dict": Evil()}, path)
    with pytest.raises(ModelFileError, match="not a complete checkpoint"):
        load_reference_checkpoint(path)
    assert not marker.exists()


def test_a_file_that_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    for content in (
        {"weights": torch.zeros(3)},
        torch.zeros(3),
        [1],
        {"model_state_dict": None},
        {"model_state_dict": [1]},
        {"model_state_dict": {}},
    ):
        torch.save(content, path)
        with pytest.raises(ModelFileError, match="not a checkpoint of the reference code"):
            load_reference_checkpoint(path)
    whole = path.read_bytes()
    for content in (whole[:100], whole[:-1], b"", b"PK\x03\x04", b"\x80\x02}q.", b"notes"):
        path.write_bytes(content)
        with pytest.raises(ModelFileError, match="not a complete checkpoint"):
            load_reference_checkpoint(path)
    with pytest.raises(ModelFileError, match="no such checkpoint"):
        load_reference_checkpoint(tmp_path / "absent.pth")
    with pytest.raises(ModelFileError, match="no such checkpoint"):
        load_reference_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("4", 4),
        ("1-2-4-8", [1, 2, 4, 8]),
        ("1, 2,4", [1, 2, 4]),
        ("4 4 4 4", [4, 4, 4, 4]),
        ("1x2x4", [1, 2, 4]),
        (" 1 - 2 ", [1, 2]),
    ],
)
def test_dilations_as_written(text: str, found: Any) -> None:
    assert read_dilations(text) == found


@pytest.mark.parametrize("text", ["", "four", "0", "1--2", "-1", "1-2-", "1.5", "1-0-1", "9" * 9])
def test_what_are_no_dilations(text: str) -> None:
    with pytest.raises(InputError, match="are no dilations"):
        read_dilations(text)


def test_a_schedule_ends_as_the_authors_does() -> None:
    assert layer_dilations([1, 2, 4, 8], 5) == [1, 2, 4, 8, 8]
    assert layer_dilations(3, 4) == [3] * 4


# ---------------------------------------------------------------------- as a model


@pytest.mark.usefixtures("tiny_weights", "no_models")
@pytest.mark.parametrize("mode", ["causal", "bidirectional"])
def test_a_model_scores_at_the_size_it_was_trained_at(
    checkpoint: Callable[..., Path], tiny_backbone: Backbone, mode: str
) -> None:
    network = theirs(mode, [1, 2, 4, 8])
    path = import_reference(
        checkpoint(network, img_size=160),
        "authors",
        modality="mri",
        backbone=TINY,
        dilation=[1, 2, 4, 8],
    )
    model = nsar.load_model("authors", device="cpu")
    assert path == user_models_dir() / "authors" / "model.safetensors"
    assert model.header.preprocessing.size == (160, 160)
    assert model.header.parameters["dilation"] == [1, 2, 4, 8, 8]
    assert model.header.parameters["context"] == mode
    said = model.header.training["checkpoint"]
    assert (said["epoch"], said["val_loss"], len(said["sha256"])) == (3, 0.25, 64)
    image = picture(shape=(70, 90))
    score = model.score_slice(image)
    # What the published code does with the same slice: resized, embedded, predicted.
    unit = torch.from_numpy((image / np.float32(255)).astype(np.float32))[None, None]
    resized = functional.interpolate(
        unit, size=(160, 160), mode="bilinear", antialias=True, align_corners=False
    )
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    shown = (resized.expand(1, 3, -1, -1) - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        grid = tiny_backbone.embed(shown)
        squared = (grid - network.net(grid)).square().sum(1)[0]
    assert score.grid.shape == (10, 10)
    expected = D / 2 * math.log(2 * math.pi) + squared / 2
    torch.testing.assert_close(torch.from_numpy(score.grid), expected, atol=1e-5, rtol=1e-5)
    assert "authors" in {info.name for info in list_models()}
    with pytest.raises(InputError, match="has no calibration"):
        model.threshold_for_fpr(0.01)


@pytest.mark.usefixtures("tiny_weights", "no_models")
def test_what_does_not_fit_the_file_is_refused(checkpoint: Callable[..., Path]) -> None:
    wanted: dict[str, Any] = {"modality": "mri", "backbone": TINY, "dilation": 4}
    for more, changes, words in (
        ({"size": 448}, {"img_size": 224}, "was trained at 224 pixels, not 448"),
        ({}, {"img_size": ...}, "does not state the size"),
        ({"size": 100}, {"img_size": ...}, "100 pixels, which is no multiple of the patch size 16"),
        ({}, {"img_size": 230}, "230 pixels, which is no multiple of the patch size 16"),
        ({"context": "bidirectional"}, {}, "causal network, not of a bidirectional"),
        ({"dilation": None}, {}, "does not state its dilations"),
        ({"dilation": [1, 2]}, {}, "do not fit 5 convolutions"),
    ):
        with pytest.raises((InputError, ModelFileError), match=words):
            import_reference(checkpoint(**changes), "authors", **{**wanted, **more})
    assert not (user_models_dir() / "authors").exists()
    import_reference(checkpoint(img_size=...), "authors", **wanted, size=64)
    assert nsar.load_model("authors", device="cpu").header.preprocessing.size == (64, 64)


@pytest.mark.usefixtures("tiny_weights", "no_models")
def test_another_backbone_gives_other_channels(checkpoint: Callable[..., Path]) -> None:
    network = theirs()
    for name, tensor in (("weight", torch.zeros(8, 12, 3, 3)), ("mask", None)):
        if tensor is None:
            tensor = network.net[0].mask[:, :12].clone()
        setattr(network.net[0], name, nn.Parameter(tensor) if name == "weight" else tensor)
    last = network.net[8]
    last.weight = nn.Parameter(last.weight[:12].clone())
    last.bias = nn.Parameter(last.bias[:12].clone())
    last.mask = last.mask[:12].clone()
    with pytest.raises(ModelFileError, match=f"predicts 12 channels, but {TINY} has 24"):
        import_reference(checkpoint(network), "authors", modality="mri", backbone=TINY, dilation=4)


def test_checkpoints_are_told_from_models(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    path = checkpoint()
    assert is_reference_checkpoint(path)
    renamed = path.rename(tmp_path / "checkpoint.bin")
    assert is_reference_checkpoint(renamed)
    (tmp_path / "model.zip").write_bytes(b"PK\x05\x06" + b"\0" * 18)
    for other in ("model.zip", "absent.zip", "."):
        assert not is_reference_checkpoint(tmp_path / other)
