"""What scoring and training cost, as ratios of the same work in one run.

python benchmarks/bench.py [--device auto] [--parts slice,bank,...] [--images 100,1000,8000]
                           [--quick] [--compiled] [--json FILE] [--plot FILE]

Backbone: DINOv3 ViT-S/16 at 448 x 448 with random weights, which take as long as trained ones.
Embeddings and slices are random numbers of the right size; what is measured is time and memory,
not quality. Parts:

slice     a slice from voxels to heatmap, against the bare backbone, with each engine: with Spatial
          AR and with change-novelty, the default
bulk      slices a second of a whole volume, from voxels to heatmaps and to patch scores
network   the autoregressive network against the masked one that computes every tap
bank      its scoring of an embedded slice against memory banks of 100, 1,000 and 8,000 images
training  images a second from stored embeddings, against embedding them in every epoch
growth    how time grows with the slice's size and with the number of slices
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.series import Series
from napari_spatial_ar.imaging.windows import default_window, resolve
from napari_spatial_ar.normative.backbones import fastest_engine
from napari_spatial_ar.normative.backbones.backbone import Backbone, _build
from napari_spatial_ar.normative.backbones.devices import resolve_device
from napari_spatial_ar.normative.backbones.engines import available
from napari_spatial_ar.normative.backbones.registry import BACKBONES
from napari_spatial_ar.normative.detectors.ar_network import MaskedConv2d, SpatialAR
from napari_spatial_ar.normative.detectors.ar_training import TrainingSettings, precision, train
from napari_spatial_ar.normative.detectors.base import Detector
from napari_spatial_ar.normative.detectors.change_detector import ChangeDetector
from napari_spatial_ar.normative.detectors.change_novelty import ChangeNovelty
from napari_spatial_ar.normative.detectors.memory_bank import MemoryBank
from napari_spatial_ar.normative.detectors.spatial_ar import SpatialARDetector
from napari_spatial_ar.normative.detectors.surroundings_bank import SurroundingsBank, Whitening
from napari_spatial_ar.normative.heatmap import Scoring
from napari_spatial_ar.normative.model import NormativeModel
from napari_spatial_ar.normative.model_file import BackboneRef, ModelHeader
from napari_spatial_ar.normative.preprocessing import Preprocessing

BACKBONE, SIDE = "dinov3_vits16", 448
PARTS = ("slice", "bulk", "network", "bank", "training", "growth")


def wait(device: torch.device) -> None:
    """Let the device finish."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def median_ms(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median milliseconds of a call, after two that are not counted."""
    seconds = []
    for number in range(repeats + 2):
        wait(device)
        begin = time.perf_counter()
        work()
        wait(device)
        if number > 1:
            seconds.append(time.perf_counter() - begin)
    return 1000 * statistics.median(seconds)


