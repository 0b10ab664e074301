"""Model files of anyone's making: each loads, or is damaged in one sentence; the others stay."""

from __future__ import annotations

import json
import os
import resource
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor

from napari_spatial_ar.errors import InputError, ModelFileError, ModelVersionError, SpatialARError
from napari_spatial_ar.normative import model_file
from napari_spatial_ar.normative.backbones import registry
from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.backbones.registry import find_spec, own_file
from napari_spatial_ar.normative.backbones.weights import list_weights
from napari_spatial_ar.normative.detectors import DETECTORS, detector_from_tensors
from napari_spatial_ar.normative.detectors.dinomaly import DinomalyNetwork
from napari_spatial_ar.normative.detectors.utrad import UtradNetwork
from napari_spatial_ar.normative.importing import import_model
from napari_spatial_ar.normative.library import (
    check_entry,
    check_models,
    duplicate_model,
    list_entries,
    list_models,
    read_entry,
)
from napari_spatial_ar.normative.model import load_model
from napari_spatial_ar.normative.model_file import MODEL_FILE
from napari_spatial_ar.paths import user_models_dir
from tests.normative.test_model import build, picture

Content = dict[str, Any]
RELEASED = {"brain-flair", "brain-flair-change", "brain-flair-focus", "liver-ct"}


class Forge:
    """Writes model files whose sha256 is right, whatever is in them."""

    def __init__(self, file: Path) -> None:
        self.file = file
        header, tensors, _ = model_file.read(file)
        # Not those in the file, which is written over.
        self.tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        self.header: Content = header.to_dict()

    def write(self, header: Any, tensors: dict[str, Tensor] | None = None) -> None:
        tensors = self.tensors if tensors is None else tensors
        digest = "0" * 64
        with suppress(Exception):  # there is none of what is no header
            digest = model_file._sha256(header, tensors)
        self.write_text(json.dumps({"header": header, "sha256": digest}), tensors)

    def write_text(self, text: str, tensors: dict[str, Tensor] | None = None) -> None:
        tensors = self.tensors if tensors is None else tensors
        self.file.write_bytes(save(tensors, metadata={"napari-spatial-ar": text}))


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """The user's models: one that is whole, and one to be damaged."""
    yield user_models_dir()
    shutil.rmtree(user_models_dir(), ignore_errors=True)


@pytest.fixture
def forge(tiny_backbone: Backbone, folder: Path) -> Forge:
    calibrated = build(tiny_backbone)
    calibrated.save(folder / "whole")
    return Forge(calibrated.save(folder / "forged"))


def outcome(file: Path, backbone: Backbone | None = None) -> str:
    """Do with a model all that can be done; "" where it loads, else what is said of it."""
    root, name = user_models_dir(), file.parent.name
    said = []
    for attempt in (
        lambda: model_file.read_detector(file),
        lambda: load_model(file.parent, device="cpu"),
        lambda: load_model(name, device="cpu"),
        lambda: import_model(file, "taken-in"),
        lambda: duplicate_model(name, "taken-in"),
    ):
        try:
            attempt()
            said.append("")
        except ModelFileError as error:
            said.append(str(error))
        shutil.rmtree(root / "taken-in", ignore_errors=True)
    assert len({bool(one) for one in said}) == 1, said
    (found,) = check_models(name)
    assert bool(found.damage) == bool(said[0])
    entry = check_entry(file.parent)
    assert (entry.state in ("damaged", "version")) == bool(said[0])
    # Whatever it is, it is in the list or said to be damaged, and the others are there.
    listed = {info.name for info in list_models()}
    unreadable = {one.name for one in list_entries() if one.header is None}
    assert listed >= RELEASED | {"whole"}
    assert (name in listed) != (name in unreadable)
    assert name not in unreadable or said[0]
    assert {one.name for one in list_entries()} >= RELEASED | {"whole", name}
    if said[0]:
        assert str(file) in said[0]
        assert "\n" not in said[0]
        assert len(said[0]) < 1000
    elif backbone is not None:
        model = load_model(file, device="cpu")
        model.backbone = backbone
        with suppress(SpatialARError):
            model.score_slice(picture())
    return said[0]


