"""Embedding grids on disk, so that a slice is embedded once and not in every epoch.

One float16 file per slice, or per tile, with a name derived from everything its content depends on:
the slice's data, the backbone's weights and the preprocessing. A changed file or setting therefore
gets another name, and a stale grid is never read. Each file is written under a temporary name and
renamed, so an interrupted extraction resumes where it stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_spatial_ar.datasets.folders import SliceRef, content_key, iter_slices
from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.files import atomic_path, check_room
from napari_spatial_ar.imaging.windows import apply_window
from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.preprocessing import Preprocessing
from napari_spatial_ar.normative.tiling import Tiling, embed_slice
from napari_spatial_ar.paths import feature_store_dir

__all__ = ["FeatureStore", "embedding_settings", "load_batch"]


def embedding_settings(backbone: Backbone, preprocessing: Preprocessing) -> list[Any]:
    """Everything but the slice that its grid depends on, as plain JSON values."""
    spec = backbone.spec
    # A key of its own only if needed, so that grids stored before this option existed are found.
    fused = [] if spec.fuse == "concat" else [spec.fuse]
    return [backbone.weights_sha256, [*spec.layers, *fused], preprocessing.to_dict()]


class FeatureStore:
    """Embedding grids of slices for one backbone and preprocessing.

    Parameters
    ----------
    backbone : Backbone
        The backbone to embed with.
    preprocessing : Preprocessing
        Its preprocessing.
    root : Path, optional
        Where to store grids; the user's cache by default.
    """

    def __init__(
        self, backbone: Backbone, preprocessing: Preprocessing, root: Path | None = None
    ) -> None:
        self.backbone = backbone
        self.preprocessing = preprocessing
        settings = json.dumps(embedding_settings(backbone, preprocessing), sort_keys=True)
        key = hashlib.sha256(settings.encode()).hexdigest()[:16]
        self.folder = (root or feature_store_dir()) / f"{backbone.spec.name}-{key}"
        self.tiling = Tiling.of(preprocessing, backbone.patch)
        #: (Hp, Wp, D), shape of one stored grid: channels last, as the network reads it.
        self.shape = (*self.tiling.side, backbone.channels)

    def paths(self, refs: Sequence[SliceRef]) -> list[Path]:
        """Files of slices' grids, whether they exist or not: one per tile of each slice."""
        tiles = len(self.tiling)
        endings = [f"-{n:03}" for n in range(tiles)] if tiles > 1 else [""]
        keys = [content_key(ref) for ref in refs]
        return [self.folder / k[:2] / f"{k}{ending}.npy" for k in keys for ending in endings]

    def missing(self, refs: Sequence[SliceRef]) -> list[SliceRef]:
        """Slices whose grids are missing or incomplete."""
        return [ref for ref in refs if not all(map(self._is_whole, self.paths([ref])))]

    def extract(self, refs: Sequence[SliceRef]) -> Iterator[int]:
        """Embed the slices whose grids are missing.

        Yields
        ------
        int
            Number of slices with stored grids, first as found and then after each slice embedded.
            Stop iterating to cancel, call again to resume.

        Raises
        ------
        StorageError
            If the disk has no room for them.
        InputError
            If a slice cannot be read or is smaller than a patch.
        """
        missing = self.missing(refs)
        self.check_room(len(missing))
        done = len(refs) - len(missing)
        yield done
        for ref, grids in self.embed(missing):
            self.put(ref, grids)
            done += 1
            yield done

    def embed(self, refs: Sequence[SliceRef]) -> Iterator[tuple[SliceRef, npt.NDArray[np.float16]]]:
        """Embed slices without storing anything.

        Yields
        ------
        ref : SliceRef
            A slice; those of one volume are consecutive, whatever the order of ``refs``.
        grids : (T, h, w, D) float16
            The grid of each of its tiles.

        Raises
        ------
        InputError
            If a slice cannot be read or is smaller than a patch.
        """
        for ref, image, window in iter_slices(refs, self.preprocessing.window):
            if min(image.shape) < self.backbone.patch:
                raise InputError(
                    f"the slice has {image.shape[0]} x {image.shape[1]} pixels, less than one "
                    f"patch of {self.backbone.patch} x {self.backbone.patch}",
                    path=ref.path,
                    fix="Remove it from the folder",
                )
            unit = apply_window(image, *window)
            # Stored grids must be the same on every machine.
            with self.backbone.in_float32():
                grids = embed_slice(self.backbone, self.preprocessing, unit).permute(0, 2, 3, 1)
            yield ref, grids.half().cpu().numpy()

    def put(self, ref: SliceRef, grids: npt.NDArray[np.float16]) -> None:
        """Store the grids of a slice, as returned by `embed`.

        Raises
        ------
        StorageError
            If the disk has no room for them.
        """
        for path, grid in zip(self.paths([ref]), grids, strict=True):
            with atomic_path(path) as temporary:
                np.save(temporary, grid)

    def _is_whole(self, path: Path) -> bool:
        try:
            grid = np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError):
            return False
        return bool(grid.shape == self.shape and grid.dtype == np.float16)

    def check_room(self, count: int) -> None:
        """Refuse to start with more slices than the disk has room for (`StorageError`)."""
        check_room(
            count * len(self.tiling) * 2 * int(np.prod(self.shape)),
            self.folder,
            f"the embeddings of {count} slices",
            fix="Free some space, or set NAPARI_SPATIAL_AR_HOME to a larger disk",
        )


def load_batch(paths: Sequence[Path]) -> Tensor:
    """Read stored grids.

    Parameters
    ----------
    paths : sequence of Path
        As returned by `FeatureStore.paths`, after extraction.

    Returns
    -------
    (B, D, Hp, Wp) float32
        In channels-last memory, as stored and as the network reads them.
    """
    stacked = torch.from_numpy(np.stack([np.load(path) for path in paths])).float()
    return stacked.permute(0, 3, 1, 2)