def machine(device: torch.device) -> dict[str, Any]:
    """Name what was measured."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    return {
        "device": name,
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "backbone": BACKBONE,
        "input": [SIDE, SIDE],
    }


def cpu_name() -> str:
    """Model name of the processor, with what it has for bfloat16."""
    has = torch.cpu.get_capabilities()
    extras = [k for k in ("avx2", "avx512_f", "avx512_bf16", "amx_bf16") if has.get(k)]
    return f"{has.get('cpu_name') or platform.processor()} ({', '.join(extras)})"


def backbone_on(device: torch.device) -> Backbone:
    """DINOv3 ViT-S/16 with random weights."""
    torch.manual_seed(0)
    spec = BACKBONES[BACKBONE]
    return Backbone(spec, _build(spec, 0).state_dict(), source="random", device=device)


def change_novelty(channels: int) -> ChangeNovelty:
    """Make a detector of the default method, at its default sizes, that has learned nothing."""
    sizes = {**ChangeDetector.options(), **ChangeNovelty.options()}
    components, hidden, rows = sizes["components"], sizes["hidden"], sizes["means"]

    def whitening() -> Whitening:
        return Whitening(torch.zeros(2 * channels), torch.randn(2 * channels, components))

    weights = {
        "hidden.weight": torch.randn(hidden, components) / components**0.5,
        "hidden.bias": torch.zeros(hidden),
        "out.weight": torch.randn(1, hidden) / hidden**0.5,
        "out.bias": torch.zeros(1),
    }
    bank = functional.normalize(torch.randn(rows, components)).half()
    change, novelty = ChangeDetector(whitening(), weights), SurroundingsBank(whitening(), bank)
    return ChangeNovelty(change, novelty, torch.ones(3, 2))


def model_with(
    backbone: Backbone, side: int = SIDE, detector: Detector | None = None
) -> NormativeModel:
    """Make a model that has learned nothing: dilated Spatial AR, or of a given detector."""
    torch.manual_seed(0)
    detector = detector or SpatialARDetector(
        SpatialAR(backbone.channels).eval().requires_grad_(False)
    )
    header = ModelHeader(
        method=detector.name,
        parameters={},
        modality="mri",
        backbone=BackboneRef(BACKBONE, (), backbone.sha256),
        preprocessing=Preprocessing(default_window("mri"), (side, side)),
        scoring=Scoring(3, 0.01),
    )
    return NormativeModel("bench", header, detector, backbone=backbone, device=backbone.device)


def volume_of(slices: int, side: int = SIDE) -> Scan:
    """Make a scan of a noisy disc in air."""
    rng = np.random.default_rng(0)
    rows, columns = np.ogrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    disc = (rows**2 + columns**2 < 0.7).astype(np.float32)
    data = np.empty((slices, side, side), np.float32)
    for image in data:
        image[:] = disc * (600 + 200 * rng.random((side, side), dtype=np.float32))
    return Scan(data, Geometry(data.shape, np.eye(4)), "mri", Series("noisy disc"))


def of_slice(device: torch.device, repeats: int, compiled: bool) -> dict[str, Any]:
    """Part "slice"."""
    engines = [name for name in available(device) if compiled or name != "compiled"]
    backbone = backbone_on(device)
    model = model_with(backbone)
    default = model_with(backbone, detector=change_novelty(backbone.channels).to(device))
    volume = volume_of(4)
    image = torch.randn(1, 3, SIDE, SIDE, device=device)
    agreement = {t.engine: t for t in fastest_engine.trials(model, engines)}
    found: dict[str, Any] = {"engines": {}}
    for engine, trial in agreement.items():
        if trial.problem:
            found["engines"][engine] = {"problem": trial.problem}
            continue
        backbone.use(engine)
        for one in (model, default):
            vars(one).pop("_batches", None)
        peak = memory_of(device)
        bare = median_ms(lambda: backbone.compute(image), device, repeats)
        shown = volume.slice(1), resolve(model.header.preprocessing.window, volume)
        whole = median_ms(lambda s=shown: model.score_slice(s[0], window=s[1]), device, repeats)
        of_default = median_ms(
            lambda s=shown: default.score_slice(s[0], window=s[1]), device, repeats
        )
        grid = backbone.compute(image)
        network = median_ms(lambda g=grid: model.detector.score(g), device, repeats)
        found["engines"][engine] = {
            "bare_backbone_ms": round(bare, 2),
            "network_ms": round(network, 2),
            "whole_slice_ms": round(whole, 2),
            "whole_over_bare": round(whole / bare, 3),
            "change_novelty_slice_ms": round(of_default, 2),
            "change_novelty_over_bare": round(of_default / bare, 3),
            "rank_correlation_with_float32": round(trial.agreement, 6),
            **peak(),
        }
    backbone.use("float32")
    return found


def memory_of(device: torch.device) -> Callable[[], dict[str, float]]:
    """Begin to watch memory; the result says what was needed at most."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return lambda: {"peak_gpu_mb": round(torch.cuda.max_memory_allocated() / 2**20)}
    return lambda: {"peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}


def of_bulk(device: torch.device, slices: int) -> dict[str, Any]:
    """Part "bulk"."""
    backbone = backbone_on(device)
    found: dict[str, Any] = {"slices": slices}
    for engine in available(device):
        if engine == "compiled":
            continue
        backbone.use(engine)
        model = model_with(backbone)
        volume = volume_of(slices)
        list(model.iter_volume(volume, range(min(slices, 8))))
        peak = memory_of(device)
        begin = time.perf_counter()
        result = model.score_volume(volume)
        seconds = time.perf_counter() - begin
        assert result.scored.all()
        entry = {
            "slices_a_second": round(slices / seconds, 1),
            "batch": model._sizes.next if device.type == "cuda" else 1,
            **peak(),
        }
        if device.type == "cuda":
            units = torch.rand(64, SIDE, SIDE, device=device)
            ms = median_ms(lambda m=model, u=units: m._maps(u), device, 5)
            entry["slices_a_second_on_the_card"] = round(64_000 / ms, 1)
        found[engine] = entry
    return found


def naive(network: SpatialAR, grid: Tensor) -> Tensor:
    """Compute it as published: whole 3 x 3 kernels, masked in each call."""
    for number, layer in enumerate(m for m in network.net if isinstance(m, MaskedConv2d)):
        weight = functional.pad(layer.weight, (0, 0, 0, 3 - layer.weight.shape[2]))
        mask = functional.pad(layer.mask, (0, 0, 0, 3 - layer.mask.shape[0]))
        reach = layer.dilation
        grid = functional.relu(grid) if number else grid
        grid = functional.conv2d(grid, weight * mask, layer.bias, padding=reach, dilation=reach)
    return grid


def of_network(device: torch.device, repeats: int) -> dict[str, Any]:
    """Part "network"."""
    torch.manual_seed(0)
    found: dict[str, Any] = {}
    for batch in (1, 16):
        for dilation in (1, 4):
            network = SpatialAR(384, dilation=dilation).eval().requires_grad_(False).to(device)
            detector = SpatialARDetector(network).to(device)
            grid = torch.randn(batch, 384, SIDE // 16, SIDE // 16, device=device)
            with torch.inference_mode():
                published = naive(network, grid)
                ours = median_ms(lambda d=detector, g=grid: d.score(g), device, repeats)
                theirs = median_ms(lambda n=network, g=grid: naive(n, g), device, repeats)
                off = (network(grid) - published).abs().max().item()
            found[f"batch {batch}, dilation {dilation}"] = {
                "ms": round(ours, 2),
                "masked_3x3_ms": round(theirs, 2),
                "masked_over_ours": round(theirs / ours, 2),
                "largest_difference": off,
            }
    return found


def of_bank(device: torch.device, repeats: int, images: list[int]) -> dict[str, Any]:
    """Part "bank"."""
    torch.manual_seed(0)
    side = SIDE // 16
    grid = torch.randn(1, 384, side, side, device=device)
    ours = SpatialARDetector(SpatialAR(384).eval().requires_grad_(False)).to(device)
    tensors = sum(t.numel() * t.element_size() for t in ours.tensors().values())
    own = median_ms(lambda: ours.score(grid), device, repeats)
    found: dict[str, Any] = {"spatial_ar": {"ms": round(own, 2), "mb": round(tensors / 1e6, 1)}}
    for count in images:
        for share in (0.1, 1.0):
            rows = round(count * side**2 * share)
            bank = torch.empty(rows, 384, dtype=torch.float16, device=device)
            for part in torch.split(bank, 65_536):
                part.copy_(functional.normalize(torch.randn(part.shape, device=device)))
            detector = MemoryBank(bank, share)
            # The largest take a minute a slice on a processor.
            few = max(1, min(repeats, round(2e6 / rows))) if device.type == "cpu" else repeats
            ms = median_ms(lambda d=detector: d.score(grid), device, few)
            found[f"{count} images, {'all patches' if share == 1 else 'a tenth of them'}"] = {
                "ms": round(ms, 2),
                "mb": round(bank.numel() * 2 / 1e6, 1),
                "times_spatial_ar": round(ms / own, 1),
                "times_its_memory": round(bank.numel() * 2 / tensors, 1),
            }
            del bank, detector
    return found


def of_training(device: torch.device, images: int) -> dict[str, Any]:
    """Part "training"."""
    backbone = backbone_on(device)
    side = SIDE // 16
    settings = TrainingSettings(network=SpatialAR(384).settings)
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        rng = np.random.default_rng(0)
        for number in range(images):
            path = Path(folder) / f"{number:04}.npy"
            np.save(path, rng.standard_normal((side, side, 384), np.float32).astype(np.float16))
            paths.append(path)
        epochs = 3 if device.type == "cpu" else 6
        peak = memory_of(device)
        states = train(
            paths,
            paths[:8],
            settings,
            epochs=epochs,
            checkpoint=Path(folder) / "checkpoint.safetensors",
            device=device,
        )
        ends = []
        for state in states:
            if len(state.history) > len(ends):
                ends.append(state.seconds)
        stored = images * (epochs - 1) / (ends[-1] - ends[0])
        found = {"images": images, "from_store_images_a_second": round(stored, 1), **peak()}
    # Their way: each epoch embeds every image, with its own network's step after.
    network = SpatialAR(384).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    count = 8 if device.type == "cpu" else 64
    pictures = torch.randn(count, 3, SIDE, SIDE)
    repeats = 1 if device.type == "cpu" else 6

    def theirs() -> None:
        grid = backbone.embed(pictures).clone()
        with precision(device):
            loss = network.nll(grid).mean() / 384
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    for engine in ("float32", "bfloat16"):
        if engine in available(device):
            backbone.use(engine)
            again = 1000 * count / median_ms(theirs, device, repeats)
            found[f"embedding_every_epoch_in_{engine}"] = {
                "images_a_second": round(again, 1),
                "stored_over_embedding": round(stored / again, 1),
            }
    return found


def of_growth(device: torch.device, repeats: int, quick: bool) -> dict[str, Any]:
    """Part "growth"."""
    backbone = backbone_on(device)
    sides = (224, 448) if quick else (224, 336, 448, 672, 896)
    by_side = {}
    for side in sides:
        model = model_with(backbone, side)
        volume = volume_of(4, side)
        shown = volume.slice(1), resolve(model.header.preprocessing.window, volume)
        ms = median_ms(lambda m=model, s=shown: m.score_slice(s[0], window=s[1]), device, repeats)
        by_side[str(side)] = round(ms, 2)
    model = model_with(backbone)
    list(model.iter_volume(volume_of(70 if device.type == "cuda" else 1)))
    by_count = {}
    for count in (1, 4, 16) if device.type == "cpu" else (1, 16, 64, 256):
        volume = volume_of(count)
        begin = time.perf_counter()
        list(model.iter_volume(volume))
        by_count[str(count)] = round(1000 * (time.perf_counter() - begin), 1)
    return {"ms_by_side": by_side, "ms_by_slices": by_count}


def draw(result: dict[str, Any], path: Path) -> None:
    """Plot what was measured."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 4), constrained_layout=True)
    figure.suptitle(f"{result['machine']['device']}, {result['machine']['threads']} threads")
    engines = {
        k: v for k, v in result.get("slice", {}).get("engines", {}).items() if "problem" not in v
    }
    for n, (key, name) in enumerate(
        (("bare_backbone_ms", "bare backbone"), ("whole_slice_ms", "voxels to heatmap"))
    ):
        places = np.arange(len(engines)) + 0.4 * n
        axes[0].barh(places, [v[key] for v in engines.values()], height=0.4, label=name)
    axes[0].set_yticks(np.arange(len(engines)) + 0.2, list(engines))
    axes[0].set(xlabel="ms", title="one slice")
    axes[0].legend()
    bank = result.get("bank", {})
    rows = {k: v["times_spatial_ar"] for k, v in bank.items() if "times_spatial_ar" in v}
    axes[1].barh(list(rows), list(rows.values()))
    axes[1].set(xscale="log", xlabel="time over that of Spatial AR", title="memory banks")
    growth = result.get("growth", {}).get("ms_by_side", {})
    axes[2].plot([int(k) for k in growth], list(growth.values()), marker="o")
    axes[2].set(
        xlabel="side of the input, pixels",
        ylabel="ms",
        title="one slice, voxels to heatmap",
        ylim=(0, None),
    )
    figure.savefig(path, dpi=100)


def main() -> None:
    """Parse arguments, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--images", default="100,1000,8000")
    parser.add_argument("--quick", action="store_true", help="few repeats, small sizes")
    parser.add_argument("--compiled", action="store_true", help="torch.compile too: minutes")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    said = parser.parse_args()
    device = resolve_device(said.device)
    on_card = device.type == "cuda"
    repeats = 2 if said.quick else 50 if on_card else 7
    images = [int(n) for n in said.images.split(",")]
    works: dict[str, Callable[[], dict[str, Any]]] = {
        "slice": lambda: of_slice(device, repeats, said.compiled),
        "bulk": lambda: of_bulk(device, 2048 if on_card else 4 if said.quick else 12),
        "network": lambda: of_network(device, repeats),
        "bank": lambda: of_bank(device, repeats, images),
        "training": lambda: of_training(device, 1024 if on_card else 16 if said.quick else 64),
        "growth": lambda: of_growth(device, repeats, said.quick),
    }
    result: dict[str, Any] = {"machine": machine(device)}
    for part in said.parts.split(","):
        begin = time.perf_counter()
        result[part] = works[part]()
        print(  # noqa: T201
            f"{part} ({time.perf_counter() - begin:.0f} s): {json.dumps(result[part], indent=1)}",
            flush=True,
        )
        if said.json:
            said.json.write_text(json.dumps(result, indent=1) + "\n")
    if said.plot:
        draw(result, said.plot)


if __name__ == "__main__":
    main()
