"""Which engine computes a model's backbone on this machine: measured once, and remembered.

Engines score the same few slices. The fastest one is taken whose patch scores, over all slices,
have a rank correlation with float32's of `AGREEMENT` or more. Unasked, only engines that compute in
float32 are tried, so that a score does not depend on the machine; those of fewer digits are there
for who asks for them (`napari-spatial-ar speed`).
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import as_file, files
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from napari_spatial_ar.errors import Cancelled, InputError
from napari_spatial_ar.imaging.reading import read
from napari_spatial_ar.imaging.windows import Window, apply_window, resolve
from napari_spatial_ar.normative import speeds
from napari_spatial_ar.normative.backbones.devices import wait
from napari_spatial_ar.normative.backbones.engines import available
from napari_spatial_ar.normative.memory import is_shortage
from napari_spatial_ar.normative.model import NormativeModel
from napari_spatial_ar.normative.tiling import Tiling

__all__ = [
    "AGREEMENT",
    "VARIABLE",
    "Trial",
    "fastest",
    "recalled",
    "remember",
    "settle",
    "trials",
]

#: Rank correlation of patch scores with those of float32 that an engine must have.
AGREEMENT = 0.999
# A smaller gain than this is not worth other digits.
_GAIN = 1.1
_SLICES, _REPEATS = 3, 3
# Tried only where they are asked for. All but one have fewer digits than float32, and 8 bits gained
# nothing where that was measured (docs/explanation/speed.md); torch.compile compiles for minutes,
# in each process.
_ONLY_WHEN_ASKED = ("bfloat16", "float16", "openvino-bfloat16", "openvino-int8", "compiled")
#: Environment variable that forces an engine; nothing is measured then.
VARIABLE = "NAPARI_SPATIAL_AR_ENGINE"


@dataclass(frozen=True)
class Trial:
    """What came of trying an engine.

    Parameters
    ----------
    engine : str
        Its name.
    seconds : float
        Of the backbone, for one input of it; the median of a few.
    agreement : float
        Rank correlation of patch scores with those of float32.
    problem : str
        Why it could not be tried, as a clause; "" where it could.
    """

    engine: str
    seconds: float
    agreement: float
    problem: str = ""

    @property
    def agrees(self) -> bool:
        """Whether its maps may stand for those of float32."""
        return not self.problem and self.agreement >= AGREEMENT


def trials(model: NormativeModel, engines: Sequence[str] = ()) -> Generator[Trial, None, None]:
    """Try engines one by one, float32 first; meanwhile the model keeps the one that it has.

    Parameters
    ----------
    model : NormativeModel
        What scores.
    engines : sequence of str, optional
        Which; by default those of float32 that this machine has, but torch.compile.

    Raises
    ------
    InputError
        If there is no such engine on this device.
    """
    wanted = tuple(engines) or tuple(_choices(model.device))
    inputs, reference = _inputs(model), None
    for name in ("float32", *(n for n in wanted if n != "float32")):
        try:
            seconds, scores = _tried(model, name, inputs)
        except (Cancelled, InputError):
            raise
        except Exception as error:  # compilers fail in ways of their own
            if name == "float32":
                raise
            what = "memory runs short" if is_shortage(error) else type(error).__name__
            yield Trial(name, float("nan"), float("nan"), what)
            continue
        if reference is None:
            reference = scores
        yield Trial(name, seconds, _rank_correlation(scores, reference))


def fastest(tried: Iterable[Trial]) -> str:
    """Name of the fastest engine that agrees; float32 where none is faster by a tenth."""
    of_engines = {trial.engine: trial for trial in tried}
    enough = of_engines["float32"].seconds / _GAIN
    better = [t for t in of_engines.values() if t.agrees and t.seconds < enough]
    return min(better, key=lambda trial: trial.seconds, default=of_engines["float32"]).engine


def settle(model: NormativeModel, *, measure: bool = True) -> str:
    """Let a model use the fastest engine of float32, or the one that was asked for before.

    Parameters
    ----------
    model : NormativeModel
        What scores.
    measure : bool
        Whether to measure, which takes seconds, where that was never done on this machine; else
        float32 is used then.

    Returns
    -------
    str
        The engine.

    Raises
    ------
    Cancelled
        If this thread is to stop, see `napari_spatial_ar.normative.cancellation`.
    InputError
        If the environment asks for an engine that there is not.
    """
    chosen = os.environ.get(VARIABLE, "") or recalled(model)
    if not chosen and measure and _choices(model.device):
        chosen = fastest(trials(model))
        remember(model, chosen)
    model.use_engine(chosen or "float32")
    return chosen or "float32"


def recalled(model: NormativeModel) -> str:
    """Name of the engine that was found to be the fastest here; "" where that is not known."""
    chosen = speeds.recall_choice(_key(model))
    return chosen if chosen in available(model.device) else ""


def remember(model: NormativeModel, engine: str) -> None:
    """Keep a choice for this model's backbone, method and size on this machine."""
    speeds.remember_choice(_key(model), engine)


def _choices(device: torch.device) -> list[str]:
    """Name what is tried unasked, besides float32."""
    return [n for n in available(device) if n not in ("float32", *_ONLY_WHEN_ASKED)]


def _key(model: NormativeModel) -> list[Any]:
    header = model.header
    return [
        # Those under "engine" may have been chosen unasked with fewer digits.
        "float32 engine or asked for",
        header.backbone.sha256,
        list(header.backbone.layers),
        list(header.preprocessing.size),
        header.preprocessing.tile,
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


def _inputs(model: NormativeModel) -> list[Tensor]:
    """Slices of the sample scan as the backbone is shown them, each (1, 3, H, W)."""
    source = files("napari_spatial_ar") / "data" / "flair_tcga_lgg.nii.gz"
    with as_file(source) as path:
        (volume,) = read(path)
    window = resolve(Window("percentile", 1.0, 99.0), volume)
    count = volume.geometry.slice_count
    preprocessing = model.header.preprocessing
    tiling = Tiling.of(preprocessing, model.backbone.patch)
    inputs = []
    for number in range(_SLICES):
        index = count * (number + _SLICES) // (3 * _SLICES)
        whole = preprocessing(apply_window(volume.slice(index), *window))
        tile = tiling.cut(whole, model.backbone.patch)[len(tiling) // 2]
        inputs.append(tile[None].to(model.device))
    return inputs


@torch.inference_mode()
def _tried(
    model: NormativeModel, engine: str, inputs: Sequence[Tensor]
) -> tuple[float, np.ndarray]:
    """Seconds for an input, and patch scores of all of them."""
    seconds, scores = [], []
    model.backbone.compute_with(engine, inputs[0])
    for number in range(_REPEATS):
        # One input a turn: whoever scores or explains meanwhile waits no longer than that.
        with model.turns.taken():
            begin = time.perf_counter()
            grid = model.backbone.compute_with(engine, inputs[number % len(inputs)])
            wait(model.device)
            seconds.append(time.perf_counter() - begin)
            smooth = model.header.scoring.smooth(model.detector.score(grid).float())
            scores.append(smooth.flatten().cpu().numpy())
    return statistics.median(seconds), np.concatenate(scores)


def _rank_correlation(scores: np.ndarray, reference: np.ndarray) -> float:
    if not np.isfinite(scores).all():
        return float("nan")
    return float(spearmanr(scores, reference).statistic)
