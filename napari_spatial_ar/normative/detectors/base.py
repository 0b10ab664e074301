"""What every detector does: learn from grids of embeddings, score one, be written to a file."""

from __future__ import annotations

import ast
import inspect
import math
import operator
import re
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from docstring_parser import DocstringStyle, parse
from torch import Tensor

from napari_spatial_ar.errors import InputError, ModelFileError, ModelVersionError, SpatialARError
from napari_spatial_ar.normative.detectors.explanation import Explanation, Quantity
from napari_spatial_ar.normative.model_schema import Part, describe_error
from napari_spatial_ar.normative.scores import Scoring, SliceScore
from napari_spatial_ar.normative.tiling import Tiling
from napari_spatial_ar.steps import finish

__all__ = [
    "DETECTORS",
    "Detector",
    "FitContext",
    "Learned",
    "Learning",
    "Option",
    "Step",
    "check_options",
    "detector_from_tensors",
    "of_kind",
    "score_grid",
]

DETECTORS: dict[str, type[Detector]] = {}

# Words by which the docstring of `learn` limits a number.
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
# What a model file's tensors may be.
_KINDS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class FitContext:
    """What a detector is told besides the grids and its own options.

    Parameters
    ----------
    blocks : int
        Blocks of the backbone whose channels a grid holds one after the other.
    seed : int
        Of everything drawn at random.
    device : torch.device
        Where to compute.
    valid : iterable of (B, D, Hp, Wp) float
        Grids of normal slices held out, for the methods that choose between epochs or measure
        what is usual.
    normals : iterable of (B, D, Hp, Wp) float
        Grids of the normal slices, for a method whose own grids are those of changed ones.
    checkpoint : Path, optional
        Where a method that trains keeps what it needs to go on after a stop.
    """

    blocks: int = 1
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    valid: Iterable[Tensor] = ()
    normals: Iterable[Tensor] = ()
    checkpoint: Path | None = None


@dataclass(frozen=True)
class Step:
    """Where learning stands: the fields of `FitProgress` that a method knows."""

    done: int
    total: int
    message: str = "Learning"
    epoch: int = 0
    epochs: int = 0
    train_nll: tuple[float, ...] = ()
    valid_nll: tuple[float, ...] = ()
    best_epoch: int = -1
    images: int = 1  # slices a unit of `done` stands for; 0 where it stands for none


D_co = TypeVar("D_co", bound="Detector", covariant=True)


@dataclass(frozen=True)
class Learned(Generic[D_co]):
    """A detector, and what the model file says of how it came about."""

    detector: D_co
    summary: dict[str, Any] = field(default_factory=dict)


Learning = Generator[Step, None, Learned[D_co]]


@dataclass(frozen=True)
class Option:
    """One of a method's own options, as `Detector.learn` declares and documents it.

    Parameters
    ----------
    name : str
        Its keyword.
    default : int, float, str or bool
        Its default, which also tells its kind.
    text : str
        What it is, for people.
    choices : tuple
        All that it may be, where these are few.
    limits : tuple of (str, float)
        Of a number, as ``("at least", 1.0)``; other words are "above", "at most" and "below".
    """

    name: str
    default: Any
    text: str
    choices: tuple[Any, ...] = ()
    limits: tuple[tuple[str, float], ...] = ()

    @property
    def rule(self) -> str:
        """What it may be, in words: "at least 1", "adamw or muon"; "" where that is open."""
        said = " and ".join(f"{word} {limit:g}" for word, limit in self.limits)
        return said or " or ".join(map(str, self.choices))

    def check(self, value: Any) -> None:
        """See that a value is of the right kind and one that it may be.

        Raises
        ------
        InputError
            If it is not.
        """
        if not of_kind(value, self.default):
            kind = _KINDS_OF_OPTIONS[type(self.default)]
            raise InputError(f"the option '{self.name}' must be {kind}, not {value!r}")
        fits = all(_LIMITS[word](value, limit) for word, limit in self.limits)
        fits = fits and (not self.choices or value in self.choices)
        if not fits or (isinstance(value, float) and not math.isfinite(value)):
            raise InputError(f"{self.name} must be {self.rule or 'finite'}, not {value!r}")


