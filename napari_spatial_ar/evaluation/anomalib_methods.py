"""Which methods of the anomalib library are compared, and whether they can run here."""

from __future__ import annotations

import importlib
import warnings
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from napari_spatial_ar.errors import InputError, WeightsError
from napari_spatial_ar.evaluation.rivals import read_settings, said_with

__all__ = ["ERRORS", "METHODS", "AnomalibMethod", "Kind", "anomalib_method", "failed", "link"]


@dataclass(frozen=True)
class Kind:
    """A model class of anomalib.

    Parameters
    ----------
    name : str
        Of the class.
    frozen : str
        Attribute of the network that holds the frozen backbone; "" where there is none.
    epochs : int
        What its authors or anomalib's examples train; 1 for what looks at a slice once.
    """

    name: str
    frozen: str
    epochs: int

    @property
    def numbers(self) -> dict[str, int]:
        """What holds of its training and its slices, unless said otherwise."""
        return {"epochs": self.epochs, "batch_size": 32, "size": 256}


METHODS = {
    "patchcore": Kind("Patchcore", "feature_extractor", 1),
    "padim": Kind("Padim", "feature_extractor", 1),
    "reverse-distillation": Kind("ReverseDistillation", "encoder", 200),
    "stfpm": Kind("Stfpm", "teacher_model", 100),
    "cfa": Kind("Cfa", "feature_extractor", 30),
    "cflow": Kind("Cflow", "encoder", 50),
    "draem": Kind("Draem", "", 700),
}
# What a failing library raises; the sentence for it says what it said.
ERRORS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
_LINK = "napari_spatial_ar.evaluation.anomalib_link"
_NOISE = "none"
_PICTURES = (".jpg", ".jpeg", ".png")  # anomalib goes by the ending
# Networks halve a slice up to five times.
_STEP = 32


