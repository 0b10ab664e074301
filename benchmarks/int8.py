"""What a backbone in 8 bits costs the maps, and gains, by what of it is in 8 bits.

python benchmarks/int8.py MODEL [MODEL...] [--repeats 9] [--json FILE]

The models share a backbone. Ranks of patch scores are compared with float32's on the slices that
engines are compared on, and on further slices of the sample scan; neither are those that the
ranges of activations are taken from. All variants are timed in turn, a slice at a time, so that
other work on the machine falls on each of them alike. Needs the extra ``int8``.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import napari_spatial_ar as nsar
from napari_spatial_ar.imaging.samples import sample_volume
from napari_spatial_ar.imaging.windows import Window, apply_window, resolve
from napari_spatial_ar.normative.backbones import engines, fastest_engine
from napari_spatial_ar.normative.backbones.engines import OpenVino
from napari_spatial_ar.normative.model import NormativeModel

CPU = torch.device("cpu")
FURTHER = 8
# Parts of names of products that are turned to 8 bits.
VARIANTS: dict[str, tuple[str, ...]] = {
    "first product of each MLP (openvino-int8)": engines._QUANTIZED,
    "MLPs": (".mlp.",),
    "all": ("",),
}


class Variant(OpenVino):
    """OpenVINO's engine around a model that is at hand."""

    def __init__(self, model: Any) -> None:
        super().__init__(torch.nn.Identity(), CPU)
        self._made = model

    def _model(self, shape: tuple[int, ...]) -> Any:
        return self._made


def further(model: NormativeModel) -> list[Tensor]:
    """Slices of the sample scan that nothing else here looks at."""
    volume = sample_volume()
    limits = resolve(Window("percentile", 1.0, 99.0), volume)
    count, preprocessing = volume.geometry.slice_count, model.header.preprocessing
    used = {count * (n + 3) // 9 for n in range(3)}
    used |= {count * (2 * n + 13) // 36 for n in range(engines._SLICES)}
    free = [i for i in range(count // 5, count * 4 // 5) if i not in used]
    chosen = free[:: max(1, len(free) // FURTHER)][:FURTHER]
    return [preprocessing(apply_window(volume.slice(i), *limits))[None] for i in chosen]


@torch.inference_mode()
def scores(model: NormativeModel, grids: list[Tensor]) -> np.ndarray:
    """Patch scores of all slices, as engines are compared by."""
    smooth = [model.header.scoring.smooth(model.detector.score(g).float()) for g in grids]
    return np.concatenate([s.flatten().numpy() for s in smooth])


@torch.inference_mode()
def main() -> None:
    """Parse arguments, measure, report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    models = [nsar.load_model(name, device="cpu") for name in arguments.models]
    backbone = models[0].backbone
    if any(model.header.backbone != models[0].header.backbone for model in models):
        parser.error("the models do not share a backbone")
    checked, more = fastest_engine._inputs(models[0]), further(models[0])
    network, shape = backbone.network, tuple(checked[0].shape)
    plain = engines.convert(network, shape)
    images = engines._slices(shape)
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "float32 (torch)": backbone.compute,
        "openvino": Variant(plain),
    }
    made = {}
    for name, parts in VARIANTS.items():
        start = time.perf_counter()
        engines._QUANTIZED = parts
        ways[name] = Variant(engines._quantize(plain.clone(), images))
        made[name] = round(time.perf_counter() - start, 1)
    import nncf

    start = time.perf_counter()
    compressed = nncf.compress_weights(plain.clone(), mode=nncf.CompressWeightsMode.INT8_SYM)
    ways["all weights, products in float32"] = Variant(compressed)
    made["all weights, products in float32"] = round(time.perf_counter() - start, 1)
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(arguments.repeats + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way(checked[turn % len(checked)])
            if turn:  # the first one sets up
                taken[name].append(time.perf_counter() - start)
    expected = [[ways["float32 (torch)"](x) for x in part] for part in (checked, more)]
    rows: dict[str, Any] = {}
    for name, way in ways.items():
        found = [[way(x) for x in part] for part in (checked, more)]
        ratios = np.divide(taken["openvino"], taken[name])
        rows[name] = {
            "seconds_to_make": made.get(name),
            "median_s": round(statistics.median(taken[name]), 3),
            "least_s": round(min(taken[name]), 3),
            "times_as_fast_as_openvino": round(float(np.median(ratios)), 2),
            "rank_correlation": {
                model.name: [
                    round(
                        fastest_engine._rank_correlation(scores(model, one), scores(model, other)),
                        5,
                    )
                    for one, other in zip(found, expected, strict=True)
                ]
                for model in models
            },
        }
    capabilities = torch.cpu.get_capabilities()
    result = {
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "avx512_vnni": bool(capabilities.get("avx512_vnni")),
        "versions": {name: version(name) for name in ("openvino", "nncf", "torch")},
        "backbone": backbone.spec.name,
        "shape": list(shape),
        "slices": {"compared_on": len(checked), "further": len(more), "ranges_from": len(images)},
        "variants": rows,
    }
    text = json.dumps(result, indent=2)
    print(text)  # noqa: T201
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
