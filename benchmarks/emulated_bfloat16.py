"""What bfloat16 does to a model's figures, on a processor that has to emulate it.

python benchmarks/emulated_bfloat16.py DATASET MODEL [--json FILE] [--machine NAME]

DATASET is in the BMAD layout; its test split is scored in float32 and in bfloat16. Products of
bfloat16 are summed in float32, as processors with AMX or AVX512-BF16 do it; the order of the sums
may differ from theirs. It takes some ten times as long as float32, so the engine is not offered.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import napari_spatial_ar as nsar
from napari_spatial_ar.evaluation.evaluate import evaluate
from napari_spatial_ar.normative.backbones.devices import VARIABLE


def main() -> None:
    """Parse arguments, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("model")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--machine", default="")
    arguments = parser.parse_args()
    os.environ[VARIABLE] = "on"
    model = nsar.load_model(arguments.model, device="cpu")
    found: dict[str, Any] = {
        "machine": arguments.machine,
        "data": arguments.dataset.name,
        "model": model.name,
        "emulated": True,
    }
    for engine in ("float32", "bfloat16"):
        model.use_engine(engine)
        figures = evaluate(arguments.dataset, model, draws=1)
        assert model.engine == engine
        found[engine] = {
            "pixel_aupr": round(figures.pixel_aupr, 6),
            "image_auroc": round(figures.image_auroc, 6),
        }
    apart = abs(found["float32"]["pixel_aupr"] - found["bfloat16"]["pixel_aupr"])
    found["aupr_apart"] = round(apart, 6)
    text = json.dumps(found, indent=2)
    print(text)  # noqa: T201
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
