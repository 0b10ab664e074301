"""A fit's settings as a file: whole, readable, and honest about what it cannot read."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch

import napari_spatial_ar as nsar
from napari_spatial_ar.datasets.survey import survey
from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.windows import CT_PRESETS, Window, default_window
from napari_spatial_ar.normative.backbones.weights import default_backbone
from napari_spatial_ar.normative.detectors import DETECTORS, SpatialARChange
from napari_spatial_ar.normative.fitting.config import (
    DEFAULT_METHOD,
    NETWORK_SETTINGS,
    FitConfig,
)
from napari_spatial_ar.normative.fitting.recipe import read_recipe, write_recipe
from napari_spatial_ar.steps import finish

EVERYTHING: dict[str, Any] = {
    "folders": ("/scans/one", '/scans/"two" \u00e4; \\three'),
    "exclude": ("b" * 64, "a" * 64),
    "modality": "ct",
    "plane": "coronal",
    "slice_range": (0.25, 0.75),
    "min_body": 0.2,
    "window": Window("fixed", -20.5, 70),
    "size": "448x896",
    "tile": 224,
    "clahe": 0.02,
    "skip_air": False,
    "backbone": "dinov2_vits14",
    "layers": "last4",
    "fuse": "mean",
    "weights": "/weights/mine.pth",
    "method": "spatial-ar",
    "options": {"epochs": 3, "context": "bidirectional"},
    "seed": 7,
    "smoothing": 5,
    "top_share": 0.05,
    "valid_fraction": 0.5,
    "calibration_fraction": 0.25,
    "patient_pattern": r"sub-\d+",
    "acquired": "axial FLAIR",
}


def test_what_is_left_out_is_filled_in() -> None:
    assert set(NETWORK_SETTINGS) < set(DETECTORS["spatial-ar"].options())
    assert FitConfig().backbone == default_backbone()
    assert FitConfig().method == DEFAULT_METHOD == SpatialARChange.name
    assert FitConfig().options == SpatialARChange.options()
    assert FitConfig().window == default_window("mri")
    for name, field in FitConfig.model_fields.items():
        assert field.description, name


def test_the_network_is_chosen_by_its_settings() -> None:
    config = FitConfig.of("/scans", epochs=3, dilation=None, window=None)
    assert (config.folders, config.method) == (("/scans",), "spatial-ar")
    assert config.chosen_options == {"epochs": 3}
    other = FitConfig.of(["/a", Path("/b")], epochs=3, method="memory-bank")
    assert (other.folders, other.chosen_options) == (("/a", "/b"), {})


def test_a_fit_names_its_settings() -> None:
    parameters = signature(nsar.fit).parameters
    assert {*FitConfig.model_fields} - {"folders"} < set(parameters)
    assert parameters["tile"].default == 0


def test_what_is_written_is_read(tmp_path: Path) -> None:
    recipe = FitConfig(**EVERYTHING)
    assert set(recipe.differs(FitConfig())) == set(EVERYTHING), (
        "the case has a value of each of its own"
    )
    write_recipe(tmp_path / "r.toml", recipe)
    assert read_recipe(tmp_path / "r.toml") == recipe
    write_recipe(tmp_path / "r.toml", FitConfig())
    assert read_recipe(tmp_path / "r.toml") == FitConfig()


def test_defaults_are_written_out(tmp_path: Path) -> None:
    write_recipe(tmp_path / "r.toml", FitConfig(modality="ct", method="memory-bank"))
    text = (tmp_path / "r.toml").read_text()
    assert text.startswith("# Settings of a fit: napari-spatial-ar fit --recipe")
    assert "coreset = 1.0" in text
    recipe = read_recipe(tmp_path / "r.toml")
    assert recipe.window == CT_PRESETS["soft tissue"]
    assert recipe.options == DETECTORS["memory-bank"].options()


def test_paths_start_at_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/of")
    (tmp_path / "in").mkdir()
    folders = 'folders = ["normals", "~/scans", "/abs"]\nweights = "w.pth"'
    (tmp_path / "in" / "r.toml").write_text(f"schema = 1\n{folders}")
    recipe = read_recipe(Path("in") / "r.toml")
    assert recipe.folders == (str(tmp_path / "in" / "normals"), "/home/of/scans", "/abs")
    assert recipe.weights == str(tmp_path / "in" / "w.pth")
    write_recipe("elsewhere.toml", FitConfig(folders=("normals",)))
    assert read_recipe("elsewhere.toml").folders == (str(tmp_path / "normals"),)


def test_a_recipe_of_an_earlier_version_asks_for_what_that_did(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(
        "schema = 1\nmethod = 'change-novelty'\n"
        "[options]\nweight = 0.5\nslices = 300\nrows = 16384\n"
    )
    assert read_recipe(path).options == {"weight": 0.5, "slices": 300, "rows": 16384, "means": 0}
    # One written by hand names what is to differ from the defaults.
    path.write_text("schema = 1\n[options]\nweight = 0.75\n")
    defaults = DETECTORS[DEFAULT_METHOD].options()
    assert read_recipe(path).options == {**defaults, "weight": 0.75}


def test_settings_given_win() -> None:
    saved = FitConfig(method="spatial-ar", options={"epochs": 9, "dilation": 1}, seed=4)
    changed = saved.changed({"epochs": 2, "smoothing": 5})
    assert saved.differs(changed) == ["options", "smoothing"]
    assert changed.options == {**saved.options, "epochs": 2}
    named = saved.changed({"method": "spatial-ar", "options": {"dilation": 4}, "epochs": 2})
    assert named.options == {**saved.options, "epochs": 2, "dilation": 4}
    other = saved.changed({"method": "memory-bank", "epochs": 2})
    assert other.options == DETECTORS["memory-bank"].options()
    assert other.seed == 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("schema = 2", "'schema' is 2, but this version reads recipes of schema 1. Update"),
        ("schema = true", "'schema' is True"),
        ("seed = 1", "it has no 'schema'"),
        ("schema = 1\nsede = 1", "'sede' is not a setting of a fit: choose from folders, modality"),
        ("schema = 1\nepochs = 1", "'epochs' is not a setting"),
        ('schema = 1\nseed = "1"', "seed must be a whole number, not '1'"),
        ("schema = 1\nseed = true", "seed must be a whole number, not True"),
        ("schema = 1\nclahe = 1979-05-27", "clahe must be a number, not"),
        ('schema = 1\nfolders = "in"', "folders must be a list of texts, not"),
        ("schema = 1\nfolders = [1]", "folders must be a list of texts, not"),
        ('schema = 1\nwindow = "brain"', "window must be a table"),
        ('schema = 1\nwindow = {kind = "fixed", lo = 1}', "window has no 'low'"),
        ('schema = 1\nwindow = {kind = "fixed", low = "a"}', "low must be a number, not 'a'"),
        ('schema = 1\nwindow = {kind = "fixed", low = 1}', "window has no 'high'"),
        ('schema = 1\nwindow = {kind = "fixed", low = 1, high = 1}', "1.0 to 1.0 is empty"),
        ('schema = 1\nmodality = "pet"', "modality must be mri, ct or oct, not 'pet'"),
        ('schema = 1\nmethod = "oracle"', "no method 'oracle'"),
        ('schema = 1\nfuse = "sum"', "fuse must be concat or mean, not 'sum'"),
        ('schema = 1\nacquired = "FLARE"', "FLARE"),
        ("schema = 1\nsize = true", "'True' is not a size"),
        ("schema = 1\ntop_share = 2", "top_share must be at most 1, not 2"),
        ("schema = 1\ncalibration_folds = 1", "calibration_folds must be 0 or at least 2"),
        ("schema = 1\n[options]\nepochs = 1", "no option 'epochs'"),
        ('schema = 1\n[options]\nweight = "1"', "option 'weight'.* must be a number, not"),
        ("schema = 1\nsize = 4.5", "'4.5' is not a size"),
        ('schema = 1\nlayers = "none"', "which blocks to read"),
        ("schema = 1\nsmoothing = 2", "smoothing must be an odd number"),
        ("schema = 1\nseed = -1", "seed must be at least 0, not -1"),
        ("schema = 1\ntop_share = nan", "top_share must be at most 1, not nan"),
        ("schema = 1\nvalid_fraction = 1", "valid_fraction must be a share between 0 and 1"),
        ("schema = 1\ncalibration_fraction = 0.8", "calibration_fraction must be .* less than 0.8"),
        (
            'schema = 1\nplane = "oblique"',
            "axial, coronal or sagittal, not 'oblique'",
        ),
        ("schema = 1\nslice_range = 0.5", "'0.5' is not a part of a stack"),
        ("schema = 1\nslice_range = [0.8, 0.2]", "'0.8:0.2' is not a part of a stack"),
        ('schema = 1\nslice_range = "0.2:1.1"', "'0.2:1.1' is not a part of a stack"),
        ("schema = 1\nmin_body = nan", "min_body must be a share"),
        ("schema = 1\nclahe = nan", "clip limit of CLAHE"),
        ("schema = ", "it is no recipe: "),
        (b"\xff\xfe", "it is no recipe: "),
    ],
)
def test_what_cannot_be_read_is_one_sentence(tmp_path: Path, text: Any, words: str) -> None:
    path = tmp_path / "r.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=words) as caught:
        read_recipe(path)
    assert caught.value.path == path
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(InputError, match="recipe cannot be read"):
            read_recipe(path)


def test_a_folder_without_a_text_for_a_name_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written as text"):
        write_recipe(tmp_path / "r.toml", FitConfig(folders=("/scans/\udcff",)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "spatial-ar", "options": {"epochs": 2, "dilation": 1}, "seed": 3},
        {"method": "memory-bank", "valid_fraction": 0.5, "clahe": 0.02, "layers": (1, 2)},
        {"method": "memory-bank", "calibration_fraction": 0.25, "min_body": 0.3},
    ],
)
def test_the_fit_of_a_recipe_is_the_fit_itself(
    tmp_path: Path,
    normal_slices: Path,
    tiny_weights: Path,
    tiny_name: str,
    settings: dict[str, Any],
) -> None:
    series = finish(survey(normal_slices)).series
    settings = {"backbone": tiny_name, "size": 64, "exclude": {series[1].key}, **settings}
    model = nsar.fit(normal_slices, out=tmp_path / "a" / "m", device="cpu", **settings)
    assert model.header.training["excluded"] == [series[1].key]
    write_recipe(tmp_path / "r.toml", FitConfig(folders=(str(normal_slices),), **settings))
    recipe = read_recipe(tmp_path / "r.toml")
    again = nsar.fit(recipe.folders, out=tmp_path / "b" / "m", device="cpu", **recipe.settings())
    for name, tensor in model.detector.tensors().items():
        assert torch.equal(tensor, again.detector.tensors()[name])
    assert again.sha256 == model.sha256, "the header says the same too"


def test_a_series_that_is_not_there_cannot_be_left_out(normal_slices: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no series there has the key 'abc'"):
        nsar.fit(normal_slices, exclude={"abc"}, out=tmp_path / "m")