def changed(header: Content, path: str, value: Any) -> Content:
    """A copy with another value at a place, such as ``calibration.fpr``; ``...`` takes it out."""
    copy: Content = json.loads(json.dumps(header))
    *way, last = path.split(".")
    at: Any = copy
    for step in way:
        at = at[step]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return copy


def deep(times: int) -> Any:
    return json.loads("[" * times + "]" * times)


NAN, INF = float("nan"), float("inf")
LOOKS: dict[str, Any] = {"patients": 1, "slices": 1, "quantiles": {}, "mean_embedding": []}
SEEN: dict[str, Any] = {
    "centre": [0.0, 1.0],
    "axes": [[1.0, 0.0]],
    "kinds": [[0.5]],
    "softness": 1.0,
    "slices": [[1.0]],
    "limit": 0.1,
    "least_body": 0.1,
}
REGIONS = {
    "per": "scan", "scans": 1, "unit": "mm3",
    "thresholds": [1.0, 2.0], "sizes": [0.0], "counts": [[1.0, 0.5]],
}  # fmt: skip
WRONG: list[tuple[str, list[Any]]] = [
    ("parameters.layers", [10**9, -1, 0, 1, "5", 5.5, True, None, [5], {}, NAN, 10**30, 4, 6, ...]),
    ("parameters.channels", [10**9, 0, -24, 23, "24", NAN, ...]),
    ("parameters.hidden", [2**31, 65_536, 0, 7, None, ...]),
    ("parameters.kernel", [4, 1, 5, 99, -3, 10**6, "3", ...]),
    ("parameters.dilation", [0, -1, 10**9, 1.5, "1-2", [1, 2], [1, 2, 4, 2, 0], [1] * 10**5, ...]),
    ("parameters.context", ["sideways", 3, ["causal"], "bidirectional", ...]),
    ("parameters.raster", ["both", "backward", 1]),
    ("parameters.whiten", [True, "yes", 1]),
    ("parameters.unheard_of", [1]),
    ("parameters", [None, [], "all", 3, {}, ..., deep(150)]),
    ("format_version", [0, -1, "1", 1.0, 1.5, True, None, [1], NAN, ...]),
    ("method", ["", 3, None, ["spatial-ar"], "x" * 10_000, "memory-bank", "dinomaly", ...]),
    ("modality", ["", "xray", 3, None, ["mri"], ...]),
    ("backbone", [None, [], {}, "dinov3_vits16", ...]),
    ("backbone.name", ["", 3, None, ...]),
    ("backbone.layers", [None, 7, "7", [-1], [0], [10**9], ["7"], [7.5], [[7]], deep(150), ...]),
    ("backbone.sha256", ["x", "g" * 64, 0, None, ...]),
    ("backbone.fuse", ["sum", 1]),
    ("preprocessing", [None, [], {}, ...]),
    ("preprocessing.size", [[10**9] * 2, [0, 0], [-1, 64], [64], [64] * 3, ["64"] * 2, 8]),
    ("preprocessing.mean", [[0.5] * 2, ["a"] * 3, [NAN] * 3, None]),
    ("preprocessing.std", [[0.0] * 3, [-1.0] * 3, [INF] * 3, [0.2] * 4]),
    ("preprocessing.window", [None, "full8", {}, {"kind": "full8"}]),
    ("preprocessing.window.kind", ["wide", 8]),
    ("preprocessing.window.low", ["0", NAN, INF, 200.0]),
    ("preprocessing.clahe", [-1, 2, "0", NAN]),
    ("preprocessing.tile", [-1, 10**9, 1.5, "64"]),
    ("scoring", [None, [], {}, ...]),
    ("scoring.smoothing", [0, -3, 2, 10**9, 3.5, "3", None]),
    ("scoring.top_share", [-0.1, 1.1, NAN, "0"]),
    ("scoring.smoothing_z", [-1.0, NAN, INF, "3", 1e9]),
    ("scoring.unheard_of", [1]),
    ("selection", [{"plane": "oblique"}, {"slice_range": [0.5]}, {"slice_range": [0.9, 0.1]}, 3]),
    ("training", [None, [], "long", ...]),
    ("training.images", ["many", -1, 1.5, {}, NAN, deep(50)]),
    ("training.subjects", [None, [4], ...]),
    ("training.history", [[], {"valid_nll": 3}, {"valid_nll": ["a"]}, {"valid_nll": None}]),
    ("training.slice_keys", [[], {"train": 3}, {"train": [3]}, {"train": None}]),
    ("training.versions", [[], {"torch": 2}]),
    ("training.warnings", ["one", [1], None]),
    ("training.seed", ["0", 0.5, 10**40]),
    ("training.best_nll", [1.0, "low"]),
    ("calibration.fpr", [[], [0.1], [0.01, 0.1], [0.1, NAN], [2.0, 1.0], "0.1", [0.1, 0.0]]),
    ("calibration.thresholds", [[], [1.0], [2.0, 1.0], [1.0, INF], ["1", "2"], [1.0, 2.0, 3.0]]),
    ("calibration.image_scores", [[], [1.5], [1.5, NAN], [1.5, None], 1.5]),
    ("calibration.image_patients", [[0], [0, 1], [0, -1], [0, 0.5], ["a", "b"]]),
    ("calibration.patient_fpr", [[[0.1]], [[0.1, 0.2]] * 2, [0.1, 0.2], [[0.1, 7.0]]]),
    ("calibration.patient_peaks", [{}, {"sizes": [0]}, [], {"sizes": [0], "scores": []}]),
    ("calibration.normal_regions", [{}, [], {"per": "scan"}, {**REGIONS, "scans": 0},
        {**REGIONS, "counts": [[1.0, NAN]]}, {**REGIONS, "counts": [[1.0]]},
        {**REGIONS, "thresholds": [2.0, 1.0]}, {**REGIONS, "sizes": [-1.0]},
        {**REGIONS, "unit": "mm"}]),
    ("calibration.patients", [-1, "1", 0.5, None, ...]),
    ("calibration.slices", [3, -1, ...]),
    ("calibration.separate", ["no", 0]),
    ("calibration", [[], "good", {}, ...]),
    ("looks", [3, [], {"patients": 1}, {"quantiles": 3}, *({**LOOKS, "seen_slices": wrong}
        for wrong in (3, [], {}, {**SEEN, "limit": 0.0}, {**SEEN, "centre": []},
            {**SEEN, "axes": [[1.0]]}, {**SEEN, "kinds": [[1.0, 2.0]]}, {**SEEN, "slices": [[]]},
            {**SEEN, "slices": [[NAN]]}, {**SEEN, "least_body": 2.0}))]),
    ("acquired", [3, [], {"plane": 3}, {"plane": {"axial": "all"}}, {"sequence": {"FLAIR": -1}}]),
]  # fmt: skip


