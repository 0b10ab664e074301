"""A tiny model that worker processes know too, and scans for it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

import napari_spatial_ar as nsar
from napari_spatial_ar.distributed.cluster import Cluster, connect
from tests.tiny import draw_normal_slices, make_backbone, make_spec, random_state

NAMES = ("DOE_JANE", "ROE_RICHARD", "POE_MARY", "LOE_ANN", "MOE_JOHN", "NOE_IDA")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test that opens a network connection, but to this machine's own loopback."""
    connect = socket.socket.connect

    def connect_here(self: socket.socket, address: Any) -> None:
        inet = self.family in (socket.AF_INET, socket.AF_INET6)
        if inet and address[0] not in ("127.0.0.1", "::1", "localhost"):
            self.close()
            pytest.fail(f"a test reached for the network: {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_here)


# Of a module: the tests between two modules have another home.
@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Home of these tests and of the workers they start, with a fitted model and its backbone."""
    from napari_spatial_ar.normative.backbones.registry import BACKBONES
    from napari_spatial_ar.normative.backbones.weights import store

    root = tmp_path_factory.mktemp("scale")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny grids are done before a second thread has started
    spec = make_spec()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NAPARI_SPATIAL_AR_HOME", str(root))
        patch.setitem(BACKBONES, spec.name, spec)
        store(spec, random_state(spec))
        nsar.fit(
            draw_normal_slices(root / "normal"),
            out=root / "model",
            backbone=make_backbone(spec),
            size=64,
            device="cpu",
            method="spatial-ar",
            options={"epochs": 1, "batch_size": 4, "dilation": 1, "hidden": 16},
        )
        yield root
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model(home: Path) -> Path:
    return home / "model"


@pytest.fixture(scope="module")
def scans(home: Path) -> list[Path]:
    """Six scans; folders and files are called after patients."""
    rows = np.mgrid[:48, :40, :4] - np.array([24, 20, 2])[:, None, None, None]
    inside = rows[0] ** 2 + rows[1] ** 2 < 280
    paths = []
    for number, name in enumerate(NAMES):
        noise = np.random.default_rng(number).normal(size=inside.shape)
        folder = home / "scans" / name
        folder.mkdir(parents=True)
        path = folder / f"{name}.nii.gz"
        nib.save(
            nib.Nifti1Image(np.where(inside, 500 + 40 * noise, 0).astype(np.float32), None), path
        )
        paths.append(path)
    return paths


@pytest.fixture(scope="module")
def cluster(home: Path) -> Iterator[Cluster]:
    """Two processes, and this one as their client."""
    import dask

    preload = ["tests.distributed.tiny_worker"]
    with (
        dask.config.set({"distributed.worker.preload": preload}),
        connect(processes=2) as connected,
    ):
        yield connected


def names_under(folder: Path) -> str:
    """Names and text of everything in a folder, to look for what must not be there."""
    parts = []
    for root, folders, files in os.walk(folder):
        parts += [*folders, *files]
        parts += [
            Path(root, file).read_text() for file in files if file.endswith((".json", ".csv"))
        ]
    return "\n".join(parts)
