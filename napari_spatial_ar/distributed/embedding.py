"""Embed the slices of a fit on a cluster; the grids are returned and stored here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from napari_spatial_ar.datasets.folders import SliceRef
from napari_spatial_ar.datasets.slices import content_key
from napari_spatial_ar.distributed.cluster import Run, own_device
from napari_spatial_ar.errors import SpatialARError, WeightsError
from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.backbones.loading import load_backbone
from napari_spatial_ar.normative.backbones.registry import Fuse
from napari_spatial_ar.normative.fitting.feature_store import FeatureStore
from napari_spatial_ar.normative.preprocessing import Preprocessing

__all__ = ["EmbedJob", "EmbedTask", "embed_some", "extract_on"]

# Slices per task, all of one volume or all separate images: some seconds on a CPU, and some 40 MB
# of grids of 28 x 28 x 384 float16.
_TOGETHER = 64


@dataclass(frozen=True)
class EmbedJob:
    """Settings for embedding all slices; the backbone's weights are on every machine."""

    backbone: str
    sha256: str
    layers: tuple[int, ...]
    fuse: Fuse
    preprocessing: Preprocessing
    weights: str | None = None
    device: str = "auto"


@dataclass(frozen=True)
class EmbedTask:
    """Some slices. Its text names none of them, since schedulers log it."""

    key: str
    refs: tuple[SliceRef, ...] = field(repr=False)


@lru_cache(maxsize=1)
def _backbone_of(job: EmbedJob, device: str) -> Backbone:
    backbone = load_backbone(job.backbone, job.weights, device, layers=job.layers, fuse=job.fuse)
    if backbone.weights_sha256 != job.sha256:
        raise WeightsError(
            f"a worker has other weights of {job.backbone} than this machine",
            fix="Put the same weights on every machine",
        )
    return backbone


def embed_some(task: EmbedTask, job: EmbedJob) -> list[npt.NDArray[np.float16]]:
    """Embed the slices of a task: for each (T, h, w, D), in their order.

    Raises
    ------
    InputError
        If a slice cannot be read or is smaller than a patch.
    WeightsError
        If the backbone's weights are missing here or different.
    """
    store = FeatureStore(_backbone_of(job, own_device(job.device)), job.preprocessing)
    grids = dict(store.embed(task.refs))
    return [grids[ref] for ref in task.refs]


def extract_on(
    run: Run,
    store: FeatureStore,
    refs: Sequence[SliceRef],
    *,
    weights: str | Path | None = None,
    device: str = "auto",
) -> Iterator[int]:
    """Embed the slices whose grids are missing, like `FeatureStore.extract`.

    Parameters
    ----------
    run : Run
        Where to run: `Cluster.run`.
    store : FeatureStore
        Where to store the grids.
    refs : sequence of SliceRef
        The slices; their files have the same paths on every machine.
    weights, device : Path, str
        See `load_backbone`; on every machine.

    Yields
    ------
    int
        Number of slices with stored grids.

    Raises
    ------
    SpatialARError
        If a slice cannot be embedded. Grids of other slices received before are stored.
    """
    missing = store.missing(refs)
    store.check_room(len(missing))
    done = len(refs) - len(missing)
    yield done
    spec = store.backbone.spec
    job = EmbedJob(
        spec.name,
        store.backbone.weights_sha256,
        tuple(spec.layers),
        spec.fuse,
        store.preprocessing,
        None if weights is None else str(Path(weights).resolve()),
        device,
    )
    for task, outcome in run(embed_some, _tasks(missing), job):
        if isinstance(outcome, SpatialARError):
            raise outcome
        for ref, grids in zip(task.refs, outcome, strict=True):
            store.put(ref, grids)
            done += 1
            yield done


def _tasks(refs: Sequence[SliceRef]) -> Iterator[EmbedTask]:
    together: dict[object, list[SliceRef]] = {}
    for ref in refs:
        volume = None if ref.index is None else (ref.source, ref.volume, ref.plane)
        together.setdefault(volume, []).append(ref)
    for some in together.values():
        for start in range(0, len(some), _TOGETHER):
            chosen = tuple(some[start : start + _TOGETHER])
            key = hashlib.sha256("".join(map(content_key, chosen)).encode()).hexdigest()[:32]
            yield EmbedTask(key, chosen)
