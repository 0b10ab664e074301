"""Methods of the anomalib library as rivals: fitted, kept in files, scoring slices like ours."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from napari_spatial_ar.datasets.folders import SliceRef, find_slices, iter_slices
from napari_spatial_ar.errors import InputError, ModelFileError
from napari_spatial_ar.evaluation.anomalib_methods import ERRORS, AnomalibMethod, failed, link
from napari_spatial_ar.evaluation.rivals import Rival, folder_name, record, recorded_seconds
from napari_spatial_ar.imaging.files import atomic_path
from napari_spatial_ar.imaging.volume import Modality
from napari_spatial_ar.imaging.windows import apply_window, default_window, resolve
from napari_spatial_ar.normative.backbones.devices import resolve_device
from napari_spatial_ar.normative.model_file import BackboneRef, ModelHeader
from napari_spatial_ar.normative.preprocessing import Preprocessing
from napari_spatial_ar.normative.scores import Scoring, SliceScore

__all__ = ["AnomalibModel", "MapScoring", "fit_anomalib"]

Prepare = Callable[[Tensor], Tensor]

_FILE = "anomalib.safetensors"
# Patches in a side of what our own methods see (448 / 16).
_PATCHES = 28


@dataclass(frozen=True)
class MapScoring(Scoring):
    """Scoring for maps of pixels: smoothing still counts patches, 28 of which make a side.

    1 leaves the map as the method gives it.
    """

    def smooth(self, scores: Tensor) -> Tensor:
        """Mean-filter maps (B, H, W) over as much of them as so many patches cover."""
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
        As of `NormativeModel`; the header only names the backbone, which the network holds.
    network : Module
        From slices, prepared, to an anomaly map and an image score.
    prepare : callable
        From slices (B, 3, H, W) in 0..1 to the network's input.
    frozen : str
        Attribute of the network that holds a frozen backbone, or "".
    sha256 : str
        Of its file.
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
        self, image: npt.NDArray[Any], *, window: tuple[float, float] | None = None
    ) -> SliceScore:
        """Score one upright slice (Y, X); the grid is the method's map, a value a pixel.

        Raises
        ------
        InputError
            If the method gives scores that are no numbers.
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
) -> Rival:
    """Fit a method on a data set once for each seed, or load what an earlier run fitted.

    Parameters
    ----------
    root : path
        Data set in the BMAD layout.
    method : AnomalibMethod
        What learns.
    seeds : sequence of int
        One model each.
    folder : Path
        Where the models go, a folder each.
    modality, patient_pattern, device
        As for `fit_steps`; the window is the modality's.
    progress : callable, optional
        Called with (what is going on, batches done, batches in all).

    Raises
    ------
    InputError
        If the data set cannot be used, a folder holds a model of other settings, or anomalib
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
                # A tensor that shares its memory with another is written as its own.
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
    return Rival(method.label, tuple(models), method.notes)


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
            "this is no whole model of anomalib", path=path, fix="Delete it and run this again"
        ) from error
    return module.model, prepare


class _Slices(torch.utils.data.Dataset[Tensor]):
    """Training slices as the networks are shown them, read when they are asked for."""

    def __init__(self, refs: Sequence[SliceRef], preprocessing: Preprocessing) -> None:
        self._refs, self._preprocessing = refs, preprocessing

    def __len__(self) -> int:
        return len(self._refs)

    def __getitem__(self, index: int) -> Tensor:
        ((_, image, ends),) = iter_slices([self._refs[index]], self._preprocessing.window)
        return self._preprocessing(apply_window(image, *ends))
