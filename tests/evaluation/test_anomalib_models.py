"""Methods of the anomalib library in comparisons: with a fake of it, and itself where installed."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from napari_spatial_ar.datasets.folders import bmad_items
from napari_spatial_ar.errors import InputError, ModelFileError, WeightsError
from napari_spatial_ar.evaluation.anomalib_models import (
    METHODS,
    AnomalibModel,
    MapScoring,
    anomalib_method,
    fit_anomalib,
)
from napari_spatial_ar.evaluation.baselines import ComparedMethod
from napari_spatial_ar.evaluation.candidates import Candidate
from napari_spatial_ar.evaluation.compare import compare
from napari_spatial_ar.evaluation.costs import model_bytes
from napari_spatial_ar.evaluation.evaluate import measure
from napari_spatial_ar.evaluation.report import write_report
from napari_spatial_ar.imaging.windows import Window
from napari_spatial_ar.normative.model import NormativeModel
from napari_spatial_ar.normative.model_file import BackboneRef, ModelHeader
from napari_spatial_ar.normative.preprocessing import Preprocessing
from tests.evaluation import fake_anomalib
from tests.evaluation.test_commands import run


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[fake_anomalib.Padim]:
    """A library of two methods, with pretrained weights at hand."""
    fake_anomalib.install(monkeypatch)
    return fake_anomalib.Padim


def fitted(cohort: Path, out: Path, text: str = "padim:size=64", *seeds: int) -> ComparedMethod:
    return fit_anomalib(cohort, anomalib_method(text), seeds or (0,), out, device="cpu")


@pytest.mark.usefixtures("fake")
def test_takes_part_beside_our_models(cohort: Path, tmp_path: Path, bank: NormativeModel) -> None:
    compared = fitted(cohort, tmp_path / "models", "padim:size=64", 0, 1)
    comparison = compare(
        cohort, [compared, ComparedMethod("bank", (bank,))], fpr=0.1, draws=50, smoothing=None
    )
    theirs, ours = comparison.results
    assert set(theirs.valid_aupr) == set(ours.valid_aupr) == {1, 3, 5, 7}
    assert theirs.smoothing == max(theirs.valid_aupr, key=lambda s: theirs.valid_aupr[s])
    # The squares are bright, and that is what this method looks at.
    assert (theirs.mean("pixel_aupr") or 0) > 3 * (theirs.measured[0].evaluation.base_rate or 1)
    assert theirs.seed_range("pixel_aupr") is not None
    assert 0.01 < (theirs.mean("realised_fpr") or 0) < 0.5
    evaluation = theirs.measured[0].evaluation
    assert evaluation.ms_per_slice > 0
    assert evaluation.ms_beyond_backbone is None
    assert evaluation.model_bytes == 8  # mean and noise, without the backbone
    assert (evaluation.fit_seconds or 0) > 0
    assert ours.measured[0].evaluation.ms_beyond_backbone is not None
    assert comparison.notes == compared.notes
    assert "anomalib 2.0.fake, resnet18, slices of 64 x 64, 1 epoch." in comparison.notes[0]
    found = json.loads(json.dumps(comparison.to_dict(), allow_nan=False))["methods"][0]
    assert (found["method"], found["backbone"]) == ("anomalib padim", "resnet18")
    assert [seed["seed"] for seed in found["seeds"]] == [0, 1]
    assert len({seed["model_sha256"] for seed in found["seeds"]}) == 2
    report = write_report(comparison, tmp_path)[1].read_text()
    assert "| anomalib padim size=64 |" in report


@pytest.mark.usefixtures("fake")
def test_an_earlier_fit_is_found_again(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fitted(cohort, tmp_path, "padim:size=64,gain=2.0")
    elsewhere = fitted(cohort, tmp_path / "elsewhere", "padim:size=64,gain=2.0")
    assert elsewhere.models[0].sha256 == first.models[0].sha256  # the seed is the same
    monkeypatch.setattr(fake_anomalib.Trainer, "fit", None)  # no need of it the second time
    again = fitted(cohort, tmp_path, "padim:size=64,gain=2.0")
    assert again.fit_seconds == first.fit_seconds
    assert again.models[0].sha256 == first.models[0].sha256 != ""
    image = np.random.default_rng(0).integers(0, 255, (40, 48)).astype(np.uint8)
    one, two = (r.models[0].score_slice(image, window=(0.0, 255.0)) for r in (first, again))
    np.testing.assert_array_equal(one.nll, two.nll)
    assert one.nll.shape == (40, 48)
    assert one.image_score == two.image_score == pytest.approx(one.grid.max())
    (path,) = tmp_path.glob("anomalib*/anomalib.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelFileError, match="not a complete model"):
        fitted(cohort, tmp_path, "padim:size=64,gain=2.0")
    record = path.with_name("fit.json")
    record.write_text(record.read_text().replace("2.0.fake", "2.1"))
    with pytest.raises(InputError, match="other settings"):
        fitted(cohort, tmp_path, "padim:size=64,gain=2.0")


@pytest.mark.usefixtures("fake")
def test_it_learns_from_the_training_slices_alone(cohort: Path, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    method = anomalib_method("draem:dtd_dir=none,size=32,batch_size=4,epochs=3")
    compared = fit_anomalib(
        cohort, method, [0], tmp_path, device="cpu", progress=lambda *at: seen.append(at)
    )
    # 6 slices: 2 batches an epoch.
    assert seen[-1] == (f"{method.label}: Learning", 6, 6)
    assert compared.notes[0].endswith("no backbone, slices of 32 x 32, 3 epochs.")
    (model,) = compared.models
    # There is no frozen part, so that all of the network counts.
    assert model_bytes(model) == 8 + 64


@pytest.mark.usefixtures("fake")
def test_what_is_not_the_published_method_is_named_so(cohort: Path, tmp_path: Path) -> None:
    plain = anomalib_method("padim")
    assert plain.label == "anomalib padim"
    assert len(plain.notes) == 1
    for text, words in {
        "padim:pre_trained=false": "random weights",
        "draem:dtd_dir=none": "noise for textures",
    }.items():
        method = anomalib_method(text)
        assert f"({words})" in method.label
        assert "is not the published method" in method.notes[1]
    compared = fitted(cohort, tmp_path, "padim:pre_trained=false,size=64")
    assert compared.models[0].header.backbone.name == "resnet18 with random weights"


def test_no_pretrained_weights(
    fake: type[fake_anomalib.Padim], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake, "online", False)
    with pytest.raises(
        WeightsError, match=r"weights of anomalib's padim .*padim:pre_trained=false"
    ):
        anomalib_method("padim")
    assert not anomalib_method("padim:pre_trained=false").pretrained
    with pytest.raises(WeightsError) as caught:
        anomalib_method("stfpm")
    assert "pre_trained" not in str(caught.value)  # it knows no such setting


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("resnet", "no method 'resnet' of anomalib here"),
        ("padim:nonsense=1", "not a setting"),
        ("padim:epochs=2", "not a setting"),  # it looks at a slice once
        ("padim:visualizer=true", "not a setting"),
        ("padim:size=100", "multiple of 32"),
        ("draem:dtd_dir=none,epochs=0", "epochs .* above 0"),
        ("draem:dtd_dir=none,batch_size=true", "batch_size .* above 0"),
        ("draem", "no folder of them"),
        ("padim:backbone=resnet", r"padim failed: Unknown model \(resnet\)\.$"),
    ],
)
def test_wrong_use(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        anomalib_method(text)


@pytest.mark.usefixtures("fake")
def test_a_folder_of_textures(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder of them"):
        anomalib_method(f"draem:dtd_dir={tmp_path}")
    (tmp_path / "banded").mkdir()
    (tmp_path / "banded" / "one.jpg").touch()
    method = anomalib_method(f"draem:dtd_dir={tmp_path}")
    assert method.label == "anomalib draem"  # and not where the textures lie
    assert len(method.notes) == 1


@pytest.mark.usefixtures("fake")
def test_what_fails_in_the_library_is_a_sentence(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(*_: Any, **__: Any) -> None:
        raise RuntimeError("can't allocate memory\nat 0x0")

    monkeypatch.setattr(fake_anomalib.Trainer, "fit", fit)
    with pytest.raises(InputError, match=r"padim failed: can't allocate memory\.$"):
        fitted(cohort, tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))
    monkeypatch.setattr(fake_anomalib.Trainer, "fit", lambda *_, **__: sys.exit(1))
    with pytest.raises(KeyboardInterrupt):  # Lightning ends the process where Ctrl+C was pressed
        fitted(cohort, tmp_path)


@pytest.mark.usefixtures("fake")
def test_scores_that_are_no_numbers(cohort: Path, tmp_path: Path) -> None:
    compared = fitted(cohort, tmp_path, "padim:size=64,gain=NaN")
    with pytest.raises(InputError, match="not finite") as caught:
        measure(bmad_items(cohort, "test"), [Candidate(compared.models[0])])
    assert caught.value.path is not None


def test_smoothing_covers_as_much_of_the_slice_as_patches_do() -> None:
    maps = torch.randn(2, 224, 112, generator=torch.Generator().manual_seed(0))
    assert MapScoring(1).smooth(maps) is maps
    smooth = MapScoring(3).smooth(maps)
    # 3 of 28 patches are 24 of 224 rows and 12 of 112 columns; an odd number of either is next.
    around = maps[0, 100 - 12 : 100 + 13, 50 - 6 : 50 + 7]
    assert smooth[0, 100, 50] == pytest.approx(around.mean().item(), abs=1e-6)
    assert smooth[1, 0, 0] == pytest.approx(maps[1, :13, :7].mean().item(), abs=1e-6)


def test_the_heatmap_is_the_map_at_the_slices_size() -> None:
    class Still(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> fake_anomalib.InferenceBatch:
            return fake_anomalib.InferenceBatch(torch.tensor([[7.0]]), images[:, 0])

    preprocessing = Preprocessing(Window("full8"), (32, 32), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    backbone = BackboneRef("", (), "")
    header = ModelHeader("anomalib x", {}, "mri", backbone, preprocessing, MapScoring())
    model = AnomalibModel("x", header, Still(), lambda x: 1 - x, "", "", torch.device("cpu"))
    image = np.full((64, 48), 51, np.uint8)
    image[:32] = 102
    score = model.score_slice(image)
    assert score.image_score == 7.0  # the method's own
    small = functional.interpolate(
        torch.from_numpy(image / np.float32(255))[None, None],
        size=(32, 32),
        mode="bilinear",
        antialias=True,
    )
    expected = functional.interpolate(small, size=(64, 48), mode="bilinear")[0, 0]
    np.testing.assert_allclose(score.nll, 1 - expected, atol=1e-6)


def test_command(fake: type[fake_anomalib.Padim], cohort: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["compare", cohort, "--out", out, "--device", "cpu", "--draws", 20, "--fpr", 0.1]
    arguments += ["--anomalib", "padim:size=64", "--anomalib", "padim:pre_trained=false,size=64"]
    result = run(tmp_path, *arguments, "--seeds", "0,1")
    names = [method["name"] for method in result["methods"]]
    assert names == ["anomalib padim size=64", "anomalib padim size=64 (random weights)"]
    assert [len(method["seeds"]) for method in result["methods"]] == [2, 2]
    assert len(result["notes"]) == 3
    assert "random weights" in (out / "report.html").read_text()


@pytest.mark.parametrize("broken", ["missing", "torchvision"])
def test_command_without_the_library(
    broken: str, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_anomalib.install(monkeypatch)
    if broken == "missing":
        monkeypatch.setitem(sys.modules, "anomalib", None)
    else:
        # An import that fails half-way, as with a torchvision of another build.
        monkeypatch.delattr(sys.modules["lightning.pytorch"], "Trainer")
    out = tmp_path / "out"
    arguments = ["compare", cohort, "--out", out, "--method", "memory-bank"]
    error = run(tmp_path, *arguments, "--anomalib", "padim", code=1)["error"]
    if broken == "missing":
        assert "anomalib is not installed" in error
        assert 'pip install "napari-spatial-ar[anomalib]"' in error
    else:
        assert "anomalib does not import here" in error
        assert "torchvision" in error
    assert "\n" not in error
    assert not out.exists()  # said before the first method was fitted


@pytest.mark.skipif(find_spec("anomalib") is None, reason="anomalib is not installed")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "text",
    [
        "padim:pre_trained=false,size=64",
        "patchcore:pre_trained=false,backbone=resnet18,size=64,coreset_sampling_ratio=0.05",
        "reverse-distillation:pre_trained=false,backbone=resnet18,size=64,epochs=1",
        "draem:dtd_dir=none,size=32,epochs=1",
    ],
)
def test_the_library_itself(text: str, cohort: Path, tmp_path: Path) -> None:
    compared = fitted(cohort, tmp_path, text)
    again = fitted(cohort, tmp_path, text)
    image = np.random.default_rng(0).integers(0, 255, (40, 48)).astype(np.uint8)
    one, two = (r.models[0].score_slice(image) for r in (compared, again))
    np.testing.assert_allclose(one.nll, two.nll, rtol=1e-4)
    assert np.isfinite(one.nll).all()
    assert one.nll.std() > 0
    frozen = METHODS[text.partition(":")[0]].frozen
    (model,) = compared.models
    whole = sum(t.nbytes for t in model.detector.network.state_dict().values())  # type: ignore[attr-defined]
    assert 0 < model_bytes(model) <= whole
    assert (model_bytes(model) < whole) == bool(frozen)
    figures = compare(cohort, [compared], fpr=0.1, draws=5).results[0].measured[0].evaluation
    assert figures.pixel_aupr is not None
