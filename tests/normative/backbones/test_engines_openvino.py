"""OpenVINO: in 8 bits where it is asked for, made once, and nothing is reported to anybody."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.normative.backbones import engines
from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.backbones.engines import disable_telemetry, quantized
from napari_spatial_ar.paths import quantized_dir
from tests.tiny import make_backbone, make_spec

CPU = torch.device("cpu")
SHAPE = (1, 3, 64, 48)
IMAGES = torch.randn(2, *SHAPE[1:], generator=torch.Generator().manual_seed(0))

needs_openvino = pytest.mark.skipif(
    not importlib.util.find_spec("openvino"), reason="the extra is not installed"
)
needs_nncf = pytest.mark.skipif(
    not (importlib.util.find_spec("openvino") and importlib.util.find_spec("nncf")),
    reason="the extra is not installed",
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One home for all of them: what is made for a test serves the next."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("home")
        patch.setenv("NAPARI_SPATIAL_AR_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def backbone(home: Path) -> Backbone:
    return make_backbone(make_spec())


@pytest.fixture
def never_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("it was made again")

    monkeypatch.setattr(engines, "_quantize", fail)


@needs_nncf
def test_it_gives_nearly_the_same(
    backbone: Backbone, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    expected = backbone.embed(IMAGES)
    engine = engines.build("openvino-int8", backbone.network, CPU)
    found = engine(IMAGES)
    assert (found.shape, found.dtype) == (expected.shape, torch.float32)
    assert 1e-4 < (found - expected).norm() / expected.norm() < 0.1
    assert torch.equal(engine(IMAGES[1:]), found[1:])
    assert capsys.readouterr().out == ""
    assert len(list(quantized_dir().glob("*.safetensors"))) == 1


@needs_nncf
def test_only_the_first_product_of_each_mlp_is_quantized(backbone: Backbone) -> None:
    ops = quantized(backbone.network, SHAPE).get_ops()
    kinds = [(op.get_type_name(), op.get_friendly_name()) for op in ops]
    given = [name for kind, name in kinds if kind == "FakeQuantize"]
    weights = [
        tuple(op.shape)
        for op in ops
        if op.get_type_name() == "Constant" and op.get_element_type().to_string() == "i8"
    ]
    assert weights == [(48, 24), (48, 24)]  # one in each block
    assert len(given) == 2
    assert all(".norm2/" in name for name in given)


@needs_nncf
@pytest.mark.usefixtures("never_again")
def test_it_is_made_once(backbone: Backbone) -> None:
    first = engines.build("openvino-int8", backbone.network, CPU)(IMAGES)
    again = engines.build("openvino-int8", make_backbone(make_spec()).network, CPU)(IMAGES)
    assert torch.equal(first, again)
    # Another size, or other weights, are another model.
    with pytest.raises(AssertionError, match="made again"):
        quantized(backbone.network, (1, 3, 32, 48))
    other = make_backbone(make_spec())
    next(other.network.parameters()).add_(1)
    with pytest.raises(AssertionError, match="made again"):
        quantized(other.network, SHAPE)


@needs_nncf
@pytest.mark.parametrize("how", ["cut short", "changed", "another file"])
def test_a_damaged_file_is_made_again(
    backbone: Backbone, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = quantized_dir().glob("*.safetensors")
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[-9] ^= 1
    path.write_bytes({"cut short": whole[:-99], "changed": bytes(changed)}.get(how, b"{}"))
    monkeypatch.setattr(
        engines, "_quantize", lambda model, images: model.set_friendly_name("new") or model
    )
    try:
        assert quantized(backbone.network, SHAPE).get_friendly_name() == "new"
        assert engines._read(path) is not None
    finally:
        path.write_bytes(whole)


@needs_openvino
def test_few_are_kept_and_none_is_needed(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "_KEPT", 2)
    model = engines.convert(backbone.network, SHAPE)
    for number in range(3):
        engines._write(model, tmp_path / f"{number}.safetensors")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1.safetensors", "2.safetensors"]
    assert engines._read(tmp_path / "0.safetensors") is None


@needs_nncf
def test_a_home_that_takes_no_file_is_no_hindrance(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setenv("NAPARI_SPATIAL_AR_HOME", str(blocked))
    monkeypatch.setattr(engines, "_quantize", lambda model, images: model)
    assert quantized(backbone.network, SHAPE) is not None


def test_without_nncf_it_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"openvino": True, "nncf": False}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: there.get(name) or None)
    assert "openvino" in engines.available(CPU)
    assert "openvino-int8" not in engines.available(CPU)
    with pytest.raises(InputError, match=r"nncf is missing.*napari-spatial-ar\[int8\]"):
        engines.check("openvino-int8", CPU)
    there["nncf"] = True
    assert "openvino-int8" in engines.available(CPU)


# ---------------------------------------------------------------------- nothing is reported


@needs_openvino
def test_openvino_reports_nothing(backbone: Backbone) -> None:
    engines.build("openvino", backbone.network, CPU)(IMAGES)
    assert sys.modules["openvino_telemetry"] is None
    assert not (Path.home() / "intel").exists()


def test_what_was_loaded_before_reports_nothing_either(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []

    class Telemetry:
        def send_event(self, *what: Any) -> None:
            sent.append(what)

        start_session = end_session = send_event

    module = ModuleType("openvino_telemetry")
    module.Telemetry = Telemetry  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "openvino_telemetry", module)
    disable_telemetry()
    Telemetry().start_session("ovc")
    Telemetry().send_event("ovc", "version", "1")
    assert sent == []
