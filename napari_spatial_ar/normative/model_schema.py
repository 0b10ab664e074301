"""Schema of the JSON in a model file: its fields, their types and limits.

A model file may come from anywhere. Its header is validated against this schema before it is used,
so that the rest of the program never meets text in place of a number, a size that would fill the
memory, or lists of mismatched lengths. Unknown fields belong to later versions and are ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from napari_spatial_ar.datasets.selection import SlicePlane
from napari_spatial_ar.imaging.json_text import parse_json
from napari_spatial_ar.imaging.series import Modality
from napari_spatial_ar.imaging.windows import WindowKind

__all__ = [
    "Closed",
    "Count",
    "Digest",
    "Number",
    "Part",
    "Size",
    "StoredModel",
    "Word",
    "describe_error",
    "parsed",
]

# A million slices take some 50 MB.
_LONGEST = 64 << 20

Count = Annotated[int, Field(ge=0, le=10**9)]
#: Sides and channels of images, grids and networks.
Size = Annotated[int, Field(ge=1, le=2**16)]
Share = Annotated[float, Field(ge=0, le=1)]
#: Any number used in float32 computations.
Number = Annotated[float, Field(ge=-1e30, le=1e30)]
# Losses of a training that diverged are NaN.
Loss = Annotated[float, Field(allow_inf_nan=True)]
Word = Annotated[str, Field(min_length=1, max_length=200)]
Digest = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]


class Part(BaseModel):
    """Part of the JSON: no type conversion, and no infinite or NaN numbers."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class Closed(Part):
    """Part to which later versions may not add fields without a new format version."""

    model_config = ConfigDict(extra="forbid")


class _Window(Part):
    kind: WindowKind
    low: Number
    high: Number


class _Preprocessing(Part):
    window: _Window
    size: Annotated[list[Size], Field(min_length=2, max_length=2)]
    mean: Annotated[list[Number], Field(min_length=3, max_length=3)]
    std: Annotated[list[Annotated[float, Field(gt=0, le=1e6)]], Field(min_length=3, max_length=3)]
    clahe: Share = 0.0
    tile: Annotated[int, Field(ge=0, le=2**16)] = 0
    skip_air: bool = False


class _Backbone(Closed):
    name: Word
    layers: Annotated[list[Annotated[int, Field(ge=1, le=1000)]], Field(max_length=1000)]
    sha256: Digest
    fuse: Literal["concat", "mean"] = "concat"


class _Scoring(Closed):
    smoothing: Annotated[int, Field(ge=1, le=999)]
    top_share: Share
    smoothing_z: Annotated[float, Field(ge=0, le=1000)] = 0.0

    @model_validator(mode="after")
    def _odd(self) -> _Scoring:
        if self.smoothing % 2 == 0:
            raise ValueError(f"smoothing is an odd number, not {self.smoothing}")
        return self


class _Selection(Closed):
    plane: SlicePlane = "as-acquired"
    slice_range: Annotated[list[Share], Field(min_length=2, max_length=2)] = [0.0, 1.0]
    min_body: Share = 0.1


class _Peaks(Part):
    sizes: Annotated[list[Share], Field(min_length=1)]
    scores: list[list[Number]]


class _Regions(Part):
    per: Literal["scan", "slice"]
    scans: Annotated[int, Field(ge=1, le=10**9)]
    thresholds: Annotated[list[Number], Field(min_length=1)]
    unit: Literal["mm3", "voxels"]
    sizes: Annotated[list[Annotated[float, Field(ge=0, le=1e30)]], Field(min_length=1)]
    counts: list[list[Annotated[float, Field(ge=0, le=1e30)]]]


class _Calibration(Part):
    fpr: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)]
    thresholds: list[Number]
    image_scores: list[Number]
    slices: Count
    patients: Count
    image_patients: list[Count] = []
    patient_fpr: list[list[Share]] = []
    separate: bool = False
    folds: Count = 0
    patient_peaks: _Peaks | None = None
    normal_regions: _Regions | None = None

    @model_validator(mode="after")
    def _fits(self) -> _Calibration:
        levels = len(self.fpr)
        peaks = self.patient_peaks.scores if self.patient_peaks else []
        if len(self.thresholds) != levels:
            raise ValueError(f"{levels} shares of tissue have {len(self.thresholds)} thresholds")
        if any(a <= b for a, b in zip(self.fpr, self.fpr[1:], strict=False)):
            raise ValueError("shares of tissue must fall")
        if any(a > b for a, b in zip(self.thresholds, self.thresholds[1:], strict=False)):
            raise ValueError("thresholds must rise")
        if self.slices != len(self.image_scores):
            raise ValueError(f"{self.slices} slices have {len(self.image_scores)} image scores")
        if self.image_patients and len(self.image_patients) != self.slices:
            raise ValueError(f"{self.slices} slices have {len(self.image_patients)} patients")
        if any(number >= self.patients for number in self.image_patients):
            raise ValueError("a slice belongs to a patient who is not counted")
        if self.patient_fpr and len(self.patient_fpr) != self.patients:
            raise ValueError(f"{self.patients} patients have {len(self.patient_fpr)} rows")
        if any(len(row) != levels for row in self.patient_fpr):
            raise ValueError(f"a patient does not have the {levels} shares of tissue")
        if self.patient_peaks and len(peaks) != self.patients:
            raise ValueError(f"{self.patients} patients have the highest scores of {len(peaks)}")
        return self


