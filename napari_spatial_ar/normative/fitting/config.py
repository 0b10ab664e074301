"""Everything that determines a fit: one class for `fit`, recipes, Training dock and command line.

A new setting is a field of `FitConfig`. torch is imported only when a configuration is created, so
that forms and help pages can list the fields immediately.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from napari_spatial_ar.datasets.selection import AS_ACQUIRED, Selection, SlicePlane
from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.acquisition import read_acquired
from napari_spatial_ar.imaging.json_text import parse_json
from napari_spatial_ar.imaging.windows import Window, WindowKind, default_window

if TYPE_CHECKING:
    from napari_spatial_ar.imaging.series import Modality
    from napari_spatial_ar.normative.backbones.backbone import Backbone
    from napari_spatial_ar.normative.backbones.registry import BackboneSpec, Fuse
    from napari_spatial_ar.normative.preprocessing import Preprocessing

__all__ = [
    "COMPUTING",
    "DEFAULT_METHOD",
    "NETWORK_SETTINGS",
    "PREPROCESSING",
    "SCORES",
    "SECTIONS",
    "SLICES",
    "FitConfig",
    "Option",
    "check_loaded",
    "preprocessing_for",
    "read_layers",
    "read_settings",
    "read_size",
    "with_settings",
]

DEFAULT_METHOD = "spatial-ar-change"
_SPATIAL_AR = "spatial-ar"
_COMMA = re.compile(r",(?![^\[]*\])")  # not those inside a list
#: Options of the AR network that `FitConfig.of` accepts as settings; they choose Spatial AR if no
#: method is named.
NETWORK_SETTINGS = ("dilation", "context", "epochs", "patience", "batch_size", "learning_rate")
Folders = str | Path | Sequence[str | Path]
Layers = str | int | tuple[int, ...] | None
Function = TypeVar("Function", bound=Callable[..., Any])


def _as_tuple(value: Any) -> Any:
    """Convert lists and sets from TOML and callers to the tuples of the configuration."""
    plain = isinstance(value, str | bytes | Mapping) or not isinstance(value, Collection)
    return value if plain else tuple(value)


class _WindowTable(BaseModel):
    """An intensity window as stored in a recipe."""

    model_config = ConfigDict(strict=True, extra="forbid")
    kind: WindowKind
    low: float
    high: float


def _as_window(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    try:
        return Window(**_WindowTable.model_validate(dict(value)).model_dump())
    except ValidationError as error:
        raise InputError(_sentence(error, within="window")) from None


def _as_dict(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]
Share = Annotated[float, Field(ge=0, le=1)]


#: Titles of groups of settings in the command line's help.
SLICES = "Which slices"
PREPROCESSING = "Preprocessing"
SCORES = "Calibration and scores"
COMPUTING = "Computing"
#: In this order; a method's own options are titled with its name.
SECTIONS = ("", SLICES, PREPROCESSING, f"Method {_SPATIAL_AR}", SCORES, COMPUTING)


@dataclass(frozen=True)
class Option:
    """How the command line offers a setting.

    Parameters
    ----------
    help : str
        What it does, with its unit or range.
    section : str
        Title of its group in help pages; "" for the first.
    metavar : str, optional
        Placeholder for its value.
    flag : str, optional
        Its option name, if it differs from the field's.
    kind : type, optional
        Type of its command-line value, if it differs from the field's: text for values with a
        syntax of their own.
    default : str, optional
        Its default as text, if it differs from the field's.
    shown_default : str or None, optional
        Replaces the default in help; None shows no default.
    least, most : float, optional
        Range of a number.
    """

    help: str
    section: str = ""
    metavar: str | None = None
    flag: str | None = None
    kind: Any = None
    default: str | None = None
    shown_default: str | None = ""
    least: float | None = None
    most: float | None = None


class FitConfig(BaseModel):
    """Everything that determines the weights of a fit, and nothing about where it runs.

    Missing settings are filled in: the backbone (see `default_backbone`), the modality's window,
    the defaults of the method's options. So a configuration stored as a recipe means the same to a
    later version with other defaults.

    Raises
    ------
    InputError
        If a setting is unknown, of another type or out of range.
    """

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        arbitrary_types_allowed=True,
        use_attribute_docstrings=True,
        defer_build=True,  # help pages need only the fields
    )

    folders: Names = ()
    """Normal scans: folders of images, NIfTI or DICOM, or the root of a dataset in the BMAD
    layout, whose ``valid/good`` are then the validation slices."""
    modality: Annotated[Literal["mri", "ct", "oct"], Option("Modality of the scans.")] = "mri"
    """Chooses the default window."""
    plane: Annotated[
        SlicePlane,
        Option(
            "Plane of the slices: as-acquired, axial, coronal or sagittal. Nothing is "
            "interpolated. Images have no plane and are excluded unless it is as-acquired.",
            section=SLICES,
            metavar="PLANE",
        ),
    ] = AS_ACQUIRED
    """Plane of the slices; saved with the model, which scores scans in this plane."""
    slice_range: Annotated[
        Any,
        BeforeValidator(_as_tuple),
        Option(
            "Part of each stack to use, such as 0.2:0.8, counted from inferior, anterior or "
            "right. A slice belongs to it if its centre does.",
            section=SLICES,
            metavar="LOW:HIGH",
            flag="--slices",
            kind=str,
            default="0:1",
        ),
    ] = (0.0, 1.0)
    """Part of each stack that is used, see `Selection`; also as text: ``"0.2:0.8"``."""
    min_body: Annotated[
        float,
        Option(
            "Exclude slices in which the body covers less than this share.",
            section=SLICES,
            metavar="SHARE",
            least=0,
            most=1,
        ),
    ] = 0.10
    """Slices in which the body covers a smaller share are excluded."""
    exclude: Annotated[
        Names,
        Option(
            "Exclude the series with this key, as listed by 'summary --json' and 'models suspects'."
            " Repeatable.",
            section=SLICES,
            metavar="KEY",
            kind=list[str],
        ),
    ] = ()
    """Keys of series to exclude, see `find_slices`."""
    patient_pattern: Annotated[
        str | None,
        Option(
            "Regular expression that finds the patient in a path: its first group, or all of it.",
            section=SLICES,
            metavar="REGEX",
        ),
    ] = None
    """Regular expression that finds the patient in a path, as for `find_slices`."""
    window: Annotated[
        Window,
        BeforeValidator(_as_window),
        Option(
            "Intensities shown to the model as black and white: a CT preset (brain, liver, lung, "
            "bone, 'soft tissue'), LOW:HIGH in the scan's unit, or percentiles such as p0.5:99.5.",
            section=PREPROCESSING,
            metavar="WINDOW",
            kind=str,
            shown_default="soft tissue for CT, else p0.5:99.5",
        ),
    ] = Field(default_factory=lambda known: default_window(known.get("modality", "mri")))
    """How voxels become intensities in 0..1; by default the modality's window."""
    size: Annotated[
        Any,
        BeforeValidator(_as_tuple),
        Option(
            "Pixels that slices are resized to: one number, or ROWSxCOLUMNS.",
            section=PREPROCESSING,
            metavar="SIZE",
            kind=str,
            default="448",
        ),
    ] = (448, 448)
    """Rows and columns that slices are resized to, also as text: ``"896"``, ``"896x448"``."""
    tile: Annotated[
        int,
        Option(
            "Cut the resized slice into overlapping tiles of this side, for images far larger "
            "than 448 pixels: --size 896 --tile 448. 0: do not cut.",
            section=PREPROCESSING,
            metavar="PIXELS",
            least=0,
        ),
    ] = 0
    """Side of the tiles into which the resized slice is cut, each overlapping the next by half;
    each is a slice to the method. 0 for none."""
    clahe: Annotated[
        float,
        Option(
            "Clip limit of adaptive histogram equalisation, such as 0.01; 0: none.",
            section=PREPROCESSING,
            metavar="LIMIT",
            least=0,
        ),
    ] = 0.0
    """Clip limit of contrast-limited adaptive histogram equalisation, see `Preprocessing`."""
    skip_air: Annotated[
        bool | None,
        Option(
            "Skip patches of air: nothing is embedded, learned or scored there, which is faster.",
            section=PREPROCESSING,
            shown_default="yes for spatial-ar-change on MRI and CT",
        ),
    ] = None
    """Leave patches without body out of the backbone and of the method, see
    `Preprocessing.present`; by default if the method does (`Detector.skips_air`), but not on OCT,
    where what is dark is part of the eye."""
    backbone: Annotated[
        str,
        Option(
            "Backbone: see 'weights list'.",
            metavar="BACKBONE",
            shown_default="dinov3_vits16 if its weights are installed, else dinov2_vits14_focus",
        ),
    ] = ""
    """A key of `known_backbones`; by default DINOv3 if its weights are installed."""
    layers: Annotated[
        Any,
        BeforeValidator(_as_tuple),
        Option(
            "Blocks of the backbone to read, such as 5,7,9 or last4.",
            section=PREPROCESSING,
            metavar="BLOCKS",
            kind=str,
            shown_default="chosen by the method",
        ),
    ] = None
    """Blocks of the backbone to read, counted from 1, also as text: ``"5,7,9"``, or ``"last4"``
    for its last four; by default those of the method, else the backbone's own."""
    fuse: Annotated[
        Literal["concat", "mean"],
        Option("Concatenate several blocks, or average them.", section=PREPROCESSING),
    ] = "concat"
    """How several blocks form one embedding: concatenated, or averaged, which keeps the width of
    one."""
    weights: Annotated[
        str | None,
        BeforeValidator(_as_text),
        Option(
            "Backbone weights that were not added with 'weights add'.",
            section=COMPUTING,
            metavar="FILE",
            kind=Path,
        ),
    ] = None
    """Backbone weights to use."""
    method: Annotated[
        str,
        Option(
            "Method: see 'models methods'. METHOD:KEY=VALUE,... sets its options.",
            metavar="METHOD",
            shown_default="spatial-ar-change, or spatial-ar with one of its options below",
        ),
    ] = DEFAULT_METHOD
    """The method: a key of `DETECTORS`."""
    options: Annotated[dict[str, Any], BeforeValidator(_as_dict)] = {}
    """The method's own options, see `Detector.options`."""
    seed: Annotated[
        int,
        Field(ge=0, le=2**63 - 1),  # torch takes no larger one
        Option("The same seed gives the same weights.", metavar="N", least=0),
    ] = 0
    """Seed of everything drawn at random."""
    smoothing: Annotated[
        int,
        Option(
            "Side of a mean filter over patch scores, an odd number; 1: none.",
            section=SCORES,
            metavar="N",
            least=1,
        ),
    ] = 3
    """Side of the mean filter over patch scores, an odd number of patches; 1 for none."""
    smoothing_z: Annotated[
        float,
        Field(ge=0, le=1000),
        Option(
            "SD in mm of a Gaussian mean over neighbouring slices of a volume; 0: none.",
            section=SCORES,
            metavar="MM",
            least=0,
        ),
    ] = 0.0
    """Standard deviation in mm of the Gaussian by which patch scores are averaged over the slices
    of a volume; 0 for none. Needs volumes with a known spacing."""
    top_share: Share = 0.01
    """Share of a slice's highest scores whose mean is the score of the slice, see `Scoring`."""
    valid_fraction: float = 0.2
    """Share of slices held out for validation, by patient, if the folder does not define the
    split."""
    calibration_fraction: Annotated[
        float,
        Option(
            "Share of the slices held out, by patient, for calibration alone; 0: calibrate on the "
            "slices held out for validation.",
            section=SCORES,
            metavar="SHARE",
            least=0,
            most=1,
        ),
    ] = 0.0
    """Share of slices held out for calibration alone, by patient. With 0, the validation slices are
    used, which may have chosen the best epoch."""
    calibration_folds: Annotated[
        int,
        Option(
            "Calibrate on the training patients too, in N folds, each scored by a model trained on "
            "the others; takes N more fits. 0: held-out patients only.",
            section=SCORES,
            metavar="N",
            least=0,
        ),
    ] = 0
    """At least 2: the training patients are used for calibration too, divided into this many
    folds, each scored by a model trained on the others, which takes as many more fits; see
    `napari_spatial_ar.normative.fitting.folds`. 0: only the held-out patients are used."""
    acquired: Annotated[
        str,
        Option(
            "How the scans were acquired, if neither headers nor file names state it (images): "
            "'axial FLAIR'. Scans acquired otherwise then come with a warning.",
            metavar="WORDS",
            shown_default=None,
        ),
    ] = ""
    """How scans were acquired whose headers and names do not state it, such as ``"axial FLAIR"``;
    see `read_acquired`."""

    @classmethod
    def of(cls, folders: Folders, **settings: Any) -> Self:
        """Create a configuration as in `fit`: settings that are None keep their defaults.

        Parameters
        ----------
        folders : path or sequence of paths
            Normal scans.
        **settings
            Fields of this class, and the options of the AR network in `NETWORK_SETTINGS`. Those
            choose Spatial AR if no method is named; other methods ignore them.

        Raises
        ------
        InputError
            If a setting is unknown, of another type or out of range.
        """
        given = {name: value for name, value in settings.items() if value is not None}
        network = {name: given.pop(name) for name in NETWORK_SETTINGS if name in given}
        method = given.setdefault("method", _SPATIAL_AR if network else DEFAULT_METHOD)
        if method == _SPATIAL_AR:
            given["options"] = {**network, **given.get("options", {})}
        several = [folders] if isinstance(folders, str | Path) else folders
        return cls(folders=tuple(map(str, several)), **given)

    @model_validator(mode="wrap")
    @classmethod
    def _in_a_sentence(cls, values: Any, handler: Callable[[Any], Self]) -> Self:
        """Convert pydantic's errors to one of this package."""
        try:
            return handler(values)
        except ValidationError as error:
            raise InputError(_sentence(error)) from None

    @model_validator(mode="after")
    def _fill_in(self) -> Self:
        from napari_spatial_ar.datasets.slices import check_fractions
        from napari_spatial_ar.normative.backbones.weights import default_backbone
        from napari_spatial_ar.normative.detectors import DETECTORS, check_options

        if self.smoothing < 1 or self.smoothing % 2 == 0:
            raise InputError(f"smoothing must be an odd number of patches, not {self.smoothing}")
        if self.calibration_folds < 0 or self.calibration_folds == 1:
            raise InputError(
                f"calibration_folds must be 0 or at least 2, not {self.calibration_folds}"
            )
        check_fractions(self.valid_fraction, self.calibration_fraction)
        if self.calibration_folds and self.calibration_fraction:
            raise InputError(
                "calibration_folds and calibration_fraction cannot be combined",
                fix="Choose folds of the training patients, or patients for calibration alone",
            )
        if self.method not in DETECTORS:
            raise InputError(
                f"there is no method '{self.method}'", fix=f"Choose from {', '.join(DETECTORS)}"
            )
        method = DETECTORS[self.method]
        check_options(method, self.options)
        read_acquired(self.acquired)
        backbone = self.backbone or default_backbone(self.weights)
        read_layers(self.layers, backbone, self.method)
        size = read_size(self.size)
        self.preprocessing(backbone, size)
        options = {**method.options(), **self.options}
        self.__dict__.update(
            exclude=tuple(sorted(self.exclude)),
            backbone=backbone,
            skip_air=(
                self.skips_air_by_default(self.modality, self.method)
                if self.skip_air is None
                else self.skip_air
            ),
            size=size,
            slice_range=self.selection.slice_range,
            # A whole number is accepted in place of a fraction, and means the same.
            options={name: type(v)(options[name]) for name, v in method.options().items()},
        )
        return self

    def preprocessing(
        self, backbone: str | Backbone, size: tuple[int, int] | None = None
    ) -> Preprocessing:
        """Combine the settings of a backbone's preprocessing, see `preprocessing_for`."""
        return preprocessing_for(
            backbone,
            self.window,
            size or self.size,
            clahe=self.clahe,
            tile=self.tile,
            skip_air=bool(self.skip_air),
        )

    @staticmethod
    def skips_air_by_default(modality: Modality, method: str) -> bool:
        """Default of ``skip_air`` for a modality and a method."""
        from napari_spatial_ar.normative.detectors import DETECTORS

        return DETECTORS[method].skips_air and modality != "oct"

    @property
    def selection(self) -> Selection:
        """Rule by which slices of the volumes are selected."""
        return Selection(self.plane, self.slice_range, self.min_body)

    @property
    def chosen_options(self) -> dict[str, Any]:
        """The method's options that differ from their defaults."""
        from napari_spatial_ar.normative.detectors import DETECTORS

        defaults = DETECTORS[self.method].options()
        return {name: v for name, v in self.options.items() if v != defaults[name]}

    @classmethod
    def offered(cls) -> dict[str, Option]:
        """List the settings that the command line offers, with their options."""
        return {
            name: part
            for name, field in cls.model_fields.items()
            for part in field.metadata
            if isinstance(part, Option)
        }

    def settings(self) -> dict[str, Any]:
        """Every field by its name, without the folders."""
        return {name: getattr(self, name) for name in type(self).model_fields if name != "folders"}

    def changed(self, given: Mapping[str, Any]) -> FitConfig:
        """Replace settings, with values as in `of`; options of one method one by one.

        Raises
        ------
        InputError
            If a setting is unknown, of another type or out of range.
        """
        method = given.get("method") or self.method
        kept = self.options if method == self.method else {}
        options = dict(given.get("options") or {})
        if method == _SPATIAL_AR:
            network = {k: v for k, v in given.items() if k in NETWORK_SETTINGS and v is not None}
            options = {**network, **options}
        rest = {k: v for k, v in given.items() if k not in NETWORK_SETTINGS and v is not None}
        settings = {**self.settings(), **rest, "method": method, "options": {**kept, **options}}
        return FitConfig(**{"folders": self.folders, **settings})

    def differs(self, other: FitConfig) -> list[str]:
        """Names of the settings in which another configuration differs."""
        return [n for n in type(self).model_fields if getattr(self, n) != getattr(other, n)]


_KINDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "a text",
    "tuple_type": "a list",
    "dict_type": "a table",
    "dataclass_exact_type": "a table",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
}


def _sentence(error: ValidationError, within: str = "") -> str:
    """Describe what is wrong with a setting, the first if there are several."""
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        known = _WindowTable.model_fields if within else [*FitConfig.model_fields]
        return f"'{name}' is not a setting of a {within or 'fit'}: choose from {', '.join(known)}"
    if first["type"] == "missing":
        return f"the {within} has no '{name}'"
    limits = {k: f"{v:g}" if isinstance(v, float) else v for k, v in first.get("ctx", {}).items()}
    kind = _KINDS.get(first["type"], first["msg"]).format(**limits)
    if name in ("folders", "exclude"):
        kind = "a list of texts"
    return f"{name} must be {kind.replace(chr(39), '')}, not {first['input']!r}"


def with_settings(function: Function) -> Function:
    """Give a function that takes ``**settings`` a signature that names them."""
    signature = inspect.signature(function)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    fields = {n: f for n, f in FitConfig.model_fields.items() if n != "folders"}
    settings = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.get_default() if field.default_factory is None else None,
            annotation=field.annotation,
        )
        for name, field in fields.items()
        if name not in signature.parameters
    ]
    function.__signature__ = signature.replace(parameters=[*own, *settings])  # type: ignore[attr-defined]
    return function


