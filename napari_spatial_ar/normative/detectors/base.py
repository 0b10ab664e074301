"""The interface of detectors: learn from embedding grids, score one, be written to a file."""

from __future__ import annotations

import ast
import inspect
import math
import operator
import re
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from docstring_parser import DocstringStyle, parse
from torch import Tensor

from napari_spatial_ar.errors import InputError, ModelFileError, ModelVersionError, SpatialARError
from napari_spatial_ar.normative.detectors.explanation import Explanation, Quantity
from napari_spatial_ar.normative.heatmap import Scoring
from napari_spatial_ar.normative.model_schema import Part, describe_error
from napari_spatial_ar.normative.scores import SliceScore
from napari_spatial_ar.normative.tiling import Tiling
from napari_spatial_ar.steps import finish

__all__ = [
    "DETECTORS",
    "Detector",
    "FitContext",
    "Learned",
    "Learning",
    "Option",
    "PatchScores",
    "Step",
    "check_options",
    "detector_from_tensors",
    "of_kind",
    "score_grid",
]

DETECTORS: dict[str, type[Detector]] = {}

# Phrases by which the docstring of `learn` limits a number.
_LIMITS = {
    "at least": operator.ge,
    "above": operator.gt,
    "at most": operator.le,
    "below": operator.lt,
}
_KINDS_OF_OPTIONS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
}
_LIMIT = re.compile(rf"({'|'.join(_LIMITS)}) (-?[\d.]+)")
# Allowed dtypes of tensors in a model file.
_KINDS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class FitContext:
    """What a detector receives besides the grids and its own options.

    Parameters
    ----------
    blocks : int
        Number of backbone blocks whose channels are concatenated in a grid.
    seed : int
        Seed of everything drawn at random.
    device : torch.device
        Where to compute.
    valid : iterable of (B, D, Hp, Wp) float
        Grids of held-out normal slices, for methods that choose between epochs or measure the
        usual range of scores.
    normals : iterable of (B, D, Hp, Wp) float
        Grids of normal slices, for methods whose own grids are those of synthetic anomalies.
    checkpoint : Path, optional
        Where a method that trains stores its state, to resume after an interruption.
    """

    blocks: int = 1
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    valid: Iterable[Tensor] = ()
    normals: Iterable[Tensor] = ()
    checkpoint: Path | None = None


@dataclass(frozen=True)
class Step:
    """Progress of learning: the fields of `FitProgress` that a method knows."""

    done: int
    total: int
    message: str = "Learning"
    epoch: int = 0
    epochs: int = 0
    train_nll: tuple[float, ...] = ()
    valid_nll: tuple[float, ...] = ()
    best_epoch: int = -1
    images: int = 1  # slices per unit of `done`; 0 if units are not slices


D_co = TypeVar("D_co", bound="Detector", covariant=True)


@dataclass(frozen=True)
class Learned(Generic[D_co]):
    """A detector, and the training record for the model file."""

    detector: D_co
    summary: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PatchScores:
    """All that a detector says of grids.

    Parameters
    ----------
    patches : (B, Hp, Wp) float32
        See `Detector.score`.
    images : (B,) float32 or None
        See `Detector.image_scores`.
    parts : mapping of str to (B, Hp, Wp) float32
        Scores of each of `Detector.parts` alone.
    """

    patches: Tensor
    images: Tensor | None = None
    parts: Mapping[str, Tensor] = field(default_factory=dict)


Learning = Generator[Step, None, Learned[D_co]]


