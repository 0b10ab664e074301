"""Schemas of the JSON that this program writes for machines: one model per kind of document.

Every document states its kind and that kind's version under ``schema``. Adding a field keeps the
version; removing one, or changing its meaning, raises it. The JSON Schemas in
``docs/reference/schema`` are generated from these models (``python docs/make_schemas.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["DOCUMENTS", "Document", "json_schema", "stamped"]

_PREFIX = "napari-spatial-ar/"

Unit = Field(description="Unit of the scores beside it, such as 'nats per dimension'.")
Slice = Field(description="Acquired slice, counted from 0 in file order.", ge=0)
Share = Field(description="Share of normal tissue, in [0, 1].", ge=0, le=1)


def _earlier(name: str) -> Any:
    """Earlier name of a field; present only if it is correct."""
    return Field(None, deprecated=True, description=f"Earlier name of '{name}'.")


class Part(BaseModel):
    """Part of a document. Later versions may add fields."""

    #: Whether fields beyond those declared here are allowed.
    SAYS_MORE: ClassVar[bool] = False

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, protected_namespaces=())


class Kind(Part):
    """Kind and version of a document."""

    name: str
    version: int = Field(ge=1)


class Document(Part):
    """A complete document."""

    NAME: ClassVar[str]
    VERSION: ClassVar[int] = 1

    kind: Kind = Field(alias="schema")


def stamped(document: type[Document], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a document, preceded by its kind and version."""
    schema = {"name": _PREFIX + document.NAME, "version": document.VERSION}
    return {"schema": schema, **values}