def preprocessing_for(
    backbone: str | Backbone,
    window: Window,
    size: tuple[int, int],
    *,
    clahe: float = 0.0,
    tile: int = 0,
    skip_air: bool = False,
) -> Preprocessing:
    """Combine the settings of a backbone's preprocessing, with its own normalisation.

    Parameters
    ----------
    backbone : str or Backbone
        Its name, or the backbone itself. With an unknown name nothing is checked here.
    window, size, clahe, tile, skip_air
        See `Preprocessing`.

    Raises
    ------
    InputError
        If the sizes do not match the backbone, see `Tiling.of`.
    """
    from napari_spatial_ar.normative.backbones.registry import find_spec
    from napari_spatial_ar.normative.preprocessing import Preprocessing
    from napari_spatial_ar.normative.tiling import Tiling

    spec = find_spec(backbone) if isinstance(backbone, str) else backbone.spec
    if spec is None:
        return Preprocessing(window, size, clahe=clahe, tile=tile, skip_air=skip_air)
    shown = Preprocessing(window, size, spec.mean, spec.std, clahe, tile, skip_air)
    Tiling.of(shown, spec.patch)
    return shown


def read_settings(text: str, known: Sequence[str]) -> dict[str, Any]:
    """Parse ``key=value,key=value``; values are JSON (lists become tuples) or plain words.

    Raises
    ------
    InputError
        If a part is not of that form, or its key is unknown.
    """
    found: dict[str, Any] = {}
    for part in filter(None, _COMMA.split(text)):
        key, equals, value = part.partition("=")
        if not equals or key not in known:
            raise InputError(
                f"'{part}' is not a setting of a fit",
                fix=f"Write METHOD:KEY=VALUE,... where a key is {', '.join(dict.fromkeys(known))}",
            )
        try:
            read = parse_json(value)
        except ValueError:
            read = value
        found[key] = tuple(read) if isinstance(read, list) else read
    return found