@dataclass(frozen=True)
class Option:
    """One of a method's own options, as `Detector.learn` declares and documents it.

    Parameters
    ----------
    name : str
        Its keyword.
    default : int, float, str or bool
        Its default, which also determines its type.
    text : str
        Description for users.
    choices : tuple
        All allowed values, if they are few.
    limits : tuple of (str, float)
        Limits of a number, such as ``("at least", 1.0)``; also "above", "at most" and "below".
    """

    name: str
    default: Any
    text: str
    choices: tuple[Any, ...] = ()
    limits: tuple[tuple[str, float], ...] = ()

    @property
    def rule(self) -> str:
        """The allowed values in words: "at least 1", "adamw or muon"; "" if not restricted."""
        bounds = " and ".join(f"{word} {limit:g}" for word, limit in self.limits)
        *first, last = map(str, self.choices or ("",))
        return bounds or " or ".join([*([", ".join(first)] if first else []), last])

    def check(self, value: Any) -> None:
        """Check the type and range of a value.

        Raises
        ------
        InputError
            If the value is not allowed.
        """
        if not of_kind(value, self.default):
            kind = _KINDS_OF_OPTIONS[type(self.default)]
            raise InputError(f"the option '{self.name}' must be {kind}, not {value!r}")
        fits = all(_LIMITS[word](value, limit) for word, limit in self.limits)
        fits = fits and (not self.choices or value in self.choices)
        if not fits or (isinstance(value, float) and not math.isfinite(value)):
            raise InputError(f"{self.name} must be {self.rule or 'finite'}, not {value!r}")


