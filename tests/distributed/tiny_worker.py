"""What a worker process of these tests imports first: the tiny backbone, known by its name."""

from __future__ import annotations

from typing import Any

from napari_spatial_ar.normative.backbones.registry import BACKBONES
from tests.tiny import TINY, make_spec


def dask_setup(worker: Any) -> None:
    BACKBONES[TINY] = make_spec()
