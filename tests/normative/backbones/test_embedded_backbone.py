"""The backbone that comes with the package, and what is used where none is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import napari_spatial_ar as nsar
from napari_spatial_ar.errors import Cancelled, InputError, WeightsError
from napari_spatial_ar.normative.backbones import weights
from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.backbones.loading import load_backbone
from napari_spatial_ar.normative.backbones.registry import (
    BACKBONES,
    DEFAULT_BACKBONE,
    OFFLINE_BACKBONE,
    BackboneSpec,
)
from napari_spatial_ar.normative.backbones.weight_files import read_rounding, rounded, write_rounded
from napari_spatial_ar.normative.fitting.config import FitConfig
from napari_spatial_ar.normative.fitting.recipe import read_recipe
from napari_spatial_ar.normative.library import missing_backbone
from napari_spatial_ar.paths import embedded_weights
from tests.tiny import TINY, random_state

CPU = torch.device("cpu")


def test_it_is_known_as_the_weights_it_was_rounded_from() -> None:
    backbone = load_backbone(OFFLINE_BACKBONE, device="cpu")
    assert backbone.sha256 == BACKBONES[OFFLINE_BACKBONE].pinned_sha256
    assert backbone.weights_sha256 != backbone.sha256
    assert backbone.weights_record == {
        "embedded": True,
        "rounded_to": "float16",
        "sha256": backbone.weights_sha256,
    }
    assert backbone.source == "comes with the package (blocks 1 to 7, float16)"
    assert backbone.embed(torch.zeros(1, 3, 28, 42)).shape == (1, 384, 2, 3)


def test_its_hashes_are_those_of_the_originals(focus_weights: Path) -> None:
    """For each depth, so for models that read fewer blocks too."""
    for block in (1, 4, 7):
        own = load_backbone(OFFLINE_BACKBONE, device="cpu", layers=(block,))
        original = load_backbone(OFFLINE_BACKBONE, focus_weights, "cpu", layers=(block,))
        assert own.sha256 == original.sha256 == original.weights_sha256


def test_a_copy_of_the_originals_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "local_file", lambda spec: Path("own.safetensors"))
    assert load_backbone(OFFLINE_BACKBONE, device="cpu").weights_record["embedded"]
    with pytest.raises(WeightsError, match="own"):  # which is where later blocks are
        load_backbone(OFFLINE_BACKBONE, device="cpu", layers=(8,))


@pytest.mark.parametrize(("layers", "said"), [((3, 9), "block 9"), ((), "the last block")])
def test_a_later_block_is_one_sentence(layers: tuple[int, ...], said: str) -> None:
    model = nsar.load_model("brain-flair-change", device="cpu")
    header = replace(model.header, backbone=replace(model.header.backbone, layers=layers))
    assert missing_backbone(model.header) is None
    needs = missing_backbone(header)
    assert needs is not None
    with pytest.raises(WeightsError) as caught:
        load_backbone(OFFLINE_BACKBONE, device="cpu", layers=layers)
    for text in (str(caught.value).lower(), needs.lower()):
        assert f"{said} of {OFFLINE_BACKBONE} is needed" in text
        assert "blocks 1 to 7 come with the package" in text
        assert f"weights pull {OFFLINE_BACKBONE}" in text


def test_a_damaged_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = embedded_weights()
    assert whole is not None
    damaged = tmp_path / "backbone.safetensors"
    monkeypatch.setattr(weights, "embedded_weights", lambda: damaged)
    content = bytearray(whole.read_bytes())
    content[-5] ^= 0x10
    for data, words in ((content, "not those of"), (content[:-9], "not a valid safetensors file")):
        damaged.write_bytes(data)
        with pytest.raises(WeightsError, match=words) as caught:
            load_backbone(OFFLINE_BACKBONE, device="cpu")
        assert "Install napari-spatial-ar again" in str(caught.value)


def test_it_cannot_be_added_as_if_it_were_whole() -> None:
    path = embedded_weights()
    assert path is not None
    with pytest.raises(InputError, match="come with the package"):
        weights.add(path, OFFLINE_BACKBONE)


def test_rounded_weights_stand_for_the_originals(tiny_spec: BackboneSpec, tmp_path: Path) -> None:
    spec, state = replace(tiny_spec, layers=(1,)), random_state(tiny_spec)
    original = Backbone(spec, dict(state), source="random", device=CPU)
    file = tmp_path / "rounded.safetensors"
    small, rounding = rounded(state, TINY, 1, torch.bfloat16)
    write_rounded(file, small, rounding)
    assert read_rounding(file) == rounding
    assert not any("layer.1." in name for name in small)
    copy = load_backbone(TINY, file, "cpu", layers=(1,))
    assert copy.sha256 == original.sha256 != copy.weights_sha256
    images = torch.randn(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    apart = (copy.embed(images) - original.embed(images)).abs().max()
    assert 0 < apart < 0.1
    # The same rounding under another claim is no copy of anything.
    write_rounded(file, {n: t + 1 for n, t in small.items()}, rounding)
    with pytest.raises(WeightsError, match="not those of"):
        load_backbone(TINY, file, "cpu", layers=(1,))


# ------------------------------------------------------------ where no backbone is named


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether the network was to be asked, for each question to the hub's client."""
    import huggingface_hub

    questions: list[bool] = []

    def ask(repository: str, *, local_files_only: bool = False, **_: Any) -> str:
        questions.append(not local_files_only)
        raise FileNotFoundError(repository)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", ask)
    return questions


