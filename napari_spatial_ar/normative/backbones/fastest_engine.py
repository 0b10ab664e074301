"""Which engine computes a model's backbone on this machine: measured once and remembered.

All engines score the same few slices. The fastest one is chosen whose patch scores have a rank
correlation of at least `AGREEMENT` with those of float32, over all slices. By default only engines
that compute in float32 are tried, so that a score does not depend on the machine; engines of lower
precision are tried on request (`napari-spatial-ar speed`).
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from napari_spatial_ar.errors import Cancelled, InputError
from napari_spatial_ar.imaging.samples import sample_volume
from napari_spatial_ar.imaging.windows import Window, apply_window, resolve
from napari_spatial_ar.normative import speeds
from napari_spatial_ar.normative.backbones.devices import wait
from napari_spatial_ar.normative.backbones.engines import available
from napari_spatial_ar.normative.backbones.kept_tokens import KeptTokens
from napari_spatial_ar.normative.memory import is_shortage
from napari_spatial_ar.normative.model import NormativeModel
from napari_spatial_ar.normative.tiling import Tiling

__all__ = [
    "AGREEMENT",
    "VARIABLE",
    "Trial",
    "choose_engine",
    "fastest",
    "recalled",
    "remember",
    "trials",
]

#: Minimum rank correlation of an engine's patch scores with those of float32.
AGREEMENT = 0.999
# A smaller gain is not worth different digits.
_GAIN = 1.1
_SLICES, _REPEATS = 3, 3
# Tried only on request. All but one have lower precision than float32, and 8 bits gained nothing
# when measured (docs/explanation/speed.md); torch.compile compiles for minutes, in each process.
_ONLY_WHEN_ASKED = ("bfloat16", "float16", "openvino-bfloat16", "openvino-int8", "compiled")
#: Environment variable that forces an engine; nothing is measured then.
VARIABLE = "NAPARI_SPATIAL_AR_ENGINE"


@dataclass(frozen=True)
class Trial:
    """The result of trying an engine.

    Parameters
    ----------
    engine : str
        Its name.
    seconds : float
        Time of the backbone for one input; the median of a few.
    agreement : float
        Rank correlation of patch scores with those of float32.
    problem : str
        Why the engine could not be tried, as a clause; "" if it could.
    """

    engine: str
    seconds: float
    agreement: float
    problem: str = ""

    @property
    def agrees(self) -> bool:
        """Whether its maps may replace those of float32."""
        return not self.problem and self.agreement >= AGREEMENT


def trials(model: NormativeModel, engines: Sequence[str] = ()) -> Generator[Trial, None, None]:
    """Try engines one by one, float32 first; the model keeps its current engine meanwhile.

    Parameters
    ----------
    model : NormativeModel
        The model to score with.
    engines : sequence of str, optional
        Engines to try; by default the available float32 engines except torch.compile.

    Raises
    ------
    InputError
        If an engine is not available on this device.
    """
    wanted = tuple(engines) or tuple(_choices(model.device))
    inputs, reference = _inputs(model), None
    for name in ("float32", *(n for n in wanted if n != "float32")):
        try:
            seconds, scores = _tried(model, name, inputs)
        except (Cancelled, InputError):
            raise
        except Exception as error:  # compilers raise errors of their own
            if name == "float32":
                raise
            what = "memory runs short" if is_shortage(error) else type(error).__name__
            yield Trial(name, float("nan"), float("nan"), what)
            continue
        if reference is None:
            reference = scores
        yield Trial(name, seconds, _rank_correlation(scores, reference))


def fastest(tried: Iterable[Trial]) -> str:
    """Name of the fastest engine that agrees; float32 if none is faster by at least a tenth."""
    of_engines = {trial.engine: trial for trial in tried}
    enough = of_engines["float32"].seconds / _GAIN
    better = [t for t in of_engines.values() if t.agrees and t.seconds < enough]
    return min(better, key=lambda trial: trial.seconds, default=of_engines["float32"]).engine


def choose_engine(model: NormativeModel, *, measure: bool = True) -> str:
    """Switch a model to its fastest float32 engine, or to the one requested earlier.

    Parameters
    ----------
    model : NormativeModel
        The model to score with.
    measure : bool
        Whether to measure, which takes seconds, if that was never done on this machine. If False
        and nothing was measured, float32 is used.

    Returns
    -------
    str
        The engine.

    Raises
    ------
    Cancelled
        If this thread was cancelled, see `napari_spatial_ar.normative.cancellation`.
    InputError
        If the environment variable names an engine that does not exist.
    """
    chosen = os.environ.get(VARIABLE, "") or recalled(model)
    if not chosen and measure and _choices(model.device):
        chosen = fastest(trials(model))
        remember(model, chosen)
    model.use_engine(chosen or "float32")
    return chosen or "float32"


def recalled(model: NormativeModel) -> str:
    """Name of the engine measured to be the fastest here; "" if not measured yet."""
    chosen = speeds.recall_choice(_key(model))
    return chosen if chosen in available(model.device) else ""


def remember(model: NormativeModel, engine: str) -> None:
    """Store the choice for this model's backbone, method and size on this machine."""
    speeds.remember_choice(_key(model), engine)