@dataclass(frozen=True)
class AnomalibMethod:
    """A method with its settings, all of which anomalib knows.

    Parameters
    ----------
    name : str
        A key of `METHODS`.
    given : dict
        Settings of anomalib's class that differ from its defaults.
    epochs, batch_size : int
        Of its training.
    size : int
        Rows and columns that slices are resized to.
    """

    name: str
    given: dict[str, Any]
    epochs: int
    batch_size: int
    size: int

    @property
    def kind(self) -> Kind:
        """The class."""
        return METHODS[self.name]

    @cached_property
    def options(self) -> dict[str, Any]:
        """Settings of the class, those given and the defaults."""
        return {**link().options(self.kind.name), **self.given}

    @property
    def pretrained(self) -> bool:
        """Whether its backbone has learned from photographs, as published."""
        return bool(self.options.get("pre_trained", True))

    @property
    def backbone(self) -> str:
        """Name of the backbone, as it stands in reports."""
        name = self.options.get("backbone", "no backbone")
        return str(name) if self.pretrained else f"{name} with random weights"

    @property
    def label(self) -> str:
        """The method as it stands in reports; what makes it another method is not to be missed."""
        shown = {k: v for k, v in self.given.items() if k not in ("pre_trained", "dtd_dir")}
        numbers = {key: getattr(self, key) for key in self.kind.numbers}
        shown |= {k: value for k, value in numbers.items() if value != self.kind.numbers[k]}
        label = said_with(f"anomalib {self.name}", shown)
        if not self.pretrained:
            label += " (random weights)"
        return f"{label} (noise for textures)" if self._noise else label

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of its figures has to know."""
        plural = "" if self.epochs == 1 else "s"
        notes = [
            f"{self.label}: anomalib {link().VERSION}, {self.backbone}, slices of {self.size} x "
            f"{self.size}, {self.epochs} epoch{plural}."
        ]
        if not self.pretrained or self._noise:
            notes.append(
                f"{self.label} is not the published method, and its figures do not stand for that."
            )
        return tuple(notes)

    def to_dict(self) -> dict[str, Any]:
        """All that makes it this method."""
        return asdict(self)

    @property
    def _noise(self) -> bool:
        return self.given.get("dtd_dir") == _NOISE

    def build(self, seed: int = 0, *, weights: bool = True) -> tuple[Any, Any]:
        """Make the model, not trained yet: see `anomalib_link.build`.

        Parameters
        ----------
        seed : int
            Of everything drawn at random.
        weights : bool
            False where weights of the backbone are to be loaded afterwards anyway.

        Raises
        ------
        WeightsError
            If its pretrained weights are not at hand.
        InputError
            If a setting is out of range.
        """
        settings = dict(self.given)
        if not weights and "pre_trained" in self.options:
            settings["pre_trained"] = False
        with TemporaryDirectory() as empty:
            if self._noise:
                settings["dtd_dir"] = empty
            try:
                return link().build(self.kind.name, settings, self.size, seed)  # type: ignore[no-any-return]
            except OSError as error:
                fix = "Run this once where the model hub can be reached"
                if "pre_trained" in self.options:
                    fix += f", or try the command out with {self.name}:pre_trained=false"
                raise WeightsError(
                    f"the pretrained weights of anomalib's {self.name} ({self.backbone}) are "
                    "neither at hand nor could they be fetched",
                    fix=fix,
                ) from error
            except ERRORS as error:
                raise failed(self.name, error) from error


def anomalib_method(text: str) -> AnomalibMethod:
    """Read a method, with settings after a colon where wanted, and see that it can run here.

    Parameters
    ----------
    text : str
        A key of `METHODS`; settings are those of anomalib's class, and ``epochs``,
        ``batch_size`` and ``size``: ``patchcore:coreset_sampling_ratio=0.01,size=448``.

    Raises
    ------
    InputError
        If there is no such method or setting, or anomalib does not import.
    WeightsError
        If its pretrained weights are not at hand and cannot be fetched.
    """
    name, _, given = text.partition(":")
    if name not in METHODS:
        raise InputError(
            f"there is no method '{name}' of anomalib here", fix=f"Choose: {', '.join(METHODS)}"
        )
    kind = METHODS[name]
    numbers = kind.numbers
    known = {*numbers, *link().options(kind.name)}
    if kind.epochs == 1:
        known.remove("epochs")  # it looks at a slice once, whatever is asked for
    settings = read_settings(given, sorted(known))
    numbers |= {key: settings.pop(key) for key in numbers if key in settings}
    for key, value in numbers.items():
        if type(value) is not int or value < 1 or (key == "size" and value % _STEP):
            wanted = f"a multiple of {_STEP}" if key == "size" else "a whole number above 0"
            raise InputError(f"the {key} of anomalib's {name} must be {wanted}, not {value!r}")
    if name == "draem":
        _check_textures(settings.get("dtd_dir"))
    method = AnomalibMethod(name, settings, **numbers)
    method.build()
    return method


def _check_textures(folder: Any) -> None:
    """See that there is a folder; anomalib would fill one by itself, or be content with none."""
    if folder == _NOISE:
        return
    pictures = Path(folder).rglob("*") if isinstance(folder, str) else iter(())
    if not any(path.suffix.lower() in _PICTURES for path in pictures):
        raise InputError(
            "anomalib's draem paints textures into normal slices, and there is no folder of them",
            fix="Write draem:dtd_dir=FOLDER with the pictures of the Describable Textures Dataset, "
            "or try the command out with draem:dtd_dir=none (noise instead)",
        )


def link() -> Any:
    """Import what calls anomalib.

    Raises
    ------
    InputError
        If anomalib is not installed or does not import.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # of what anomalib imports
            return importlib.import_module(_LINK)
    except (ImportError, OSError, *ERRORS) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "anomalib":
            raise InputError(
                "anomalib is not installed, whose methods --anomalib compares",
                fix='Run: pip install "napari-spatial-ar[anomalib]"',
            ) from error
        raise InputError(
            f"anomalib does not import here: {_said(error)}",
            fix="Install builds of torch and torchvision that belong together",
        ) from error


def failed(name: str, error: Exception) -> InputError:
    """Turn what anomalib raised into a sentence."""
    return InputError(f"anomalib's {name} failed: {_said(error)}")


def _said(error: Exception) -> str:
    """Give the first line of an error, or its kind."""
    return next(iter(str(error).splitlines()), "").rstrip(".! ") or type(error).__name__
