"""Methods of the anomalib library: listing them, fitting them, and scoring slices with them."""

from __future__ import annotations

import hashlib
import importlib
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from napari_spatial_ar.datasets.folders import SliceRef, find_slices, iter_slices
from napari_spatial_ar.errors import InputError, ModelFileError, WeightsError
from napari_spatial_ar.evaluation.baselines import (
    ComparedMethod,
    describe_method,
    folder_name,
    record,
    recorded_seconds,
)
from napari_spatial_ar.imaging.files import atomic_path
from napari_spatial_ar.imaging.series import Modality
from napari_spatial_ar.imaging.windows import apply_window, default_window, resolve
from napari_spatial_ar.normative.backbones.devices import resolve_device
from napari_spatial_ar.normative.fitting.config import read_settings
from napari_spatial_ar.normative.heatmap import Scoring
from napari_spatial_ar.normative.model_file import BackboneRef, ModelHeader
from napari_spatial_ar.normative.preprocessing import Preprocessing
from napari_spatial_ar.normative.scores import SliceScore

__all__ = [
    "ERRORS",
    "METHODS",
    "AnomalibMethod",
    "AnomalibModel",
    "Kind",
    "MapScoring",
    "anomalib_method",
    "failed",
    "fit_anomalib",
    "link",
]


@dataclass(frozen=True)
class Kind:
    """A model class of anomalib.

    Parameters
    ----------
    name : str
        Name of the class.
    frozen : str
        Attribute of the network that contains the frozen backbone; "" if there is none.
    epochs : int
        Epochs used by its authors or anomalib's examples; 1 for methods that see a slice once.
    """

    name: str
    frozen: str
    epochs: int

    @property
    def numbers(self) -> dict[str, int]:
        """Default settings of its training and its slices."""
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


# Errors of a failing library; the message quotes them.
ERRORS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


_LINK = "napari_spatial_ar.evaluation.anomalib_link"


_NOISE = "none"


_PICTURES = (".jpg", ".jpeg", ".png")  # anomalib selects by extension


# Networks halve a slice up to five times.
_STEP = 32


@dataclass(frozen=True)
class AnomalibMethod:
    """A method with settings, all of which anomalib accepts.

    Parameters
    ----------
    name : str
        A key of `METHODS`.
    given : dict
        Settings of anomalib's class that differ from its defaults.
    epochs, batch_size : int
        Settings of its training.
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
        """Settings of the class: those given, and defaults."""
        return {**link().options(self.kind.name), **self.given}

    @property
    def pretrained(self) -> bool:
        """Whether its backbone was trained on photographs, as published."""
        return bool(self.options.get("pre_trained", True))

    @property
    def backbone(self) -> str:
        """Name of the backbone, for reports."""
        name = self.options.get("backbone", "no backbone")
        return str(name) if self.pretrained else f"{name} with random weights"

    @property
    def label(self) -> str:
        """Name of the method for reports, which shows deviations from the published one."""
        shown = {k: v for k, v in self.given.items() if k not in ("pre_trained", "dtd_dir")}
        numbers = {key: getattr(self, key) for key in self.kind.numbers}
        shown |= {k: value for k, value in numbers.items() if value != self.kind.numbers[k]}
        label = describe_method(f"anomalib {self.name}", shown)
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
                f"{self.label} is not the published method, and its figures do not represent it."
            )
        return tuple(notes)

    def to_dict(self) -> dict[str, Any]:
        """Everything that distinguishes this method."""
        return asdict(self)

    @property
    def _noise(self) -> bool:
        return self.given.get("dtd_dir") == _NOISE

    def build(self, seed: int = 0, *, weights: bool = True) -> tuple[Any, Any]:
        """Build the untrained model: see `anomalib_link.build`.

        Parameters
        ----------
        seed : int
            Seed of everything drawn at random.
        weights : bool
            False if weights of the backbone will be loaded afterwards anyway.

        Raises
        ------
        WeightsError
            If its pretrained weights are missing.
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
                    "neither installed nor could they be downloaded",
                    fix=fix,
                ) from error
            except ERRORS as error:
                raise failed(self.name, error) from error