def json_schema(document: type[Document]) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a document."""
    made = document.model_json_schema(by_alias=True)
    kind = stamped(document, {})["schema"]
    made["properties"]["schema"] = {
        "type": "object",
        "properties": {key: {"const": value} for key, value in kind.items()},
        "required": list(kind),
    }
    made["$defs"].pop("Kind")
    if not made["$defs"]:
        del made["$defs"]
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:{kind['name'].replace('/', ':')}:{kind['version']}",
    }
    return head | made


# ---------------------------------------------------------------- results of a scan


class Units(Part):
    """Units of figures."""

    score: str
    nll: str | None = _earlier("score")
    centroid_ras_mm: str
    centroid_zyx: str
    slices: str


class PValues(Part):
    """How scan and slices compare with those of normal patients."""

    scan: float | None
    slices: list[float | None]
    patients: int
    smallest: float = Field(description="The smallest possible with this number of patients.")


class FoundRegion(Part):
    """A flagged region."""

    rank: int = Field(ge=1, description="Its number: 1 has the highest peak.")
    label: int = Field(
        ge=0, description="Its voxels' value in findings.nii.gz: its rank; 0 if rejected."
    )
    side: Literal["left", "right", "midline", "unknown"]
    centroid_ras_mm: tuple[float, float, float] | None
    centroid_zyx: tuple[float, float, float]
    first_slice: int = Slice
    last_slice: int = Slice
    peak_slice: int = Slice
    voxels: int = Field(ge=1)
    volume_ml: float | None
    largest_area_mm2: float | None
    longest_diameter_mm: float | None
    longest_diameter_px: float
    perpendicular_diameter_mm: float | None = None
    peak_zyx: tuple[int, int, int]
    peak_score: float
    mean_score: float
    unit: str = Unit
    peak_nll: float | None = _earlier("peak_score")
    mean_nll: float | None = _earlier("mean_score")
    name: str | None = None
    colour: str | None = Field(None, description="As #rrggbb, the same in every file.")
    tracking_id: str | None = None
    tracking_uid: str | None = Field(
        None, description="DICOM's Tracking UID: the same in every export of the same region."
    )
    status: Literal["unread", "keep", "unsure", "reject"] | None = None
    comment: str | None = None
    review_note: str | None = None
    normal_patients_as_high: int | None = None
    normal_patients_as_large: int | None = None
    normal_patients: int | None = None
    one_in_normal_patients: float | None = None
    rarity: str | None = None
    outline_refined: bool = Field(
        False, description="Whether its outline was fitted to the edges of the image."
    )


class FindingsFile(Document):
    """findings.json: the flagged regions of a scan."""

    NAME = "findings"

    research_use: str
    unit: str = Unit
    units: Units
    p_values: PValues | None
    findings: list[FoundRegion]


class Threshold(Part):
    """How scores became the mask. Scores are in its unit, 'hysteresis' too."""

    score: float
    unit: str = Unit
    nats_per_dimension: float | None = _earlier("score")
    share_of_normal_tissue_flagged: float | None = Share
    body_only: bool
    hysteresis: float | None
    smoothing_mm: float
    smoothing_pixels: float
    fill_holes: bool
    min_area_mm2: float
    min_pixels: int
    min_size_mm3: float
    min_voxels: int
    unseen_slices: bool = False
    drawn_region_voxels: int | None
    mask_edited_by_hand: bool = Field(
        description="Whether a reader changed it: by hand, by refined outlines, by rejecting."
    )
    outlines_refined: int = Field(
        0, ge=0, description="How many outlines were fitted to the edges of the image."
    )
    refining: dict[str, Any] | None = Field(None, description="How they were fitted.")


class ModelFacts(Part):
    """The model, according to its file."""

    SAYS_MORE = True

    name: str
    sha256: str


class ScoredScan(Part):
    """The scan; UIDs are hashes unless requested otherwise."""

    series: str
    series_uid: str | None
    study_uid: str | None
    frame_of_reference_uid: str | None
    files: int
    voxels_sha256: str
    modality: str
    intensity: str
    unit: str | None = Field(description="Unit of voxel values.")
    role: str
    display_window: tuple[float, float]
    model_window: tuple[float, float] | None
    shape_zyx: tuple[int, int, int]
    spacing_zyx: tuple[float, float, float]
    spacing_unit: Literal["mm", "pixel"]
    regular_grid: bool
    exact_affine: bool
    affine_ijk_to_ras: list[list[float]]
    plane: str
    acquisition: dict[str, Any]
    slices: int
    slices_scored: int
    warnings: list[str]


class ScanSummary(Part):
    """Summary of the results of a scan."""

    series: str
    slices_scored: int
    unseen_slices: list[int] = []
    highest_slice: int | None
    highest_image_score: float | None
    unit: str = Unit
    p_value: float | None
    p_value_patients: int | None
    findings: int
    flagged_voxels: int
    unlike: list[str]
    warnings: list[str]
    files: dict[str, str]


class FileFacts(Part):
    """Size and content of a file."""

    bytes: int
    sha256: str


class Run(Part):
    """Identifies scan and settings for 'score'."""

    scan: str
    settings: str
    command: str
    image_scores: list[float | None]
    unfamiliarity: list[float | None] = []


class DicomReference(Part):
    """UIDs of a DICOM object."""

    sop_class: str
    sop_instance: str
    series: str


class DicomReading(Part):
    """DICOM objects last written into this folder, and which reading of the scan they are."""

    reading: int = Field(ge=1, description="Counts readings that differ; a later one supersedes.")
    uid: str
    content: str = Field(description="Equal for readings that found the same.")
    source: str = Field(description="Identifies the images.")
    supersedes: str = Field(description="'uid' of the reading before, '' for the first.")
    predecessor: DicomReference | None = Field(description="The structured report before.")
    objects: dict[str, list[DicomReference]] = Field(description="By the keys of 'files'.")
    images: list[str] = Field([], description="Short hashes of the images' UIDs.")


class ProvenanceFile(Document):
    """provenance.json: how a scan was scored and masked."""

    NAME = "provenance"

    research_use: str
    created: str
    model: ModelFacts
    engine: str
    backbone_weights: dict[str, Any]
    threshold: Threshold
    scan: ScoredScan
    versions: dict[str, str]
    likeness: dict[str, Any] | None
    p_values: PValues | None
    summary: ScanSummary
    files: dict[str, FileFacts]
    run: Run | None = None
    dicom: DicomReading | None = None


class LedgerEntry(Document):
    """A finished scan in the ledger of 'score'."""

    NAME = "ledger"

    key: str
    job: str
    folder: str
    files: dict[str, tuple[int, str]]
    record: dict[str, Any]
    finished: str
    seconds: float
    process: int


# ---------------------------------------------------------------- results of commands


class ErrorResult(Document):
    """--json of a command that failed."""

    NAME = "error"

    error: str


class ScanResult(ScanSummary):
    """A scored scan."""

    input: str
    folder: str
    unusual: bool | None = Field(None, description="With --alpha.")


class ScoreResult(Document):
    """score --json."""

    NAME = "score"

    model: str
    model_sha256: str
    backbone: str
    engine: str | None = None
    out: str | None = None
    threshold: float
    unit: str = Unit
    fpr: float | None = Share
    calibration: str | None
    scans: list[ScanResult]
    skipped: int
    failed: list[str]
    left_out: list[str]
    report: str | None = None
    report_pdf: str | None = None
    bids: str | None = Field(None, description="Folder of BIDS derivatives, with --bids.")
    without_bids: list[str] | None = None
    sent: Sent | None = Field(None, description="What the archive of --to answered.")


class LesionSizes(Part):
    """Lesions of about one size, in pixels, and the mean share of them found."""

    smallest: int
    largest: int
    lesions: int
    sensitivity: float


class Figures(Part):
    """Figures of a model on one split of a dataset."""

    split: str
    images: int
    abnormal_images: int
    patients: int
    pixel_auroc: float | None
    pixel_aupr: float | None
    pixel_aupro: float | None
    best_dice_oracle: float | None
    lesions: int | None = None
    lesion_sensitivity: float | None = Field(
        None,
        description="Mean share of lesions found at 1/8, 1/4, 1/2, 1, 2, 4 and 8 false-positive "
        "regions per patient; a region hits a lesion by its centre or an IoU above 0.1.",
    )
    lesion_sensitivity_at: dict[str, float] = Field({}, description="The share at each of these.")
    lesion_sizes: list[LesionSizes] = []
    image_auroc: float | None
    image_ap: float | None
    dice_at_fpr: float | None
    realised_fpr: float | None
    fpr: float | None = Share
    threshold: float | None
    unit: str = Unit
    base_rate: float | None
    intervals: dict[str, tuple[float, float]]
    smoothing: int
    ms_per_slice: float
    ms_per_slice_p95: float
    ms_beyond_backbone: float | None
    model_bytes: int
    fit_seconds: float | None
    peak_rss_mb: float | None
    peak_gpu_mb: float | None


class EvaluateResult(Figures, Document):
    """evaluate --json."""

    NAME = "evaluate"

    model: str
    model_sha256: str
    engine: str


class SeedFigures(Figures):
    """Figures of one seed of a method."""

    model: str
    model_sha256: str
    seed: int | None


class ComparedMethod(Part):
    """A method, over its seeds."""

    name: str
    method: str
    backbone: str
    smoothing: int
    valid_aupr: dict[str, float | None]
    mean: dict[str, float | None]
    intervals: dict[str, tuple[float, float] | None]
    seed_range: dict[str, tuple[float, float] | None]
    seeds: list[SeedFigures]


class Comparison(Part):
    """Methods on one dataset."""

    dataset: str
    split: str
    images: int
    abnormal_images: int
    patients: int
    base_rate: float | None
    settings: dict[str, Any]
    methods: list[ComparedMethod]
    ratios: list[dict[str, Any]]
    notes: list[str]
    versions: dict[str, str]


class ComparisonFile(Comparison, Document):
    """results.json of 'compare'."""

    NAME = "comparison"

    use: str


class CompareResult(Comparison, Document):
    """compare --json."""

    NAME = "compare"

    files: list[str]


class FitResult(Document):
    """fit --json."""

    NAME = "fit"

    model: str
    sha256: str
    method: str
    unit: str = Unit
    training: dict[str, Any] = Field(
        description="Losses of Spatial AR are in its unit; other methods have none."
    )


class FitEstimate(Document):
    """fit --estimate --json."""

    NAME = "fit-estimate"
    SAYS_MORE = True

    seconds: float


class CalibrateResult(Document):
    """calibrate --json."""

    NAME = "calibrate"
    SAYS_MORE = True

    name: str
    sha256: str
    unit: str = Unit
    fpr: list[float] | None = None
    thresholds: list[float] | None = None


class Series(Part):
    """A series of 'inspect'. Axes are (Z, Y, X), except those of the affine."""

    label: str
    role: str
    modality: str
    intensity: str
    unit: str | None = Field(description="Unit of voxel values.")
    shape: tuple[int, int, int]
    spacing_mm: tuple[float | None, float | None, float | None] | None
    affine: list[list[float]] = Field(description="Voxel (i, j, k) to RAS mm.")
    orientation: str
    plane: str
    sequence: str | None
    contrast_agent: bool | None
    kernel: str | None
    slices: int
    regular: bool
    window: tuple[float, float] | None
    files: list[str]
    frames: list[int]
    warnings: list[str]
    damage: str | None = None


class InspectResult(Document):
    """inspect --json."""

    NAME = "inspect"

    series: list[Series]
    failed: list[str]


class SummaryResult(Document):
    """summary --json."""

    NAME = "summary"
    SAYS_MORE = True

    slices: int
    patients: int
    series: list[dict[str, Any]]
    left_out: dict[str, int]
    selection: dict[str, Any]


class ConvertResult(Document):
    """convert --json."""

    NAME = "convert"

    files: list[str]
    failed: list[str]


class SegResult(Document):
    """seg --json."""

    NAME = "seg"

    file: str
    series: str
    voxels: int
    slices: int
    algorithm: str | None
    warnings: list[str]


class DemoResult(Document):
    """demo --json."""

    NAME = "demo"
    SAYS_MORE = True

    model: str
    backbone: str
    weights: str
    sample: str
    files: list[str]
    threshold: float | None = None
    unit: str | None = None


class SpeedResult(Document):
    """speed --json."""

    NAME = "speed"

    model: str
    device: str
    chosen: str
    trials: list[dict[str, Any]]
    not_tried: dict[str, str]


class ModelsList(Document):
    """models list --json."""

    NAME = "models-list"

    models: list[dict[str, Any]]
    unreadable: list[dict[str, Any]]


class ModelsTrash(Document):
    """models list --trash --json."""

    NAME = "models-trash"

    trash: list[dict[str, Any]]


class ModelsMethods(Document):
    """models methods --json."""

    NAME = "models-methods"

    methods: list[dict[str, Any]]


class ModelsShow(ModelFacts, Document):
    """models show --json: the header of the model's file."""

    NAME = "models-show"

    unit: str = Unit
    needs: str | None
    method: str