class Detector(ABC):
    """A method that scores how unusual each patch of an embedding grid is.

    Subclasses register themselves under `name` and are rebuilt from `parameters` and
    `tensors`, which are all that a model file stores.
    """

    name: ClassVar[str]
    #: Its name for users; derived from `name` by default.
    title: ClassVar[str]
    #: Unit of the heatmap, as shown beside thresholds.
    unit: ClassVar[str]
    #: One line for lists of methods: what it measures.
    summary: ClassVar[str]
    #: What a patch's score means, in a sentence or two for users.
    meaning: ClassVar[str] = ""
    #: The publication it follows.
    reference: ClassVar[str]
    #: What fitting, scoring and the model file cost, in words.
    cost: ClassVar[str]
    #: Whether it learns from synthetic anomalies (`SyntheticGrids`).
    needs_synthetic: ClassVar[bool] = False
    #: Whether it learns from unchanged normal slices; if also synthetic, `FitContext.normals`.
    needs_normal: ClassVar[bool] = True
    #: Whether scoring does not branch on values, so that it can be replayed as a CUDA graph.
    replayable: ClassVar[bool] = False
    #: Whether patches of air are skipped by default, where there is air.
    skips_air: ClassVar[bool] = False
    #: Whether its steps report the loss of each epoch.
    reports_losses: ClassVar[bool] = False
    #: Schema of `parameters` in a file; by default anything is accepted.
    stored: ClassVar[type[Part]] = Part
    #: Options added after its first release, with the values that reproduce its old behaviour.
    later_options: ClassVar[Mapping[str, Any]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "name" not in vars(cls):
            return  # what several methods have in common
        if "title" not in vars(cls):
            cls.title = cls.name.replace("-", " ").capitalize()
        DETECTORS[cls.name] = cls

    @classmethod
    @abstractmethod
    def learn(cls, grids: Any, *args: Any, **options: Any) -> Learning[Detector]:
        """Learn from normal slices step by step; stop iterating to cancel.

        Parameters
        ----------
        grids : sequence of (B, D, Hp, Wp) float
            Embeddings of normal slices, walked more than once.
        setup : FitContext
            The second argument.
        **options
            The method's own, each with a default: `options` lists them.

        Yields
        ------
        Step

        Returns
        -------
        Learned

        Raises
        ------
        InputError
            If there are no grids, or their shapes do not match. The range of options is checked
            earlier, by `check_options`.
        """

    @classmethod
    def default_layers(cls, depth: int) -> tuple[int, ...] | None:
        """Blocks read of a backbone of ``depth`` blocks; None for the backbone's own choice."""
        del depth
        return None

    @classmethod
    def check(cls, options: Mapping[str, Any]) -> None:
        """Check that options can be parsed and combined, before anything is computed.

        Parameters
        ----------
        options : mapping
            All options, each of which satisfies the docstring of `learn`.
        """
        del options

    @classmethod
    def check_shape(cls, options: Mapping[str, Any], rows: int, columns: int) -> None:
        """Check options against the size of the grids, before any is computed."""
        del options, rows, columns

    @classmethod
    def passes(cls, options: Mapping[str, Any], train: int, valid: int = 0) -> int | None:
        """Slices processed in training batches, summed over all epochs.

        None for a method without such training: it reads the slices a few times only.

        Parameters
        ----------
        options : mapping
            All options.
        train, valid : int
            Number of training and of validation slices.
        """
        del options, train, valid
        return None

    @classmethod
    def stages(
        cls, options: Mapping[str, Any], train: int
    ) -> Sequence[tuple[type[Detector], Mapping[str, Any]]]:
        """Return the methods that learn one after the other, with their options.

        Itself alone, unless it combines others.

        Parameters
        ----------
        options : mapping
            All options.
        train : int
            Number of training slices.
        """
        del train
        return [(cls, options)]

    @classmethod
    def options(cls) -> dict[str, Any]:
        """Own options and their defaults."""
        kinds = inspect.signature(cls.learn).parameters.values()
        return {p.name: p.default for p in kinds if p.kind is p.KEYWORD_ONLY}

    @classmethod
    def described_options(cls) -> tuple[Option, ...]:
        """Own options, described by the docstring of `learn`."""
        documented = {}
        for entry in parse(cls.learn.__doc__ or "", DocstringStyle.NUMPYDOC).params:
            kind = entry.type_name or ""
            choices = ast.literal_eval(f"({kind[1:-1]},)") if kind.startswith("{") else ()
            limits = tuple((word, float(limit)) for word, limit in _LIMIT.findall(kind))
            text = " ".join((entry.description or "").split()).replace("`", "")
            for name in entry.arg_name.split(","):
                documented[name.strip()] = text, choices, limits
        return tuple(
            Option(name, default, *documented.get(name, ("", (), ())))
            for name, default in cls.options().items()
        )

    @classmethod
    def fit(
        cls,
        grids: Any,
        *,
        blocks: int = 1,
        seed: int = 0,
        device: torch.device | str = "cpu",
        **options: Any,
    ) -> Any:
        """Learn to the end, see `learn`; `InputError` for an option that the method lacks."""
        check_options(cls, options)
        setup = FitContext(blocks=blocks, seed=seed, device=torch.device(device))
        return finish(cls.learn(grids, setup, **options)).detector

    @property
    @abstractmethod
    def heatmap_divisor(self) -> float:
        """Divisor of the patch scores that gives the heatmap (D for nats per dimension)."""

    @abstractmethod
    def score(self, grid: Tensor) -> Tensor:
        """Score patches.

        Parameters
        ----------
        grid : (B, D, Hp, Wp) float
            Embeddings.

        Returns
        -------
        (B, Hp, Wp) float32
            Larger is more unusual.

        Raises
        ------
        InputError
            If the grid has other axes or channels than those fitted on.
        """

    def image_scores(self, grid: Tensor) -> Tensor | None:
        """Score slices as a whole, (B,) float32; None to use the patch scores (see `Scoring`)."""
        del grid
        return None

    @property
    def scores_images(self) -> bool:
        """Whether `image_scores` returns scores of its own."""
        return type(self).image_scores is not Detector.image_scores

    def all_scores(self, grid: Tensor) -> PatchScores:
        """Return `score`, `image_scores` and the scores of `parts`, all that a grid gives."""
        return PatchScores(self.score(grid), self.image_scores(grid))

    @property
    def loss_unit(self) -> str:
        """Unit of the losses that its training reports."""
        return self.unit

    @property
    def parts(self) -> Mapping[str, Detector]:
        """The detectors that it combines, by name, each of which can score alone; often none."""
        return {}

    def explain(self, grid: Tensor, row: int, column: int) -> Explanation:
        """Explain one patch's score: its meaning and components; methods may add detail.

        Parameters
        ----------
        grid : (1, D, Hp, Wp) float
            Embeddings, where the detector is.
        row, column : int
            The patch.

        Raises
        ------
        InputError
            As for `score`.
        """
        score = float(self.score(grid)[0, row, column]) / self.heatmap_divisor
        meaning = self.meaning or f"The score measures: {self.summary}."
        return Explanation(meaning, (Quantity("Score of this patch alone", score, self.unit),))

    @abstractmethod
    def parameters(self) -> dict[str, Any]:
        """Return the settings, as plain JSON values."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return the learned tensors by name, on the CPU."""

    @classmethod
    @abstractmethod
    def from_tensors(cls, parameters: dict[str, Any], tensors: Mapping[str, Tensor]) -> Detector:
        """Inverse of `parameters` and `tensors`.

        Raises
        ------
        ModelFileError
            If they do not match each other.
        """

    @abstractmethod
    def to(self, device: torch.device) -> Detector:
        """Move to a device, in place."""


def check_options(method: type[Detector], options: Mapping[str, Any]) -> None:
    """Check that options belong to the method, have the right type and range, and can be parsed.

    Raises
    ------
    InputError
        If one does not; the message lists the method's options.
    """
    known = {option.name: option for option in method.described_options()}
    for name, value in options.items():
        if name not in known:
            listed = ", ".join(f"{o.name} ({o.default})" for o in known.values()) or "it has none"
            raise InputError(
                f"the method '{method.name}' has no option '{name}'",
                fix=f"Its options, with their defaults: {listed}",
            )
        known[name].check(value)
    method.check({**method.options(), **options})


def of_kind(value: object, default: object) -> bool:
    """Whether a value has the type of a default; an integer is accepted for a float."""
    kinds = (int, float) if isinstance(default, float) else (type(default),)
    # In Python True is an int, but to the user it is not a number.
    return isinstance(value, kinds) and isinstance(value, bool) == isinstance(default, bool)


def detector_from_tensors(
    name: str, parameters: dict[str, Any], tensors: Mapping[str, Tensor]
) -> Detector:
    """Rebuild a detector from the untrusted content of a model file.

    Raises
    ------
    ModelVersionError
        If this version does not have the method.
    ModelFileError
        If parameters and tensors do not form such a detector.
    """
    if name not in DETECTORS:
        raise ModelVersionError(
            f"its method '{name}' is not known to this version (known: {', '.join(DETECTORS)})",
            fix="Update napari-spatial-ar",
        )
    for key, tensor in tensors.items():
        if tensor.dtype not in _KINDS:
            raise ModelFileError(f"'{key}' holds {tensor.dtype}, and no floating-point numbers")
        if not tensor.isfinite().all():
            raise ModelFileError(f"'{key}' holds values that are not finite")
    try:
        DETECTORS[name].stored.model_validate(parameters)
        return DETECTORS[name].from_tensors(parameters, tensors)
    except ModelFileError:
        raise
    except Exception as error:  # mismatched content can raise anything
        what = describe_error(error) if isinstance(error, ValueError) else "they do not match"
        reason = error.what if isinstance(error, SpatialARError) else what
        raise ModelFileError(f"its parameters and tensors do not form {name}: {reason}") from error


def score_grid(
    detector: Detector,
    scoring: Scoring,
    grids: Tensor,
    shape: tuple[int, int],
    tiling: Tiling | None = None,
) -> SliceScore:
    """Heatmap and image score of one slice, from its embeddings.

    Parameters
    ----------
    detector, scoring
        Those of the model.
    grids : (T, D, h, w) float
        Embeddings of the slice's tiles, on the detector's device; scored one by one.
    shape : (int, int)
        Rows and columns of the slice.
    tiling : Tiling, optional
        Positions of the tiles; omit if the slice is not tiled and T is 1.
    """
    tiles = [detector.all_scores(grid[None]) for grid in grids]

    def joined(scores: Sequence[Tensor]) -> Tensor:
        return scores[0][0] if tiling is None else tiling.join(torch.cat(list(scores)))

    score = scoring(joined([tile.patches for tile in tiles]), shape, detector.heatmap_divisor)
    parts = {
        name: joined([tile.parts[name] for tile in tiles]).cpu().numpy() for name in tiles[0].parts
    }
    known = [float(tile.images) for tile in tiles if tile.images is not None]
    # A tile of air alone has none.
    known = [image for image in known if not math.isnan(image)]
    image_score = max(known) if known else score.image_score
    return replace(score, parts=parts, image_score=image_score)