def anomalib_method(text: str) -> AnomalibMethod:
    """Parse a method, optionally with settings after a colon, and check that it can run here.

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
        If its pretrained weights are missing and cannot be downloaded.
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
        known.remove("epochs")  # the method sees each slice once, whatever is requested
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


def _check_textures(folder: object) -> None:
    """Check that there is a folder; anomalib would fill one by itself, or do without."""
    if folder == _NOISE:
        return
    pictures = Path(folder).rglob("*") if isinstance(folder, str) else iter(())
    if not any(path.suffix.lower() in _PICTURES for path in pictures):
        raise InputError(
            "anomalib's draem paints textures into normal slices, and there is no folder of them",
            fix="Write draem:dtd_dir=FOLDER with the images of the Describable Textures Dataset, "
            "or try the command out with draem:dtd_dir=none (noise instead)",
        )


def link() -> Any:
    """Import the module that calls anomalib.

    Raises
    ------
    InputError
        If anomalib is not installed or does not import.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # from anomalib's own imports
            return importlib.import_module(_LINK)
    except (ImportError, OSError, *ERRORS) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "anomalib":
            raise InputError(
                "anomalib is not installed, whose methods --anomalib compares",
                fix='Run: pip install "napari-spatial-ar[anomalib]"',
            ) from error
        raise InputError(
            f"anomalib does not import here: {_describe_error(error)}",
            fix="Install matching builds of torch and torchvision",
        ) from error


def failed(name: str, error: Exception) -> InputError:
    """Turn an error of anomalib into a sentence."""
    return InputError(f"anomalib's {name} failed: {_describe_error(error)}")


def _describe_error(error: Exception) -> str:
    """Return the first line of an error, or its type."""
    return next(iter(str(error).splitlines()), "").rstrip(".! ") or type(error).__name__


Prepare = Callable[[Tensor], Tensor]


_FILE = "anomalib.safetensors"


# Patches per side of the input of our own methods (448 / 16).
_PATCHES = 28


@dataclass(frozen=True)
class MapScoring(Scoring):
    """Scoring for maps of pixels: smoothing still counts patches, 28 per side.

    With 1 the map is not smoothed.
    """

    def smooth(self, scores: Tensor) -> Tensor:
        """Mean-filter maps (B, H, W) over the area of this many patches."""
        for axis in (1, 2) if self.smoothing > 1 else ():
            half = round(scores.shape[axis] * self.smoothing / _PATCHES) // 2
            kernel = (2 * half + 1, 1) if axis == 1 else (1, 2 * half + 1)
            padding = (half, 0) if axis == 1 else (0, half)
            scores = functional.avg_pool2d(
                scores[:, None], kernel, stride=1, padding=padding, count_include_pad=False
            )[:, 0]
        return scores


@dataclass(frozen=True)
class _Fitted:
    """A trained network of anomalib."""

    network: nn.Module
    frozen: str
    heatmap_divisor: float = 1.0

    def tensors(self) -> Mapping[str, Tensor]:
        state = self.network.state_dict().items()
        return {name: v for name, v in state if not name.startswith(f"{self.frozen}.")}


class AnomalibModel:
    """A trained method of anomalib that scores slices.

    Parameters
    ----------
    name, header
        As for `NormativeModel`; the header only names the backbone, which the network contains.
    network : Module
        Maps prepared slices to an anomaly map and an image score.
    prepare : callable
        Maps slices (B, 3, H, W) in 0..1 to the network's input.
    frozen : str
        Attribute of the network that contains a frozen backbone, or "".
    sha256 : str
        Hash of its file.
    device : torch.device
        Where it scores.
    """

    def __init__(
        self,
        name: str,
        header: ModelHeader,
        network: nn.Module,
        prepare: Prepare,
        frozen: str,
        sha256: str,
        device: torch.device,
    ) -> None:
        self.name = name
        self.unit = "score of anomalib's method"
        self.header = header
        self.sha256 = sha256
        self.device = device
        self.detector = _Fitted(network.to(device).eval(), frozen)
        self._prepare = prepare

    def score_slice(
        self, image: npt.NDArray[np.generic], *, window: tuple[float, float] | None = None
    ) -> SliceScore:
        """Score one upright slice (Y, X); the grid is the method's map, one value per pixel.

        Raises
        ------
        InputError
            If the method returns scores that are not finite.
        """
        preprocessing, scoring = self.header.preprocessing, self.header.scoring
        low, high = window or resolve(preprocessing.window, image)
        batch = preprocessing(apply_window(image, low, high))[None].to(self.device)
        with torch.inference_mode():
            found = self.detector.network(self._prepare(batch))
        scores = found.anomaly_map.reshape(found.anomaly_map.shape[-2:]).float().cpu()
        own = float(found.pred_score.reshape(-1)[0])
        if not (torch.isfinite(scores).all() and np.isfinite(own)):
            raise InputError(f"{self.header.method} gave scores that are not finite numbers")
        rows, columns = image.shape
        score = scoring(scores, (rows, columns), self.detector.heatmap_divisor)
        return replace(score, image_score=own)