@pytest.mark.parametrize("path", [path for path, _ in WRONG])
def test_wrong_headers_are_damage(forge: Forge, path: str, tiny_backbone: Backbone) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for value in dict(WRONG)[path]:
        forge.write(changed(forge.header, path, value))
        said = outcome(forge.file, tiny_backbone)
        assert said, f"{path} {str(value)[:50]!r} is taken for good"
        assert "damaged" in said, said
    # In KB on Linux. A network of layers = 10^9 would take more, and so would its names alone.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


def test_listing_tells_already(forge: Forge) -> None:
    """What a header alone shows to be wrong, the list says; tensors are looked at when checking."""
    forge.write(changed(forge.header, "parameters.layers", 10**9))
    entry = read_entry(forge.file.parent)
    assert (entry.state, entry.header) == ("damaged", None)
    assert entry.advice.startswith(
        "The model file is damaged: layers should be less than or equal to 999. Delete it"
    )
    assert "forged" not in {info.name for info in list_models()}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{",
        "3",
        '"model"',
        "{}",
        '{"header": null, "sha256": ""}',
        '{"header": [], "sha256": ""}',
        "[" * 1_000_000,
        '{"header": ' + '{"a":' * 100_000,
        '{"header": ' + "[" * 5000 + "]" * 5000 + "}",
        '{"header": {"format_version": 1, "training": ' + "1" * 6000 + "}}",
        '{"header": "\\ud800", "sha256": ""}',
    ],
    ids=range(14),
)
def test_text_that_is_no_header_is_damage(forge: Forge, text: str) -> None:
    forge.write_text(text)
    assert "damaged" in outcome(forge.file)


