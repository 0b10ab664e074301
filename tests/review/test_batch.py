"""Which scans of the inputs are scored, and what is said of the others."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pydicom
import pytest

from napari_spatial_ar.errors import InputError, MemoryShortage
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.review import batch
from tests.fake_model import FakeModel
from tests.scans import build_image


def write_series(folder: Path, number: int, image_type: list[str], rows: int = 6) -> None:
    folder.mkdir(parents=True)
    for k in range(4):
        dataset = build_image(
            np.arange(rows * 7, dtype=np.uint16).reshape(rows, 7) + k,
            SeriesInstanceUID=f"1.2.{number}",
            SeriesNumber=number,
            ImageType=image_type,
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            ImagePositionPatient=[0, 0, 2 * k],
            PixelSpacing=[1, 1],
            SliceThickness=2,
        )
        pydicom.dcmwrite(folder / f"{k}.dcm", dataset, enforce_file_format=True)


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What would be scored: (series, folder's name). No model is needed."""
    calls: list[tuple[str, str]] = []
    backbone = SimpleNamespace(source="here", engine="float32")
    model: Any = FakeModel("brain", sha256="ab", backbone=backbone)
    model.use_engine = lambda engine: None

    def score(volume: Scan, loaded: Any, folder: Path, **options: Any) -> dict[str, Any]:
        if volume.series.label == "MR series 13":
            raise InputError("is damaged")
        calls.append((volume.series.label, folder.name))
        return {"series": volume.series.label}

    monkeypatch.setattr(batch, "load_model", lambda *_, **__: model)
    monkeypatch.setattr(batch, "score_scan", score)
    return calls


def test_localizers_and_derived_series_are_left_out_unless_asked(
    tmp_path: Path, scored: list[tuple[str, str]]
) -> None:
    write_series(tmp_path / "in" / "a", 1, ["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_series(tmp_path / "in" / "b", 4, ["ORIGINAL", "PRIMARY"])
    write_series(tmp_path / "in" / "c", 5, ["DERIVED", "SECONDARY", "MIP"])
    result = batch.score_scans([tmp_path / "in"], "brain", tmp_path / "out", threshold=1)
    assert scored == [("MR series 4", "mr-series-4")]
    assert result["left_out"] == [
        "MR series 1 is a localizer and was excluded.",
        "MR series 5 is derived and was excluded.",
    ]
    scored.clear()
    batch.score_scans([tmp_path / "in"], "brain", tmp_path / "out", threshold=1, every_series=True)
    assert sorted(scored) == [(f"MR series {n}", f"mr-series-{n}") for n in (1, 4, 5)]
    scored.clear()
    batch.score_scans([tmp_path / "in" / "a"], "brain", tmp_path / "out", threshold=1)
    assert scored == [("MR series 1", "mr-series-1")]


def test_one_bad_scan_does_not_stop_the_others(
    tmp_path: Path, scored: list[tuple[str, str]]
) -> None:
    write_series(tmp_path / "in" / "a", 13, ["ORIGINAL", "PRIMARY"])
    write_series(tmp_path / "in" / "b", 4, ["ORIGINAL", "PRIMARY"])
    (tmp_path / "in" / "c.nii").write_bytes(b"no scan")
    inputs = [tmp_path / "in", tmp_path / "absent"]
    result = batch.score_scans(inputs, "brain", tmp_path / "out", threshold=1)
    assert scored == [("MR series 4", "mr-series-4")]
    assert len(result["failed"]) == 3
    for words in ("c.nii", "is damaged", "no such file"):
        assert any(words in sentence for sentence in result["failed"])
    with pytest.raises(InputError, match="is damaged"):
        batch.score_scans([tmp_path / "in" / "a"], "brain", tmp_path / "out", threshold=1)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("doe"), "could not be scored"),
        (MemoryError(), "needs more memory than is free"),
        (MemoryShortage("the scores need more memory than is free"), "the scores need more memory"),
    ],
)
def test_a_scan_that_nobody_foresaw_does_not_stop_the_others(
    tmp_path: Path,
    scored: list[tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    said: str,
) -> None:
    for number in (3, 4):
        write_series(tmp_path / "in" / str(number), number, ["ORIGINAL", "PRIMARY"])
    score = batch.score_scan

    def fail(volume: Scan, *rest: Any, **options: Any) -> dict[str, Any]:
        if volume.series.label == "MR series 3":
            raise error
        return score(volume, *rest, **options)

    monkeypatch.setattr(batch, "score_scan", fail)
    result = batch.score_scans([tmp_path / "in"], "brain", tmp_path / "out", threshold=1)
    assert scored == [("MR series 4", "mr-series-4")]
    (sentence,) = result["failed"]
    assert said in sentence
    assert "doe" not in sentence


def test_the_next_scan_is_read_while_one_is_scored(
    tmp_path: Path, scored: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        write_series(tmp_path / "in" / str(number), number + 1, ["ORIGINAL", "PRIMARY"])
    begun = [threading.Event() for _ in range(3)]
    read, score = Scan.read, batch.score_scan

    def reading(self: Scan, **options: Any) -> Scan:
        begun[int(self.series.label[-1]) - 1].set()
        return read(self, **options)

    def scoring(volume: Scan, *arguments: Any, **options: Any) -> dict[str, Any]:
        number = int(volume.series.label[-1]) - 1
        assert number == 2 or begun[number + 1].wait(10)
        if number == 0:
            assert not begun[2].is_set()
        return score(volume, *arguments, **options)

    monkeypatch.setattr(Scan, "read", reading)
    monkeypatch.setattr(batch, "score_scan", scoring)
    batch.score_scans([tmp_path / "in"], "brain", tmp_path / "out", threshold=1)
    assert [label for label, _ in scored] == [f"MR series {n}" for n in (1, 2, 3)]