def _choices(device: torch.device) -> list[str]:
    """Names of the engines tried by default, besides float32."""
    return [n for n in available(device) if n not in ("float32", *_ONLY_WHEN_ASKED)]


def _key(model: NormativeModel) -> list[Any]:
    header = model.header
    return [
        # Choices stored under "engine" may be lower-precision engines that were not requested.
        "float32 engine or asked for",
        header.backbone.sha256,
        list(header.backbone.layers),
        list(header.preprocessing.size),
        header.preprocessing.tile,
        *(["skip air"] if header.preprocessing.skip_air else []),
        header.method,
        speeds.machine(model.device),
        torch.__version__,
        _openvino_version(),
    ]


def _openvino_version() -> str:
    try:
        return version("openvino")
    except PackageNotFoundError:
        return ""


def _inputs(model: NormativeModel) -> list[tuple[Any, ...]]:
    """Slices of the sample scan as inputs of `Backbone.compute`, each (1, 3, H, W)."""
    volume = sample_volume()
    window = resolve(Window("percentile", 1.0, 99.0), volume)
    count = volume.geometry.slice_count
    preprocessing = model.header.preprocessing
    tiling = Tiling.of(preprocessing, model.backbone.patch)
    inputs: list[tuple[Any, ...]] = []
    for number in range(_SLICES):
        index = count * (number + _SLICES) // (3 * _SLICES)
        unit, patch = apply_window(volume.slice(index), *window), model.backbone.patch
        tile = tiling.cut(preprocessing(unit), patch)[len(tiling) // 2, None].to(model.device)
        present = preprocessing.present(unit, patch)
        if present is None:
            inputs.append((tile,))
        else:
            inputs.append((tile, KeptTokens.of(tiling.cut(present)[len(tiling) // 2, None])))
    return inputs


@torch.inference_mode()
def _tried(
    model: NormativeModel, engine: str, inputs: Sequence[tuple[Any, ...]]
) -> tuple[float, np.ndarray]:
    """Seconds per input, and the patch scores of all inputs."""
    seconds, scores = [], []
    model.backbone.compute_with(engine, *inputs[0])
    for number in range(_REPEATS):
        # Release the backbone after each input, so that scoring in another thread is not delayed.
        with model.lock.held():
            begin = time.perf_counter()
            grid = model.backbone.compute_with(engine, *inputs[number % len(inputs)])
            wait(model.device)
            seconds.append(time.perf_counter() - begin)
            smooth = model.header.scoring.smooth(model.detector.score(grid).float())
            scores.append(smooth.flatten().cpu().numpy())
    return statistics.median(seconds), np.concatenate(scores)


def _rank_correlation(scores: np.ndarray, reference: np.ndarray) -> float:
    scored = ~np.isnan(reference)  # the rest is air, left out by every engine
    if not np.isfinite(scores[scored]).all():
        return float("nan")
    return float(spearmanr(scores[scored], reference[scored]).statistic)