class Detector(ABC):
    """A method that says how unusual each patch of an embedding grid is.

    Subclasses register themselves under `name` and are rebuilt from `parameters` and
    `tensors` alone, which is all that a model file holds of them.
    """

    name: ClassVar[str]
    #: Its name in words; by default made from `name`.
    title: ClassVar[str]
    #: Unit of the heatmap, as shown beside thresholds.
    unit: ClassVar[str]
    #: One line for lists of methods: what is unusual for it.
    summary: ClassVar[str]
    #: What a patch's score means, in a sentence or two for people.
    meaning: ClassVar[str] = ""
    #: Publication that it follows.
    reference: ClassVar[str]
    #: What fitting, scoring and the model file cost, in words.
    cost: ClassVar[str]
    #: Whether it learns from slices that were changed on purpose (`SyntheticGrids`).
    needs_synthetic: ClassVar[bool] = False
    #: Whether it learns from normal slices as they are; beside changes, as `FitContext.normals`.
    needs_normal: ClassVar[bool] = True
    #: Whether scoring looks at no value on its way, so that it can be replayed as a CUDA graph.
    replayable: ClassVar[bool] = False
    #: Whether its steps tell the loss of each epoch.
    reports_losses: ClassVar[bool] = False
    #: What `parameters` in a file may be; of a method without any, whatever it says.
    stored: ClassVar[type[Part]] = Part
    #: Options that came after it was first released, with the values at which it does what it did.
    later_options: ClassVar[Mapping[str, Any]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
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
            If there are no grids, or they do not fit each other. Whether options are in range is
            for `check_options` to see, before.
        """

    @classmethod
    def default_layers(cls, depth: int) -> tuple[int, ...] | None:
        """Blocks it reads of a backbone of ``depth`` blocks; None for the backbone's own choice."""
        del depth
        return None

    @classmethod
    def check(cls, options: Mapping[str, Any]) -> None:
        """See that options can be read and go together, before anything is computed.

        Parameters
        ----------
        options : mapping
            All of them, each for itself as the docstring of `learn` says.
        """
        del options

    @classmethod
    def check_shape(cls, options: Mapping[str, Any], rows: int, columns: int) -> None:
        """See that options fit grids of so many patches, before any is made."""
        del options, rows, columns

    @classmethod
    def passes(cls, options: Mapping[str, Any], train: int, valid: int = 0) -> int | None:
        """Slices that go through a training in batches, counted as often as they do.

        None for a method that does not train so: it walks through the slices a few times.

        Parameters
        ----------
        options : mapping
            All of its options.
        train, valid : int
            Slices to learn from and to validate on.
        """
        del options, train, valid
        return None

    @classmethod
    def options(cls) -> dict[str, Any]:
        """Own options and their defaults."""
        kinds = inspect.signature(cls.learn).parameters.values()
        return {p.name: p.default for p in kinds if p.kind is p.KEYWORD_ONLY}

    @classmethod
    def described_options(cls) -> tuple[Option, ...]:
        """Own options with what the docstring of `learn` says of them."""
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
        """Learn to the end, see `learn`; an option that is not the method's is an InputError."""
        check_options(cls, options)
        setup = FitContext(blocks=blocks, seed=seed, device=torch.device(device))
        return finish(cls.learn(grids, setup, **options)).detector

    @property
    @abstractmethod
    def heatmap_divisor(self) -> float:
        """Number the patch scores are divided by to make the heatmap (D for nats per dimension)."""

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
        """Score whole slices, (B,) float32; None where the patch scores say it (see `Scoring`)."""
        del grid
        return None

    def all_scores(self, grid: Tensor) -> tuple[Tensor, Tensor | None]:
        """Give what `score` and `image_scores` give, for methods that make both in one go."""
        return self.score(grid), self.image_scores(grid)

    def explain(self, grid: Tensor, row: int, column: int) -> Explanation:
        """Say what one patch's score means and is made from; methods with more to say add it.

        Parameters
        ----------
        grid : (1, D, Hp, Wp) float
            Embeddings, where the detector is.
        row, column : int
            The patch.

        Raises
        ------
        InputError
            As `score`.
        """
        score = float(self.score(grid)[0, row, column]) / self.heatmap_divisor
        meaning = self.meaning or f"The score says: {self.summary}."
        return Explanation(meaning, (Quantity("Score of this patch alone", score, self.unit),))

    @abstractmethod
    def parameters(self) -> dict[str, Any]:
        """Give the settings, as plain JSON values."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Give the learned tensors by name, on the CPU."""

    @classmethod
    @abstractmethod
    def from_tensors(cls, parameters: dict[str, Any], tensors: Mapping[str, Tensor]) -> Detector:
        """Inverse of `parameters` and `tensors`.

        Raises
        ------
        ModelFileError
            If they do not fit each other.
        """

    @abstractmethod
    def to(self, device: torch.device) -> Detector:
        """Move to a device, in place."""


def check_options(method: type[Detector], options: Mapping[str, Any]) -> None:
    """See that options are the method's own, of the right kind, in range and can be read.

    Raises
    ------
    InputError
        If one is not; it names those that are.
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
    """Whether a value is of the kind of a default: a whole number also where that is a float."""
    kinds = (int, float) if isinstance(default, float) else (type(default),)
    # True is an int to Python, and no number to the reader.
    return isinstance(value, kinds) and isinstance(value, bool) == isinstance(default, bool)


def detector_from_tensors(
    name: str, parameters: dict[str, Any], tensors: Mapping[str, Tensor]
) -> Detector:
    """Rebuild a detector from a model file's content, whatever stands in it.

    Raises
    ------
    ModelVersionError
        If this version knows no such method.
    ModelFileError
        If parameters and tensors are not those of such a detector.
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
    except Exception as error:  # what does not fit fails in the ways of whatever takes it
        what = (
            describe_error(error) if isinstance(error, ValueError) else "they do not fit each other"
        )
        said = error.what if isinstance(error, SpatialARError) else what
        raise ModelFileError(f"its parameters and tensors are not of {name}: {said}") from error


def score_grid(
    detector: Detector,
    scoring: Scoring,
    grids: Tensor,
    shape: tuple[int, int],
    tiling: Tiling | None = None,
) -> SliceScore:
    """Heatmap and image score of one slice from its embeddings.

    Parameters
    ----------
    detector, scoring
        Of the model.
    grids : (T, D, h, w) float
        Embeddings of the slice's tiles, where the detector is. The detector sees them one by one.
    shape : (int, int)
        Rows and columns of the slice.
    tiling : Tiling, optional
        Where the tiles lie; left out where the slice is not cut and T is 1.
    """
    tiles, own = zip(*(detector.all_scores(grid[None]) for grid in grids), strict=True)
    patches = tiles[0][0] if tiling is None else tiling.join(torch.cat(tiles))
    score = scoring(patches, shape, detector.heatmap_divisor)
    known = [float(image) for image in own if image is not None]
    return replace(score, image_score=max(known)) if known else score