def test_what_stands_beside_the_header(forge: Forge) -> None:
    digest = model_file._sha256(forge.header, forge.tensors)
    whole = {"header": forge.header, "sha256": digest}
    forge.write_text(json.dumps(whole))
    assert outcome(forge.file) == ""
    forge.write_text(json.dumps({**whole, "of_a_later_version": [1]}))
    assert outcome(forge.file) == ""
    for wrong in (
        {"sha256": digest[:-1]},
        {"sha256": digest.upper()},
        {"sha256": None},
        {"sha256": 5},
        {"sha256": "0" * 64},
        {"seconds": "long"},
        {"seconds": -1},
        {"seconds": NAN},
    ):
        forge.write_text(json.dumps({**whole, **wrong}))
        assert "damaged" in outcome(forge.file), wrong


def test_a_version_to_come_is_no_damage(forge: Forge) -> None:
    forge.write({"format_version": 5, "what": "is not known"})
    assert "its format version is 5" in outcome(forge.file)
    assert read_entry(forge.file.parent).state == "version"
    forge.write(changed(forge.header, "method", "of-tomorrow"))
    with pytest.raises(ModelVersionError, match="method 'of-tomorrow' is not known"):
        load_model(forge.file)


def test_tensors_that_are_not_the_models(forge: Forge) -> None:
    name = "net.0.weight"
    good = forge.tensors[name]
    for wrong in (
        {name: good[:, :, :1].clone()},
        {name: good.double()},
        {name: good.half()},
        {name: good.int()},
        {name: good.bool()},
        {name: torch.complex(good, good)},
        {name: torch.full_like(good, NAN)},
        {name: torch.where(good > 0, INF, good)},
        {name: torch.zeros(())},
        {name: torch.zeros(0)},
        {"net.100.weight": good.clone()},
    ):
        forge.write(forge.header, {**forge.tensors, **wrong})
        assert "damaged" in outcome(forge.file), wrong
    forge.write(forge.header, {})
    assert "damaged" in outcome(forge.file)
    forge.write(forge.header, {k: t for k, t in forge.tensors.items() if k != name})
    assert "damaged" in outcome(forge.file)


def test_files_cut_short_and_lengths_that_lie(forge: Forge) -> None:
    whole = forge.file.read_bytes()
    (size,) = struct.unpack("<Q", whole[:8])
    for length in (0, 1, 8, 9, 100, 8 + size, 9 + size, len(whole) - 1):
        forge.file.write_bytes(whole[:length])
        assert "damaged" in outcome(forge.file), length
    for lie in (0, 1, size - 1, size + 1, 2**31, 2**63, 2**64 - 1):
        forge.file.write_bytes(struct.pack("<Q", lie) + whole[8:])
        assert "damaged" in outcome(forge.file), lie
    inner = json.loads(whole[8 : 8 + size])
    tensors = whole[8 + size :]
    for wrong in (
        {"dtype": "F3"},
        {"dtype": "F4"},
        {"dtype": "I64"},
        {"shape": [2**40, 2**40]},
        {"shape": [-1]},
        {"data_offsets": [0, 2**60]},
        {"data_offsets": [8, 0]},
    ):
        entry = {**inner["net.0.weight"], **wrong}
        text = json.dumps({**inner, "net.0.weight": entry}).encode()
        forge.file.write_bytes(struct.pack("<Q", len(text)) + text + tensors)
        assert "damaged" in outcome(forge.file), wrong