class ModelPlace(Document):
    """A model and where it is."""

    name: str
    path: str


class ModelsRename(ModelPlace):
    """models rename --json."""

    NAME = "models-rename"


class ModelsDuplicate(ModelPlace):
    """models duplicate --json."""

    NAME = "models-duplicate"


class ModelsDelete(ModelPlace):
    """models delete --json."""

    NAME = "models-delete"


class ModelsRestore(ModelPlace):
    """models restore --json."""

    NAME = "models-restore"


class ModelsImport(ModelPlace):
    """models import --json."""

    NAME = "models-import"


class ModelsExport(Document):
    """models export --json."""

    NAME = "models-export"

    path: str


class ModelsCheck(Document):
    """models check --json."""

    NAME = "models-check"

    models: list[dict[str, Any]]


class ModelsSuspects(Document):
    """models suspects --json."""

    NAME = "models-suspects"

    scans: int
    unit: str = Unit
    suspects: list[dict[str, Any]]


class ModelComparison(Part):
    """How far two models agree on a scan."""

    research_use: str
    models: tuple[str, str]
    unit: str = Unit
    share: float = Share
    rank_correlation: float | None
    dice: float | None
    flagged_voxels: tuple[int, int]
    slices: int
    unlike: list[str]


class ModelComparisonFile(ModelComparison, Document):
    """compare.json of 'models compare'."""

    NAME = "model-comparison"


