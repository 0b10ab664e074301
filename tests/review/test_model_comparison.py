"""Two models on one scan, with heatmaps known by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.series import Series
from napari_spatial_ar.imaging.windows import Window
from napari_spatial_ar.normative.calibration.acquired import Acquired
from napari_spatial_ar.normative.calibration.calibration import Calibration
from napari_spatial_ar.normative.preprocessing import Preprocessing
from napari_spatial_ar.normative.scores import SliceScore
from napari_spatial_ar.review.model_comparison import compare_models, comparison_steps
from tests.fake_model import FakeModel, fake_header
from tests.json_check import check

CALIBRATION = Calibration((0.5, 0.01, 0.001), (1.0, 2.0, 3.0), (1.0,), slices=1, patients=1)


@pytest.fixture
def head() -> Scan:
    """Body in the middle of each of 3 slices."""
    data = np.zeros((3, 20, 20), np.float32)
    data[:, 5:15, 5:15] = 200 + np.arange(100).reshape(10, 10) / 2
    geometry = Geometry(data.shape, np.diag([-1.0, -1.0, 2.0, 1.0]))
    return Scan(data, geometry, "mri", Series("MR series 1"), intensity="grey8")


def model(
    name: str,
    heat: np.ndarray,
    calibration: Calibration | None = CALIBRATION,
    plane: str = "axial",
) -> Any:
    """Model that gives one heatmap, whatever it is shown; the last slice is not scored."""

    def iter_volume(volume: Scan, slices: Sequence[int]) -> Iterator[tuple[int, SliceScore]]:
        for index, top in enumerate((heat.max(), heat.max() + 1)):
            yield index, SliceScore(nll=heat, grid=heat[:1, :1], image_score=top)
        yield 2, SliceScore(nll=0 * heat, grid=heat[:1, :1], image_score=float("nan"))

    header = fake_header(
        calibration=calibration,
        preprocessing=Preprocessing(Window("full8")),
        acquired=Acquired(plane={plane: 3}),
    )
    made: Any = FakeModel(name, header)
    made.iter_volume = iter_volume
    return made


def ramp() -> np.ndarray:
    """Rises over the body from 0.5 to 2.5, and is high outside of it, which must not count."""
    heat = np.full((20, 20), 9.0, np.float32)
    heat[5:15, 5:15] = np.linspace(0.5, 2.5, 100).reshape(10, 10)
    return heat


def test_the_same_heatmap_in_another_unit_agrees(head: Scan, tmp_path: Path) -> None:
    """Ten times the scores, and thresholds ten times as high: the same in shares of tissue."""
    tens = replace(CALIBRATION, thresholds=(10.0, 20.0, 30.0))
    models = model("a", ramp()), model("b", 10 * ramp(), tens)
    seen: list[tuple[str, int, int]] = []
    result = compare_models(*models, head, tmp_path, progress=lambda *s: seen.append(s))
    assert seen == [(name, done, 3) for name in "ab" for done in (1, 2, 3)]
    assert result.rank_correlation == pytest.approx(1)
    assert result.dice == 1
    above = int((ramp()[5:15, 5:15] > 2).sum())
    assert result.flagged_voxels == (2 * above, 2 * above)
    assert (result.unit, result.slices) == ("share of normal tissue", 2)
    # The two heatmaps look alike, and not like the scan.
    picture = np.asarray(Image.open(result.files["png"])).astype(int)
    scan, first, second = (picture[62:362, 16 + 310 * k : 316 + 310 * k] for k in range(3))
    assert np.array_equal(first, second)
    assert np.abs(first - scan).max() > 50
    written = json.loads(result.files["json"].read_text())
    check(written, "model-comparison")
    del written["schema"]
    assert written == result.to_dict()


def test_opposite_heatmaps_do_not(head: Scan, tmp_path: Path) -> None:
    result = compare_models(model("a", ramp()), model("b", 3 - ramp()), head, tmp_path, share=0.01)
    assert result.rank_correlation == pytest.approx(-1)
    assert result.dice == 0
    assert result.shift_warnings == ()


def test_a_scan_that_does_not_fit_a_model_is_said_of_that_model(head: Scan, tmp_path: Path) -> None:
    other = model("b", ramp(), plane="coronal")
    (said,) = compare_models(model("a", ramp()), other, head, tmp_path).shift_warnings
    assert said.startswith(
        "b: This scan differs from those the model was trained on: its slices are"
    )


def test_without_calibration_ranks_are_compared(head: Scan, tmp_path: Path) -> None:
    rising = ramp() ** 3
    result = compare_models(model("a", ramp()), model("b", rising, None), head, tmp_path, share=0.1)
    assert result.unit == "rank in this scan"
    assert result.rank_correlation == pytest.approx(1)
    assert result.flagged_voxels == (20, 20)
    assert result.dice == 1


def test_what_cannot_be_compared(head: Scan, tmp_path: Path) -> None:
    flat = np.zeros((20, 20), np.float32)
    result = compare_models(model("a", flat), model("b", ramp() - 5), head, tmp_path)
    assert (result.rank_correlation, result.dice) == (None, None)
    with pytest.raises(InputError, match="comparison already exists"):
        compare_models(model("a", flat), model("b", flat), head, tmp_path)
    with pytest.raises(InputError, match="not calibrated"):
        compare_models(model("a", flat), model("b", flat), head, tmp_path / "x", share=1e-9)
    assert not (tmp_path / "x").exists()
    coronal = model("c", flat)
    coronal.cut = lambda volume: volume.along("coronal")
    with pytest.raises(InputError, match="'a' scores axial slices of this scan but 'c' coronal"):
        compare_models(model("a", flat), coronal, head, tmp_path / "x")
    nothing = model("a", flat)
    nothing.iter_volume = lambda volume, slices: iter(())
    with pytest.raises(InputError, match="nothing to compare"):
        compare_models(nothing, model("b", flat), head, tmp_path / "x")


def test_a_comparison_that_is_stopped_leaves_nothing(head: Scan, tmp_path: Path) -> None:
    steps = comparison_steps(model("a", ramp()), model("b", ramp()), head, tmp_path / "out")
    assert next(steps) == ("a", 1, 3)
    steps.close()
    assert not (tmp_path / "out").exists()
