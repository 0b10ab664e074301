"""Embedding grids of synthetic anomalies, with labels of what was changed, on disk."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_spatial_ar.datasets.folders import SliceRef, content_key, iter_slices
from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.files import atomic_path, check_room
from napari_spatial_ar.imaging.tissue import tissue_mask
from napari_spatial_ar.imaging.windows import apply_window
from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.detectors.patch_labels import patch_labels
from napari_spatial_ar.normative.fitting.feature_store import embedding_settings
from napari_spatial_ar.normative.fitting.synthetic_anomalies import VERSION, change
from napari_spatial_ar.normative.preprocessing import Preprocessing
from napari_spatial_ar.normative.tiling import Tiling, embed_slice

__all__ = ["SyntheticGrids"]

# Slices held in memory, as sources of pieces for the next ones.
_OTHERS = 16
# Changes of one slice, at most: more of them add little (docs/explanation/method.md).
_REPEATS = 3


class SyntheticGrids(Sequence[tuple[Tensor, Tensor]]):
    """Pairs of a changed slice's grid and the labels of its patches, read on access.

    With fewer slices than ``count``, each is drawn up to three times and changed differently each
    time, again only after all others. Changes are drawn by a generator seeded with ``seed`` and the
    pair's index, so an interrupted `embed` resumes where it stopped and ends with the same grids.

    Parameters
    ----------
    backbone : Backbone
        The backbone to embed with.
    preprocessing : Preprocessing
        Its preprocessing.
    refs : sequence of SliceRef
        Normal slices to draw from.
    root : Path
        Where to store the grids, in a folder whose name depends on all settings.
    count : int
        Maximum number of changed slices.
    seed : int
        Seed of the draw and of the changes.

    Raises
    ------
    InputError
        If there is nothing to draw.
    """

    def __init__(
        self,
        backbone: Backbone,
        preprocessing: Preprocessing,
        refs: Sequence[SliceRef],
        root: Path,
        *,
        count: int = 600,
        seed: int = 0,
    ) -> None:
        if min(count, len(refs)) < 1:
            raise InputError(f"there are {len(refs)} normal slices, but {count} are to be changed")
        self.backbone = backbone
        self.preprocessing = preprocessing
        self.seed = seed
        self.refs = [refs[index] for index in _draw(len(refs), count, np.random.default_rng(seed))]
        settings = json.dumps(
            [
                VERSION,
                seed,
                *embedding_settings(backbone, preprocessing),
                [content_key(ref) for ref in self.refs],
            ],
            sort_keys=True,
        )
        self.folder = root / f"changed-{hashlib.sha256(settings.encode()).hexdigest()[:16]}"
        self._tiling = Tiling.of(preprocessing, backbone.patch)

    def __len__(self) -> int:
        return len(self.refs)

    @overload
    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[Tensor, Tensor]]: ...
    def __getitem__(
        self, index: int | slice
    ) -> tuple[Tensor, Tensor] | list[tuple[Tensor, Tensor]]:
        """One pair: grids of a slice's T tiles (T, D, h, w) float32, labels (T, h, w) int8."""
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        with np.load(self._path(index % len(self))) as stored:
            # Earlier versions, whose interrupted fits may be resumed here, had no axis of tiles.
            labels = torch.from_numpy(stored["labels"]).reshape(-1, *self._tiling.side)
            grids = torch.from_numpy(stored["grid"]).reshape(*labels.shape, -1)
            return grids.float().permute(0, 3, 1, 2), labels

    def without(self, groups: Collection[str]) -> Sequence[tuple[Tensor, Tensor]]:
        """Return the pairs whose slices are of other patients, read on access."""
        return _Chosen(self, [n for n, ref in enumerate(self.refs) if ref.group not in groups])

    def missing(self) -> list[int]:
        """Find the slices whose grids are not stored, by index."""
        return [n for n in range(len(self)) if not self._path(n).is_file()]

    def embed(self) -> Iterator[int]:
        """Change and embed the slices whose grids are missing.

        Yields
        ------
        int
            Number of slices done, first as found and then after each. Stop iterating to cancel,
            call again to resume.

        Raises
        ------
        StorageError
            If the disk has no room for them.
        InputError
            If a slice cannot be read.
        """
        missing = len(self.missing())
        self._check_room(missing)
        done = len(self) - missing
        yield done
        rng = np.random.default_rng([self.seed, len(self)])
        others: list[npt.NDArray[np.float32]] = []
        slices = iter_slices(self.refs, self.preprocessing.window)
        for number, (_, image, window) in enumerate(slices):
            unit = apply_window(image, *window)
            if not self._path(number).is_file():
                self._embed(number, unit, others)
                done += 1
                yield done
            # The same ones whether or not grids were stored already.
            place = int(rng.integers(_OTHERS)) if len(others) == _OTHERS else len(others)
            others[place : place + 1] = [unit]

    def _embed(
        self,
        number: int,
        unit: npt.NDArray[np.float32],
        others: Sequence[npt.NDArray[np.float32]],
    ) -> None:
        if min(unit.shape) < self.backbone.patch:
            raise InputError(
                f"the slice has {unit.shape[0]} x {unit.shape[1]} pixels, less than one patch of "
                f"{self.backbone.patch} x {self.backbone.patch}",
                path=self.refs[number].path,
                fix="Remove it from the folder",
            )
        rng = np.random.default_rng([self.seed, len(self), number])
        changed, magnitude = change(unit, tissue_mask(unit), rng, others)
        grids = embed_slice(self.backbone, self.preprocessing, changed)
        labels = torch.from_numpy(patch_labels(magnitude, self._tiling.grid))
        with atomic_path(self._path(number)) as temporary:
            np.savez(
                temporary,
                grid=grids.permute(0, 2, 3, 1).half().cpu().numpy(),
                labels=self._tiling.cut(labels).numpy(),
            )

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:05}.npz"

    def _check_room(self, count: int) -> None:
        grids = count * len(self._tiling)
        check_room(
            grids * 2 * math.prod(self._tiling.side) * self.backbone.channels,
            self.folder,
            f"the embeddings of {count} synthetic anomalies",
            fix="Free some space, or choose fewer slices",
        )


def _draw(slices: int, count: int, rng: np.random.Generator) -> list[int]:
    """Draw ``count`` of ``slices``, by index, in passes over all of them: at most `_REPEATS`."""
    count = min(count, _REPEATS * slices)
    drawn: list[int] = []
    while len(drawn) < count:
        of_pass = rng.choice(slices, min(slices, count - len(drawn)), replace=False)
        drawn += np.sort(of_pass).tolist()
    return drawn


class _Chosen(Sequence[tuple[Tensor, Tensor]]):
    """Some of the pairs, in their order."""

    def __init__(self, pairs: Sequence[tuple[Tensor, Tensor]], numbers: list[int]) -> None:
        self._pairs = pairs
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[tuple[Tensor, Tensor]]: ...
    def __getitem__(
        self, index: int | slice
    ) -> tuple[Tensor, Tensor] | Sequence[tuple[Tensor, Tensor]]:
        """One pair, or a sub-sequence that is not read yet."""
        if isinstance(index, slice):
            return _Chosen(self._pairs, self._numbers[index])
        return self._pairs[self._numbers[index]]