def test_the_default_is_what_is_at_hand(
    asked: list[bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert weights.default_backbone() == OFFLINE_BACKBONE
    assert OFFLINE_BACKBONE in weights.default_note(OFFLINE_BACKBONE)
    assert FitConfig().backbone == OFFLINE_BACKBONE
    (tmp_path / "r.toml").write_text("schema = 1\n")
    assert read_recipe(tmp_path / "r.toml").backbone == OFFLINE_BACKBONE
    # A file of weights says which backbone it is of, else it is of the usual one.
    assert weights.default_backbone(tmp_path / "dinov2_vitb14_pretrain.pth") == "dinov2_vitb14"
    assert weights.default_backbone("w.pth") == DEFAULT_BACKBONE
    here = Path("here")
    monkeypatch.setattr(
        weights, "local_file", lambda spec: here if spec.name == DEFAULT_BACKBONE else None
    )
    assert weights.default_backbone() == DEFAULT_BACKBONE
    assert FitConfig().backbone == DEFAULT_BACKBONE
    assert asked
    assert not any(asked), "the network is for 'weights pull' alone"


def test_a_fit_takes_the_default_without_a_network(
    asked: list[bool], normal_slices: Path, tmp_path: Path
) -> None:
    model = nsar.fit(normal_slices, out=tmp_path / "m", method="memory-bank", size=56, device="cpu")
    assert model.header.backbone.name == OFFLINE_BACKBONE
    assert model.header.backbone.sha256 == BACKBONES[OFFLINE_BACKBONE].pinned_sha256
    assert model.header.training["backbone_weights"]["rounded_to"] == "float16"
    with pytest.raises(WeightsError, match="the weights of dinov3_vits16 are not on this machine"):
        nsar.fit(normal_slices, out=tmp_path / "n", backbone=DEFAULT_BACKBONE, device="cpu")
    assert not any(asked), "a backbone that is named is not fetched unasked either"


def test_pull_tells_how_far_it_is_and_can_be_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    (tmp_path / "model.safetensors").touch()
    tokens: list[str | None] = []

    def ask(repository: str, *, local_files_only: bool = False, **said: Any) -> str:
        if local_files_only:
            raise FileNotFoundError(repository)
        tokens.append(said["token"])
        with (
            said["tqdm_class"](total=2, desc="files"),
            said["tqdm_class"](
                total=100, unit="B", unit_scale=True, name="huggingface_hub.bytes"
            ) as bar,
        ):
            bar.update(40)
            bar.update(60)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", ask)
    seen: list[tuple[int, int]] = []
    source = weights.pull(
        DEFAULT_BACKBONE, progress=lambda *step: seen.append(step), token="a token"
    )
    assert source == f"{BACKBONES[DEFAULT_BACKBONE].hub[0]} (hub)"
    assert seen == [(40, 100), (100, 100)]
    assert tokens == ["a token"]

    def stop(*_: int) -> None:
        raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        weights.pull(DEFAULT_BACKBONE, progress=stop)
    assert len(tokens) == 2, "the next repository is not tried"


def test_pull_gives_up_at_once_without_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    tried: list[str] = []

    def ask(repository: str, *, local_files_only: bool = False, **_: Any) -> str:
        if not local_files_only:
            tried.append(repository)
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", ask)
    with pytest.raises(WeightsError, match="the hub cannot be reached") as caught:
        weights.pull(DEFAULT_BACKBONE)
    assert tried == [BACKBONES[DEFAULT_BACKBONE].hub[0]]
    assert "weights add FILE" in str(caught.value)