def read_size(size: str | int | Sequence[int]) -> tuple[int, int]:
    """Rows and columns, from ``"896"``, ``"896x448"``, 896 or (896, 448).

    Raises
    ------
    InputError
        If it has another form.
    """
    text = _joined("x", size)
    found = re.fullmatch(r"(\d+)(?: ?x ?(\d+))?", text.strip().lower())
    if not found:
        raise InputError(
            f"'{text}' is not a size", fix="Write one number for a square, or ROWSxCOLUMNS: 448x896"
        )
    return int(found.group(1)), int(found.group(2) or found.group(1))


def read_layers(layers: Layers, backbone: str, method: str) -> tuple[int, ...] | None:
    """Blocks to read of a backbone; None for its own choice.

    Parameters
    ----------
    layers : str, int or sequence of int, optional
        ``"5,7,9"``, ``"last4"`` or numbers; None for the method's own choice.
    backbone : str
        Its name.
    method : str
        A key of `DETECTORS`.

    Raises
    ------
    InputError
        If the text does not name blocks.
    """
    from napari_spatial_ar.normative.backbones.registry import find_spec
    from napari_spatial_ar.normative.detectors import DETECTORS

    spec = find_spec(backbone)
    depth = int(spec.config.get("num_hidden_layers", 0)) if spec else 0
    if layers is None:
        return DETECTORS[method].default_layers(depth) if depth else None
    return _numbers(layers, depth)