@pytest.mark.parametrize("method", sorted({"memory-bank", "patch-gaussian", "dpmm", "himatch-ad"}))
def test_tensors_of_other_methods(method: str) -> None:
    """Every tensor left out, of another shape or kind, is one sentence; the whole loads."""
    generator = torch.Generator().manual_seed(0)
    grids = list(torch.randn(6, 24, 5, 6, generator=generator).split(1))
    options = {"clusters": 4} if method == "himatch-ad" else {}
    check_all_tensors(DETECTORS[method].fit(grids, blocks=2, **options))


def test_tensors_of_dinomaly() -> None:
    check_all_tensors(DETECTORS["dinomaly"](DinomalyNetwork(12, 2, decoder=1)))  # type: ignore[call-arg]


def test_tensors_of_utrad() -> None:
    check_all_tensors(DETECTORS["utrad"](UtradNetwork(12, 5, 6, width=8, depth=1)))  # type: ignore[call-arg]


def test_tensors_of_the_released_method() -> None:
    check_all_tensors(load_model("brain-flair-change", device="cpu").detector)


def check_all_tensors(detector: Any) -> None:
    parameters, tensors = detector.parameters(), detector.tensors()
    detector_from_tensors(detector.name, parameters, tensors)
    ways: list[Callable[[Tensor], Tensor]] = [
        lambda t: t[None],
        lambda t: t.int(),
        lambda t: t.double(),
        lambda t: torch.cat([t, t]),
        lambda t: t.flatten()[:1],
    ]
    for name, tensor in tensors.items():
        if not tensor.numel():
            continue
        with pytest.raises(ModelFileError):
            detector_from_tensors(
                detector.name, parameters, {k: t for k, t in tensors.items() if k != name}
            )
        for way in ways:
            other = way(tensor)
            if other.shape == tensor.shape and other.dtype == tensor.dtype:
                continue
            try:
                found = detector_from_tensors(
                    detector.name, parameters, {**tensors, name: other.contiguous()}
                )
            except ModelFileError:
                continue
            # A bank of other rows is a bank as well.
            channels = 384 if detector.name == "change-novelty" else 24
            assert found.score(torch.randn(1, channels, 5, 6)).isfinite().all()
    for name in parameters:
        with pytest.raises(ModelFileError):
            detector_from_tensors(detector.name, {**parameters, name: "much"}, tensors)


def test_odd_things_among_the_models(forge: Forge, folder: Path) -> None:
    (folder / "a file.txt").write_text("notes")
    (folder / "empty").mkdir()
    (folder / "nested" / MODEL_FILE).mkdir(parents=True)
    (folder / "loop").symlink_to("loop")
    (folder / "gone").mkdir()
    (folder / "gone" / MODEL_FILE).symlink_to(folder / "nowhere")
    (folder / "pipe").mkdir()
    os.mkfifo(folder / "pipe" / MODEL_FILE)
    (folder / "card").mkdir()
    shutil.copy(forge.file, folder / "card")
    (folder / "card" / "README.md").mkdir()
    assert {info.name for info in list_models()} == RELEASED | {"whole", "forged", "card"}
    found = {one.name: bool(one.damage) for one in check_models()}
    assert found == {
        **dict.fromkeys([*RELEASED, "whole", "forged", "card"], False),
        "nested": True,
        "pipe": True,
    }
    states = {entry.name: entry.state for entry in list_entries()}
    assert (states["nested"], states["pipe"]) == ("damaged", "damaged")
    assert load_model("whole", device="cpu").name == "whole"
    for name in ("nested", "pipe", "empty", "gone", "loop", "a file.txt", "x" * 5000, "a\0b"):
        with pytest.raises((ModelFileError, InputError)):
            load_model(name)


