"""A fit that is killed outright, at any moment, and run again ends as if it never had been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import napari_spatial_ar as nsar
from napari_spatial_ar.errors import InputError
from napari_spatial_ar.normative.model import NormativeModel
from tests.conftest import REPO_ROOT
from tests.normative.fit_and_die import OPTIONS, fit, home
from tests.tiny import draw_normal_slices

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

MOMENTS = [
    "spatial-ar/step/features/4",
    "spatial-ar/half/.npy/6",
    "spatial-ar/placed/.npy/9",
    "spatial-ar/step/training/2",
    "spatial-ar/half/checkpoint.safetensors/2",
    "spatial-ar/placed/checkpoint.safetensors/3",
    "spatial-ar/step/calibration/2",
    "spatial-ar/step/saving/1",
    "spatial-ar/half/model.safetensors/1",
    "spatial-ar/placed/model.safetensors/1",
    "change-novelty/half/.npz/3",
    "change-novelty/step/training/3",
]
SAVED = "spatial-ar/placed/model.safetensors/1"


@pytest.fixture(scope="module")
def normals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_normal_slices(tmp_path_factory.mktemp("killed") / "normal")


@pytest.fixture(scope="module")
def ends(normals: Path) -> dict[str, int]:
    """How the process of each moment ended; its files are beside the scans."""
    arguments = [str(normals), str(normals.parent), *MOMENTS]
    done = subprocess.run(
        [sys.executable, "-m", "tests.normative.fit_and_die", *arguments],
        cwd=REPO_ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    found: dict[str, int] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def whole(normals: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, NormativeModel]:
    """Models of fits that nothing interrupted."""
    root = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NAPARI_SPATIAL_AR_HOME", str(root))
        return {method: fit(normals, root / method / "model", method) for method in OPTIONS}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_run_again_is_the_same(
    moment: str,
    normals: Path,
    ends: dict[str, int],
    whole: dict[str, NormativeModel],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own, method = home(normals.parent, moment), moment.split("/")[0]
    target = own / "model"
    assert ends[moment] == -signal.SIGKILL
    for path in own.rglob("[!.]*.np[yz]"):
        np.load(path)  # whatever has its own name is whole
    monkeypatch.setenv("NAPARI_SPATIAL_AR_HOME", str(own))
    again: dict[str, Any] = {}
    if moment == SAVED:
        assert nsar.load_model(target, device="cpu").sha256 == whole[method].sha256
        with pytest.raises(InputError, match="a model already exists"):
            fit(normals, target, method)
        again["overwrite"] = True
    else:
        assert not (target / "model.safetensors").exists()
    model = fit(normals, target, method, **again)
    for name, tensor in whole[method].detector.tensors().items():
        assert torch.equal(tensor, model.detector.tensors()[name]), name
    assert nsar.load_model(target, device="cpu").sha256 == whole[method].sha256
    assert names(target) == ["model.safetensors"]
