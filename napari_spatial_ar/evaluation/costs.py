"""Costs of a model: time per slice, size, memory; models with one backbone embed a slice once."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from napari_spatial_ar.evaluation.scorer import Scorer
from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.backbones.devices import wait
from napari_spatial_ar.normative.model import NormativeModel
from napari_spatial_ar.normative.model_file import BackboneRef

__all__ = [
    "InnerBackbone",
    "SharedBackbone",
    "Times",
    "model_bytes",
    "peak_gpu_mb",
    "peak_rss_mb",
    "shared",
]


class SharedBackbone:
    """A backbone shared by several models, which embeds each slice only once.

    Stands in for `Backbone`. The results of its ``embed...`` methods are cached until `forget`,
    with the time they took, which is charged to every model that uses them.

    Parameters
    ----------
    backbone : Backbone
        The actual backbone.
    """

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._kept: list[tuple[tuple[object, ...], object, float]] = []
        #: Seconds embedding took, or would have taken, since `forget` or `start`.
        self.charged = 0.0
        #: The part of these that was saved by the cache.
        self.saved = 0.0

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._backbone, name)
        if not (name.startswith("embed") and callable(value)):
            return value

        def embed(*args: object, **kwargs: object) -> object:
            return self._once(value, (name, *args, *sorted(kwargs.items())), args, kwargs)

        return embed

    def _once(
        self,
        method: Callable[..., object],
        key: tuple[object, ...],
        args: tuple[object, ...],
        kwargs: dict[str, object],
    ) -> object:
        for known, result, seconds in self._kept:
            if _equal(known, key):
                self.charged += seconds
                self.saved += seconds
                return result
        begin = time.perf_counter()
        result = method(*args, **kwargs)
        wait(self._backbone.device)
        seconds = time.perf_counter() - begin
        self._kept.append((key, result, seconds))
        self.charged += seconds
        return result

    def start(self) -> None:
        """Reset the time for the next model."""
        self.charged = self.saved = 0.0

    def forget(self) -> None:
        """Empty the cache before the next slice."""
        self._kept.clear()


class InnerBackbone:
    """Stand-in for a backbone inside another library's model: neither shared nor timed."""

    charged, saved = math.nan, 0.0

    def start(self) -> None:
        """Do nothing: there is no time to count."""

    def forget(self) -> None:
        """Do nothing: there is no cache."""


def _equal(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    return type(one) is type(other) and bool(one == other)


@contextmanager
def shared(models: Sequence[Scorer]) -> Iterator[list[SharedBackbone | InnerBackbone]]:
    """Within a context, let models that were trained on the same backbone share one copy of it.

    Yields
    ------
    list of SharedBackbone or InnerBackbone
        The one for each model.
    """
    found: dict[tuple[BackboneRef, torch.device], SharedBackbone] = {}
    own: list[tuple[NormativeModel, Backbone | None]] = []
    result: list[SharedBackbone | InnerBackbone] = []
    for model in models:
        if not isinstance(model, NormativeModel):
            result.append(InnerBackbone())
            continue
        key = (model.header.backbone, model.device)
        if key not in found:
            found[key] = SharedBackbone(model.backbone)
        own.append((model, vars(model).get("backbone")))
        result.append(found[key])
    for model, backbone in zip(models, result, strict=True):
        if isinstance(model, NormativeModel):
            model.backbone = cast(Backbone, backbone)
    try:
        yield result
    finally:
        for model, before in own:
            del model.backbone  # if there was none, the model loads its own when needed
            if before is not None:
                model.backbone = before


class Times:
    """Seconds for each slice: in total, and excluding the backbone."""

    def __init__(self) -> None:
        self._slices: list[tuple[float, float, bool]] = []

    def add(self, spent: float, charged: float, saved: float, *, warm: bool = True) -> None:
        """Add a slice.

        Parameters
        ----------
        spent : float
            Seconds for scoring it.
        charged, saved : float
            See `SharedBackbone`; NaN if the backbone's time is unknown.
        warm : bool
            False for the first slice, for which memory is allocated.
        """
        self._slices.append((spent + saved, spent + saved - charged, warm))

    def summary(self) -> dict[str, Any]:
        """Median and 95th percentile in milliseconds, of warm slices if there are any."""
        warm = [slice_ for slice_ in self._slices if slice_[2]] or self._slices
        whole, beyond, _ = map(np.array, zip(*warm, strict=True))
        return {
            "ms_per_slice": 1000 * float(np.median(whole)),
            "ms_per_slice_p95": 1000 * float(np.quantile(whole, 0.95)),
            "ms_beyond_backbone": None
            if np.isnan(beyond).any()
            else 1000 * np.median(beyond).item(),
        }


def model_bytes(model: Scorer) -> int:
    """Size in bytes of what the method learned, without the backbone."""
    tensors = model.detector.tensors().values()
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def peak_rss_mb() -> float | None:
    """Return the peak resident memory of this process so far, in MiB; None on Windows."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would include the parent's before the program started
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 2**10
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def peak_gpu_mb(device: torch.device) -> float | None:
    """Return the peak memory that torch used on a CUDA device, in MiB; None on other devices."""
    if device.type != "cuda":
        return None
    return torch.cuda.max_memory_allocated(device) / 2**20