def test_a_folder_of_models_that_is_a_file(
    forge: Forge, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NAPARI_SPATIAL_AR_HOME", str(tmp_path))
    (tmp_path / "models").write_text("not a folder")
    assert {info.name for info in list_models()} == RELEASED
    assert len(check_models()) == len(RELEASED)


def test_a_damaged_model_is_known_by_its_name(forge: Forge) -> None:
    forge.write(changed(forge.header, "scoring.smoothing", 2))
    with pytest.raises(ModelFileError, match=r"forged.*damaged: .*smoothing is an odd number"):
        load_model("forged")


def test_floats_are_read_to_their_last_digit(forge: Forge) -> None:
    """The sha256 is over what Python would read: another last digit would be damage."""
    rng = np.random.default_rng(0)
    scores = sorted((rng.normal(size=3000) * 10.0 ** rng.integers(-30, 30, 3000)).tolist())
    header = changed(forge.header, "calibration.image_scores", scores)
    header = changed(header, "calibration.slices", len(scores))
    forge.write(header)
    assert outcome(forge.file) == ""
    assert load_model("forged").header.calibration.image_scores == tuple(scores)


# ---------------------------------------------------------------------- at random


def _places(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = value.items() if isinstance(value, dict) else []
    return [way, *(place for key, one in inside for place in _places(one, (*way, key)))]


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([10**9, "spatial-ar", "causal", 0.5, 1, 2, 3]),
    lambda children: (
        st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=3)
    ),
    max_leaves=12,
)


@settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_headers_at_random(forge: Forge, tiny_backbone: Backbone, data: st.DataObject) -> None:
    header: Any = json.loads(json.dumps(forge.header))
    for _ in range(data.draw(st.integers(1, 3))):
        way = data.draw(st.sampled_from(_places(header)))
        value = data.draw(ANYTHING)
        if not way:
            header = value
            continue
        *steps, last = way
        at = header
        for step in steps:
            at = at[step]
        if data.draw(st.booleans()):
            at[last] = value
        else:
            del at[last]
    try:
        forge.write(header)
    except (UnicodeEncodeError, ValueError):  # halves of characters, which no file can hold
        return
    outcome(forge.file, tiny_backbone)


@settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_bytes_at_random(forge: Forge, data: st.DataObject) -> None:
    forge.write(forge.header)
    content = bytearray(forge.file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    forge.file.write_bytes(content)
    outcome(forge.file)


# ---------------------------------------------------------------------- weights of one's own


@pytest.mark.parametrize(
    "wrong",
    [
        {"patch": "16"},
        {"patch": 0},
        {"width": None},
        {"width": 10**9},
        {"family": "of-tomorrow"},
        {"config": []},
        {"config": {"num_hidden_layers": 10**9}},
        {"config": {"hidden_act": {"a": {}}}},
        {"licence": 5},
        {"pinned_sha256": "x"},
        {"mean": [0.5]},
        {"std": ["a", "b", "c"]},
    ],
)
def test_a_bad_file_of_weights_costs_no_other_backbone(wrong: Content) -> None:
    good = {
        "family": "dinov2",
        "patch": 14,
        "width": 384,
        "licence": "",
        "config": {"num_hidden_layers": 2, "hidden_act": "gelu", "qkv_bias": True, "drop": 0.0},
        "pinned_sha256": "",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    }
    file = own_file("of-mine")
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        for said, known in ((good, True), ({**good, **wrong}, False)):
            text = json.dumps(said)
            file.write_bytes(save({"a": torch.zeros(1)}, metadata={registry._SPEC: text}))
            assert (find_spec("of-mine") is not None) == known
            assert ("of-mine" in {info.name for info in list_weights()}) == known
    finally:
        file.unlink()