class _SeenSlices(Part):
    centre: Annotated[list[Number], Field(min_length=1, max_length=512)]
    axes: Annotated[list[list[Number]], Field(min_length=1, max_length=64)]
    kinds: Annotated[list[list[Number]], Field(min_length=1, max_length=256)]
    softness: Annotated[float, Field(gt=0, le=1e30)]
    slices: Annotated[list[list[Number]], Field(min_length=1, max_length=4096)]
    limit: Annotated[float, Field(gt=0, le=1e30)]
    least_body: Share

    @model_validator(mode="after")
    def _fits(self) -> _SeenSlices:
        for rows, of, length in (
            (self.axes, "an axis", len(self.centre)),
            (self.kinds, "a kind", len(self.axes)),
            (self.slices, "a slice", len(self.kinds)),
        ):
            if any(len(row) != length for row in rows):
                raise ValueError(f"{of} does not have {length} numbers")
        return self


class _Looks(Part):
    patients: Count
    slices: Count
    quantiles: dict[Word, Annotated[list[Number], Field(min_length=5, max_length=5)]]
    mean_embedding: list[Number]
    seen_slices: _SeenSlices | None = None


class _Acquired(Part):
    plane: dict[Word, Count] = {}
    sequence: dict[Word, Count] = {}
    contrast_agent: dict[Word, Count] = {}
    kernel: dict[Word, Count] = {}


class _Training(Part):
    """The fields that programs read; a method may add its own."""

    images: Count = 0
    subjects: Count = 0
    valid_images: Count = 0
    valid_subjects: Count = 0
    calibration_images: Count = 0
    calibration_subjects: Count = 0
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] = 0
    epochs: Count = 0
    best_epoch: Count = 0
    best_nll: Loss = 0.0
    seconds: Annotated[float, Field(ge=0)] = 0.0
    history: dict[Word, list[Loss]] = {}
    slice_keys: dict[Word, list[Word]] = {}
    versions: dict[Word, str] = {}
    warnings: list[str] = []
    excluded: list[str] = []
    options: dict[Word, JsonValue] = {}

    @model_validator(mode="before")
    @classmethod
    def _in_pairs(cls, values: object) -> Any:
        for one, other in (
            ("images", "subjects"),
            ("valid_images", "valid_subjects"),
            ("calibration_images", "calibration_subjects"),
            ("best_nll", "best_epoch"),
        ):
            if isinstance(values, dict) and one in values and other not in values:
                raise ValueError(f"{one} without {other}")
        return values


class _Header(Part):
    format_version: Annotated[int, Field(ge=1)]
    method: Word
    parameters: dict[Word, JsonValue]
    modality: Modality
    backbone: _Backbone
    preprocessing: _Preprocessing
    selection: _Selection = _Selection()
    scoring: _Scoring
    training: _Training
    calibration: _Calibration | None
    part_calibrations: dict[Word, _Calibration] = {}
    looks: _Looks | None = None
    acquired: _Acquired | None = None


class StoredModel(Part):
    """The complete JSON, as written by `model_file.write`."""

    header: _Header
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    seconds: Annotated[float, Field(ge=0)] = 0.0


def parsed(text: str) -> Any:
    """Parse JSON to plain values.

    Raises
    ------
    ValueError
        If it is invalid, too long, or nested too deeply.
    """
    if len(text) > _LONGEST:
        raise ValueError(f"it is longer than {_LONGEST >> 20} MB")
    return parse_json(text)


def describe_error(error: ValueError) -> str:
    """Describe what is wrong with JSON, as a clause with the location but without the value."""
    if not isinstance(error, ValidationError):
        return f"its header cannot be read: {error}"
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "its header"
    if first["type"] == "missing":
        return f"{where} is missing"
    what = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{where} {what}" if what.startswith("should") else f"{where}: {what}"