def check_loaded(spec: BackboneSpec, layers: Layers, fuse: Fuse) -> None:
    """Check that a loaded backbone reads the requested blocks, if any were requested.

    Raises
    ------
    InputError
        If it does not.
    """
    blocks = None if layers is None else _numbers(layers, spec.config.get("num_hidden_layers", 0))
    if blocks not in (None, spec.layers) or fuse not in ("concat", spec.fuse):
        raise InputError("the backbone is already loaded, with other blocks to read")


def _numbers(layers: str | int | Sequence[int], depth: int) -> tuple[int, ...]:
    """Parse blocks; whether they exist is checked by the backbone."""
    layers = _joined(",", layers)
    last = re.fullmatch(r"last([1-9]\d*)", layers.strip())
    if last:
        count = int(last.group(1))
        if count > depth:
            raise InputError(f"the backbone has {depth or 'no'} blocks to choose from, not {count}")
        return tuple(range(depth - count + 1, depth + 1))
    if not re.fullmatch(r"(\s*\d+\s*(,\s*\d+\s*)*)?", layers):
        raise InputError(
            f"'{layers}' does not state which blocks to read",
            fix="Write their numbers with commas, such as 5,7,9, or last4 for the last four",
        )
    return tuple(int(number) for number in layers.split(",") if number)


def _joined(between: str, value: object) -> str:
    """Format a value as text, a list with a separator between its parts."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return between.join(map(str, value))
    return str(value)