class ModelsCompare(ModelComparison, Document):
    """models compare --json."""

    NAME = "models-compare"

    files: dict[str, str]


class WeightsList(Document):
    """weights list --json."""

    NAME = "weights-list"

    weights: list[dict[str, Any]]


class WeightsPull(Document):
    """weights pull --json."""

    NAME = "weights-pull"

    name: str
    source: str


class WeightsAdd(Document):
    """weights add --json."""

    NAME = "weights-add"
    SAYS_MORE = True

    path: str
    name: str
    sha256: str | None


class ArchiveList(Document):
    """archive list --json."""

    NAME = "archive-list"

    archives: list[dict[str, Any]]


class ArchiveAdd(Document):
    """archive add --json."""

    NAME = "archive-add"
    SAYS_MORE = True

    name: str
    url: str


class ArchiveRemove(Document):
    """archive remove --json."""

    NAME = "archive-remove"

    name: str
    url: str


class ArchiveLogin(Document):
    """archive login --json."""

    NAME = "archive-login"

    url: str
    kept: bool


class ArchiveCache(Document):
    """archive cache --json."""

    NAME = "archive-cache"

    folder: str
    bytes: int = Field(ge=0, description="Size of the cache now.")
    freed: int = Field(ge=0, description="Bytes removed.")


