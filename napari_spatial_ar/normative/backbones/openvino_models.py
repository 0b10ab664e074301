"""Networks in OpenVINO's form, as they are or with some of their products in 8 bits.

NNCF makes the latter (extra ``int8``): it shows the network a few slices to see in which range
its activations lie. That takes it many seconds, so the outcome is kept on the disk, under a name
made of all that it depends on. A file that is damaged, or from a version with another recipe, is
made again; all of them may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import sys
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import nn

from napari_spatial_ar.errors import StorageError
from napari_spatial_ar.imaging.files import atomic_write_bytes
from napari_spatial_ar.imaging.reading import read
from napari_spatial_ar.imaging.windows import Window, apply_window, resolve
from napari_spatial_ar.normative.backbones.weight_layouts import content_sha256
from napari_spatial_ar.normative.cancellation import check_stop
from napari_spatial_ar.normative.preprocessing import Preprocessing
from napari_spatial_ar.paths import quantized_dir

__all__ = ["convert", "keep_silent", "quantized"]

# Changed where what is quantized, or on which slices, changes.
_RECIPE = 1
_SLICES = 6
_KEPT = 8
_SHA256 = "sha256"
_WORDS = ("xml", "bin")
# The first product of each MLP, as transformers call it in ViTs. Everything else in 8 bits, above
# all what comes after an activation or belongs to attention, changes the maps (docs/speed.md).
_QUANTIZED = (".mlp.fc1/", ".mlp.up_proj/", ".mlp.gate_proj/")
_PRODUCTS = ("MatMul", "Convolution", "GroupConvolution", "ScaledDotProductAttention")


def keep_silent() -> None:
    """Keep OpenVINO and NNCF from reporting their use: nothing leaves this machine.

    To be called before either is imported. Both report to a web service unless a file in the
    user's home says no, and do without the package that does it where it cannot be imported.
    """
    loaded = sys.modules.get("openvino_telemetry")
    if loaded is None:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
        return
    # Another plugin imported it before.
    for name in ("send_event", "send_error", "send_stack_trace", "start_session", "end_session"):
        setattr(loaded.Telemetry, name, _say_nothing)


def _say_nothing(*_: object, **__: object) -> None:
    """Take the place of what would report."""


def convert(network: nn.Module, shape: Sequence[int]) -> Any:
    """Trace a network for images of one shape.

    Parameters
    ----------
    network : nn.Module
        On the CPU, in float32.
    shape : (B, 3, H, W)
        Of what it is to be given.

    Returns
    -------
    openvino.Model
    """
    keep_silent()
    import openvino

    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        # Tracing warns of shapes that become constants, as is wanted here.
        warnings.simplefilter("ignore")
        return openvino.convert_model(
            network, example_input=torch.zeros(*shape), input=[tuple(shape)]
        )


def quantized(network: nn.Module, shape: tuple[int, ...]) -> Any:
    """Give a network whose MLPs begin in 8 bits; made once, then read from the disk.

    Parameters
    ----------
    network : PatchGrid
        On the CPU, in float32.
    shape : (1, 3, H, W)
        Of what it is to be given.

    Returns
    -------
    openvino.Model

    Raises
    ------
    Cancelled
        If this thread is to stop, see `napari_spatial_ar.normative.cancellation`.
    """
    path = quantized_dir() / f"{_key(network, shape)}.safetensors"
    model = _read(path)
    if model is None:
        model = _quantize(convert(network, shape), _slices(shape))
        check_stop()
        with suppress(StorageError):
            _write(model, path)
    return model


def _key(network: nn.Module, shape: tuple[int, ...]) -> str:
    """Name all that the outcome depends on."""
    parts = [
        _RECIPE,
        content_sha256(network.state_dict()),
        repr(getattr(network, "spec", type(network).__name__)),
        shape,
        [version(name) for name in ("openvino", "nncf", "torch", "transformers")],
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _slices(shape: tuple[int, ...]) -> list[npt.NDArray[np.float32]]:
    """Slices of the sample scan, other ones than engines are compared on."""
    with as_file(files("napari_spatial_ar") / "data" / "flair_tcga_lgg.nii.gz") as path:
        (volume,) = read(path)
    window = Window("percentile", 1.0, 99.0)
    preprocessing, limits = Preprocessing(window, (shape[2], shape[3])), resolve(window, volume)
    count = volume.geometry.slice_count
    chosen = (count * (2 * n + 2 * _SLICES + 1) // (6 * _SLICES) for n in range(_SLICES))
    return [preprocessing(apply_window(volume.slice(i), *limits))[None].numpy() for i in chosen]


def _quantize(model: Any, images: list[npt.NDArray[np.float32]]) -> Any:
    keep_silent()
    with (
        warnings.catch_warnings(),
        # Bars of progress, for a terminal that may not be there.
        contextlib.redirect_stdout(io.StringIO()),
        torch.inference_mode(False),
    ):
        warnings.simplefilter("ignore")
        import nncf

        nncf.set_log_level(logging.ERROR)
        left = [
            op.get_friendly_name()
            for op in model.get_ops()
            if op.get_type_name() in _PRODUCTS
            and not any(name in op.get_friendly_name() for name in _QUANTIZED)
        ]
        check_stop()
        return nncf.quantize(
            model,
            nncf.Dataset(images),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(images),
            ignored_scope=nncf.IgnoredScope(names=left),
        )


def _write(model: Any, path: Path) -> None:
    """Keep a model as one file, in place of the one unused for longest where there are many."""
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder, "model.xml")
        openvino.save_model(model, written, compress_to_fp16=False)
        parts = {n: np.fromfile(written.with_suffix(f".{n}"), np.uint8) for n in _WORDS}
    atomic_write_bytes(path, save(parts, metadata={_SHA256: _digest(parts)}))
    kept = sorted(path.parent.glob("*.safetensors"), key=lambda p: p.stat().st_mtime)
    for old in kept[:-_KEPT]:
        with suppress(OSError):
            old.unlink()


def _read(path: Path) -> Any:
    """Read a model that was kept; None where there is none, or it is not as it was written."""
    try:
        with safe_open(path, framework="numpy") as stored:
            said = (stored.metadata() or {}).get(_SHA256)
            parts = {name: stored.get_tensor(name) for name in _WORDS}
    except (OSError, SafetensorError):
        return None
    if said != _digest(parts):
        return None
    keep_silent()
    import openvino

    try:
        return openvino.Core().read_model(parts["xml"].tobytes(), openvino.Tensor(parts["bin"]))
    except RuntimeError:
        return None


def _digest(parts: dict[str, npt.NDArray[np.uint8]]) -> str:
    digest = hashlib.sha256()
    for name in _WORDS:
        digest.update(parts[name].tobytes())
    return digest.hexdigest()
