"""A model that scores in no time, held against `ScoringModel` by mypy."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from napari_spatial_ar.datasets.selection import Selection, SlicePlane
from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.geometry import Plane
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.windows import Window
from napari_spatial_ar.normative.heatmap import Scoring
from napari_spatial_ar.normative.model_file import BackboneRef, ModelHeader
from napari_spatial_ar.normative.preprocessing import Preprocessing
from napari_spatial_ar.normative.scores import ScanScores, SliceScore
from napari_spatial_ar.normative.scoring_model import ScoringModel

__all__ = ["FakeModel", "fake_header"]


def fake_header(**changes: Any) -> ModelHeader:
    """Header of a model without calibration; ``changes`` are fields of it."""
    header = ModelHeader(
        method="fake",
        parameters={},
        modality="mri",
        backbone=BackboneRef("fake-backbone", (), ""),
        preprocessing=Preprocessing(Window("percentile", 0.5, 99.5)),
        scoring=Scoring(),
    )
    return replace(header, **changes)


@dataclass
class FakeModel:
    """Scores a pixel ``base`` + grey / 100, in nats per dimension."""

    name: str = "fake"
    header: ModelHeader = field(default_factory=fake_header)
    sha256: str = ""
    unit: str = "nats per dimension"
    modality: str = "mri"
    plane: Plane | None = None
    notes: list[str] = field(default_factory=list)
    engine: str = ""
    backbone: Any = field(default_factory=lambda: SimpleNamespace(source=""))
    backbone_weights: dict[str, Any] = field(default_factory=dict)
    lock: Any = None
    detector: Any = None
    device: Any = None
    base: float = 1.0
    #: Whether it knows shares of normal tissue by a formula, whatever its header says.
    calibrated: bool = True
    #: Raised by the next slice, or by the slice ``fails_at``.
    error: Exception | None = None
    fails_at: int | None = None
    #: Where given, each slice waits for one release.
    gate: threading.Semaphore | None = None
    #: Slices that were asked for.
    asked: list[int] = field(default_factory=list)
    #: How far each slice is from the training slices, if that is known.
    strange: Sequence[float] = ()
    #: Models of its parts alone, by name.
    alone: dict[str, FakeModel] = field(default_factory=dict)

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.alone)

    def part(self, name: str) -> FakeModel:
        return self.alone[name]

    def scores_of(self, part: str, scores: ScanScores) -> ScanScores:
        found = ScanScores.empty(scores.geometry)
        for index, parts in scores.parts.items():
            found.put(index, SliceScore(parts[part], None, float(parts[part].max())))
        return found

    def cut(self, volume: Scan, plane: SlicePlane | None = None) -> Scan:
        return volume.along(self.plane if plane is None else Selection(plane).cut)

    def iter_volume(
        self, volume: Scan, slices: Sequence[int] | None = None
    ) -> Iterator[tuple[int, SliceScore]]:
        for index in range(volume.geometry.slice_count) if slices is None else slices:
            if self.error is not None:
                raise self.error
            if index == self.fails_at:
                raise InputError("the slice is damaged")
            if self.gate is not None:
                self.gate.acquire(timeout=5)
            self.asked.append(index)
            nll = (self.base + volume.slice(index) / 100).astype(np.float32)
            # The patches of this fake are pixels.
            parts = {name: nll - self.base + model.base for name, model in self.alone.items()}
            strange = self.strange[index] if self.strange else float("nan")
            yield index, SliceScore(nll, nll[:2, :2], float(nll.max()), parts, strange)

    def threshold_for_fpr(self, fpr: float) -> float:
        if not self.calibrated:
            raise InputError("no calibration")
        if not 0.001 <= fpr <= 0.5:
            raise InputError("not calibrated for this share")
        return float(1.0 - 0.25 * np.log10(fpr))

    def fpr_for_threshold(self, threshold: float) -> float:
        if not self.calibrated:
            raise InputError("no calibration")
        return float(np.clip(10 ** ((1.0 - threshold) / 0.25), 0.001, 0.5))


_HELD_AGAINST: type[ScoringModel] = FakeModel
