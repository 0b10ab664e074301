"""Fits that kill themselves: ``python -m tests.normative.fit_and_die NORMALS ROOT MOMENT...``.

Each MOMENT has a process and a home of its own. It says ``METHOD/KIND/NAME/COUNT``: at the
COUNT-th step of the stage NAME (KIND ``step``), or with the COUNT-th file whose name ends in NAME
written by half (``half``), or just in its place (``placed``). How each process ended is printed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

import napari_spatial_ar as nsar
from napari_spatial_ar.normative.fitting.fit import FitProgress
from tests.tiny import learn_changes_briefly, make_backbone, make_spec

OPTIONS: dict[str, dict[str, Any]] = {
    "spatial-ar": {"epochs": 4, "batch_size": 4, "dilation": 1, "hidden": 16},
    "change-novelty": {"slices": 6, "rows": 64},
}


def home(root: Path, moment: str) -> Path:
    """Where a fit keeps its embeddings; its model is in ``home / "model"``."""
    return root / moment.replace("/", "-")


def fit(normals: Path, target: Path, method: str, **more: Any) -> Any:
    """Fit as every process does, and the test that goes on from there."""
    with pytest.MonkeyPatch.context() as patch:
        learn_changes_briefly(patch)
        return nsar.fit(
            normals,
            out=target,
            backbone=make_backbone(make_spec()),
            size=64,
            device="cpu",
            method=method,
            options=OPTIONS[method],
            **more,
        )


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fit_until(normals: Path, root: Path, moment: str) -> None:
    method, kind, name, count = moment.split("/")
    left = int(count)
    replace = os.replace

    def is_now(seen: bool) -> bool:
        nonlocal left
        left -= seen
        return seen and left == 0

    def counting(source: Path, target: Path) -> None:
        now = kind != "step" and is_now(str(target).endswith(name))
        if now and kind == "half":
            os.truncate(source, os.path.getsize(source) // 2)
            die()
        replace(source, target)
        if now:
            die()

    def told(step: FitProgress) -> None:
        if kind == "step" and is_now(step.stage == name):
            die()

    os.replace = counting  # type: ignore[assignment]
    os.environ["NAPARI_SPATIAL_AR_HOME"] = str(home(root, moment))
    fit(normals, home(root, moment) / "model", method, progress=told)


def main(normals: str, root: str, *moments: str) -> NoReturn:
    torch.set_num_threads(1)
    make_backbone(make_spec())  # so that what it imports is imported once
    ends = {}
    for moment in moments:
        child = os.fork()
        if not child:
            try:
                fit_until(Path(normals), Path(root), moment)
            finally:
                os._exit(1)
        ends[moment] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps(ends))  # noqa: T201
    sys.exit()


if __name__ == "__main__":
    main(*sys.argv[1:])