def fit_anomalib(
    root: str | Path,
    method: AnomalibMethod,
    seeds: Sequence[int],
    folder: Path,
    *,
    modality: Modality = "mri",
    patient_pattern: str | None = None,
    device: str = "auto",
    progress: Callable[[str, int, int], None] | None = None,
) -> ComparedMethod:
    """Fit a method on a dataset once for each seed, or load models fitted by an earlier run.

    Parameters
    ----------
    root : path
        Dataset in the BMAD layout.
    method : AnomalibMethod
        The method.
    seeds : sequence of int
        One model per seed.
    folder : Path
        Where to store the models, one folder each.
    modality, patient_pattern, device
        As for `fit_steps`; the window is the modality's.
    progress : callable, optional
        Called with (what is being done, batches done, batches in all).

    Raises
    ------
    InputError
        If the dataset cannot be used, a folder contains a model of other settings, or anomalib
        fails.
    ModelFileError
        If a file of an earlier run is damaged.
    WeightsError
        If pretrained weights are missing.
    """
    window = default_window(modality)
    preprocessing = Preprocessing(
        window, (method.size, method.size), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
    )
    found = find_slices(root, modality=modality, window=window, patient_pattern=patient_pattern)
    slices = _Slices(found.train, preprocessing)
    asked = {
        **{key: str(value) for key, value in method.to_dict().items()},
        "anomalib": link().VERSION,
        "data set": Path(root).resolve().name,
        "modality": modality,
        "patient_pattern": str(patient_pattern),
    }
    where = resolve_device(device)

    def at(done: int, total: int) -> None:
        if progress is not None:
            progress(f"{method.label}: Learning", done, total)

    models = []
    for seed in seeds:
        out = folder / folder_name(method.label, seed)
        path = out / _FILE
        if path.is_file():
            taken = recorded_seconds(out, asked)
            network, prepare = _load(path, method)
        else:
            record(out, asked)
            begin = time.perf_counter()
            network, prepare = _learn(method, slices, seed, where, at)
            taken = time.perf_counter() - begin
            with atomic_path(path) as temporary:
                # Tensors that share memory are written as separate ones.
                state = {k: v.contiguous().clone() for k, v in network.state_dict().items()}
                save_file(state, temporary)
            record(out, asked, taken)
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        header = ModelHeader(
            method=f"anomalib {method.name}",
            parameters=method.given,
            modality=modality,
            backbone=BackboneRef(method.backbone, (), ""),
            preprocessing=preprocessing,
            scoring=MapScoring(),
            training={"seed": seed, "seconds": taken},
        )
        frozen = method.kind.frozen
        models.append(AnomalibModel(out.name, header, network, prepare, frozen, digest, where))
    return ComparedMethod(method.label, tuple(models), method.notes)


def _learn(
    method: AnomalibMethod,
    slices: _Slices,
    seed: int,
    device: torch.device,
    progress: Callable[[int, int], None],
) -> tuple[nn.Module, Prepare]:
    module, prepare = method.build(seed)
    settings = {"epochs": method.epochs, "batch_size": method.batch_size}
    try:
        link().train(
            module, prepare, slices, **settings, seed=seed, device=device, progress=progress
        )
    except ERRORS as error:
        raise failed(method.name, error) from error
    return module.model, prepare


def _load(path: Path, method: AnomalibMethod) -> tuple[nn.Module, Prepare]:
    module, prepare = method.build(weights=False)
    try:
        module.model.load_state_dict(load_file(path))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ModelFileError(
            "this is not a complete model of anomalib", path=path, fix="Delete it and run again"
        ) from error
    return module.model, prepare


class _Slices(torch.utils.data.Dataset[Tensor]):
    """Training slices as inputs of the networks, read on access."""

    def __init__(self, refs: Sequence[SliceRef], preprocessing: Preprocessing) -> None:
        self._refs, self._preprocessing = refs, preprocessing

    def __len__(self) -> int:
        return len(self._refs)

    def __getitem__(self, index: int) -> Tensor:
        ((_, image, ends),) = iter_slices([self._refs[index]], self._preprocessing.window)
        return self._preprocessing(apply_window(image, *ends))
