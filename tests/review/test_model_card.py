"""The card that a fit writes: true to the model, and silent about patients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from PIL import Image

import napari_spatial_ar as nsar
from napari_spatial_ar.errors import InputError
from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.detectors import DETECTORS
from napari_spatial_ar.normative.library import card_files
from napari_spatial_ar.normative.model import NormativeModel
from napari_spatial_ar.normative.model_file import read_header
from napari_spatial_ar.paths import released_models_dir
from napari_spatial_ar.review.drawing import ACCENT, Line, line_plot
from napari_spatial_ar.review.model_card import write_model_card
from tests.normative.test_model import build
from tests.tiny import TINY

RELEASED = released_models_dir() or Path()


def fitted(folder: Path, out: Path, backbone: Backbone, method: str) -> NormativeModel:
    return nsar.fit(
        folder,
        out=out / "DoeJane",
        backbone=backbone,
        method=method,
        size=(64, 64),
        epochs=2,
        batch_size=4,
        device="cpu",
    )


@pytest.mark.parametrize("method", ["spatial-ar", "patch-gaussian"])
def test_what_a_fit_writes(
    normal_slices: Path, tmp_path: Path, tiny_backbone: Backbone, method: str
) -> None:
    for path in normal_slices.iterdir():
        path.rename(path.with_name(path.name.replace("patient", "DoeJane")))
    model = fitted(normal_slices, tmp_path, tiny_backbone, method)
    # The middle slice of the one held-out patient, and the highest of all.
    assert len(model.examples) == 2
    assert model.examples[1].image_score == max(model.calibration.image_scores)
    card = write_model_card(model)
    assert card == tmp_path / "DoeJane" / "README.md"
    text = card.read_text()
    loaded = ModelCard.load(card)
    assert loaded.data.library_name == "napari-spatial-ar"
    assert {"mri", method, "anomaly-detection"} <= set(loaded.data.tags)
    assert loaded.data.backbone == TINY
    assert loaded.text.lstrip().startswith("<!-- written by napari-spatial-ar -->")
    assert "For research use, not for diagnosis" in text
    assert "9 normal slices of 3 patients" in text
    assert "3 slices of 1 patient," in text
    assert "the smallest is 0.500" in text
    assert f"in each patient: {model.calibration.peaks.scores[0][0]:.4g}." in text
    assert DETECTORS[method].summary in text
    assert model.sha256[:16] in text
    assert "Doe" not in text
    assert str(tmp_path) not in text
    wanted = {"README.md", "calibration.png", "examples.png"}
    wanted |= {"losses.png"} if method == "spatial-ar" else set()
    assert {file.name for file in card_files(card.parent)} == wanted
    assert ("epoch" in text.split("## Calibration")[0]) is (method == "spatial-ar")
    for threshold in model.calibration.thresholds:
        assert f"| {threshold:.4g} |" in text
    # The last example's heatmap is drawn over its slice.
    picture = np.asarray(Image.open(card.parent / "examples.png")).astype(int)
    last = picture[-250:-10]
    assert np.abs(last[:, 10:250] - last[:, 260:500]).max() > 50


@pytest.mark.parametrize("path", sorted(RELEASED.glob("*/README.md")), ids=lambda p: p.parent.name)
def test_metadata_of_released_cards_loads(path: Path) -> None:
    card = ModelCard.load(path)
    assert card.data.library_name == "napari-spatial-ar"
    assert card.data.license
    model = path.with_name("model.safetensors")
    if model.exists():
        header, _ = read_header(model)
        assert {header.modality, header.method} <= set(card.data.tags)
        assert card.data.backbone == header.backbone.name
    assert card.text.lstrip().startswith("# ")


@pytest.mark.parametrize("name", ["brain-flair", "liver-ct"])
def test_released_cards_have_the_sections_that_are_generated(name: str) -> None:
    text = (RELEASED / name / "README.md").read_text(encoding="utf-8")
    for section in ("figures", "calibration"):
        inside = text.partition(f"<!-- {section} -->\n")[2].partition(
            f"\n<!-- end of {section} -->"
        )
        assert "| --- |" in inside[0]
        assert inside[1]


def test_pictures_of_an_earlier_model_do_not_stay(tiny_backbone: Backbone, tmp_path: Path) -> None:
    model = build(tiny_backbone)
    with pytest.raises(InputError, match="not saved"):
        write_model_card(model)
    model.save(tmp_path)
    for name in ("examples.png", "losses.png"):
        (tmp_path / name).write_bytes(b"of another model")
    write_model_card(model)
    assert {file.name for file in tmp_path.glob("*.png")} == {"calibration.png"}
    write_model_card(build_without_calibration(tiny_backbone, tmp_path))
    assert not list(tmp_path.glob("*.png"))
    assert "## Calibration" not in (tmp_path / "README.md").read_text()


def build_without_calibration(backbone: Backbone, folder: Path) -> NormativeModel:
    model = build(backbone, calibration=None)
    model.save(folder)
    return model


def test_a_card_that_a_person_wrote_stays(tiny_backbone: Backbone, tmp_path: Path) -> None:
    model = build(tiny_backbone)
    model.save(tmp_path)
    (tmp_path / "README.md").write_text("# Mine")
    assert write_model_card(model) is None
    assert (tmp_path / "README.md").read_text() == "# Mine"
    assert not list(tmp_path.glob("*.png"))


def test_lines_go_where_the_numbers_say() -> None:
    picture = line_plot([Line([0, 1], [1, 3])], title="", x_label="", y_label="")
    pixels = np.asarray(picture)
    rows, columns = np.nonzero((pixels == ACCENT).all(axis=2))
    assert columns[rows.argmin()] > 700, "the highest value is on the right"
    assert columns[rows.argmax()] < 120, "the lowest on the left"
    logarithmic = [Line([0, 1, 2], [0.1, 0.0, 0.001])]
    line_plot(logarithmic, title="", x_label="", y_label="", log_y=True)
    line_plot([Line([1], [2])], title="", x_label="", y_label="")
    line_plot([Line([], [])], title="", x_label="", y_label="")