class ArchiveEcho(Document):
    """archive echo --json."""

    NAME = "archive-echo"

    url: str


class ArchiveSeries(Part):
    """A series in an archive; empty text and null: not stated."""

    series_uid: str
    modality: str
    description: str
    body_part: str
    number: int | None
    instances: int | None


class ArchiveStudy(Part):
    """A study in an archive; empty text and null: not stated."""

    study_uid: str
    patient_name: str
    patient_id: str
    accession: str
    date: str = Field(description="YYYYMMDD.")
    time: str
    description: str
    modalities: list[str]
    number_of_series: int | None
    number_of_instances: int | None
    series: list[ArchiveSeries] | None = Field(None, description="With --series or --study.")


class ArchiveFind(Document):
    """archive find --json."""

    NAME = "archive-find"

    url: str
    more: bool = Field(description="Whether more studies match than are listed.")
    studies: list[ArchiveStudy]


class RetrievedSeries(Part):
    """A series that was retrieved, whole."""

    study_uid: str
    series_uid: str
    folder: str
    instances: int
    fetched: int = Field(description="How many of them were sent this time.")


class ArchiveGet(Document):
    """archive get --json."""

    NAME = "archive-get"

    series: list[RetrievedSeries]
    failed: list[str]


class SentObject(Part):
    """An archive's answer on a file."""

    path: str
    sop_uid: str
    state: Literal["stored", "there", "refused"]
    reason: str


class Sent(Part):
    """What an archive answered on files."""

    stored: int
    there: int = Field(description="Files that it had already; they were not sent.")
    refused: int
    files: list[SentObject]


class ArchiveSend(Sent, Document):
    """archive send --json."""

    NAME = "archive-send"

    url: str
    skipped: int = Field(description="Files in the folders that are not DICOM.")


class ArchiveListen(Document):
    """archive listen --json."""

    NAME = "archive-listen"

    port: int | None
    series: list[dict[str, Any]]
    refused: int
    waiting: int = Field(description="Series that go on with the next start.")


class WatchedSeries(Part):
    """A series in the ledger of archive watch, without anything that names it."""

    key: str = Field(description="Hash of the UIDs of study and series.")
    state: Literal["scored", "sent", "failed", "left out"]
    reason: str
    instances: int
    sent: dict[str, str] = Field(description="The archive's answer on each object, by its UID.")
    finished: str = Field(description="ISO 8601, UTC.")


class WatchLedgerEntry(WatchedSeries, Document):
    """An entry in the ledger of archive watch."""

    NAME = "archive-watch-entry"


class ArchiveWatch(Document):
    """archive watch --json."""

    NAME = "archive-watch"

    series: list[WatchedSeries]


_ALL: tuple[type[Document], ...] = (
    *(FindingsFile, ProvenanceFile, LedgerEntry, ErrorResult, ScoreResult, EvaluateResult),
    *(ComparisonFile, CompareResult, FitResult, FitEstimate, CalibrateResult, InspectResult),
    *(SummaryResult, ConvertResult, SegResult, DemoResult, SpeedResult),
    *(ModelsList, ModelsTrash, ModelsMethods, ModelsShow, ModelsRename, ModelsDuplicate),
    *(ModelsDelete, ModelsRestore, ModelsImport, ModelsExport, ModelsCheck, ModelsSuspects),
    *(ModelComparisonFile, ModelsCompare, WeightsList, WeightsPull, WeightsAdd),
    *(ArchiveList, ArchiveAdd, ArchiveRemove, ArchiveLogin, ArchiveCache, ArchiveEcho),
    *(ArchiveFind, ArchiveGet, ArchiveSend, ArchiveListen, WatchLedgerEntry, ArchiveWatch),
)
#: All documents by the name of their kind, which of a command's result is the command's.
DOCUMENTS = {document.NAME: document for document in _ALL}
