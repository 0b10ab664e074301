"""Commands that are killed, meet or run out of room: ``python -m tests.dying ROOT JOBS``.

Each command runs in a copy of ``ROOT/template``, which is its home too, and is forked off one
process, which has imported what takes long. JOBS is JSON:

- ``killed``, words of a command by its name: it is run undisturbed, which counts the steps that it
  takes on the disk (files opened to be written, renamed or removed, folders made). Then it is
  killed at moments spread over these steps, before one, or with the file that it was about to put
  in place written by half, and run again as if nothing had happened.
- ``both``, words of two commands by a name: the first is stopped half-way, the second runs to its
  end, the first goes on, the second runs again.
- ``full``, words of a command, a folder and sizes in bytes by a name: the folder has only that much
  room, then enough, and the command runs again.

How each run ended is printed as JSON.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from napari_spatial_ar.cli import app
from napari_spatial_ar.errors import SpatialARError
from napari_spatial_ar.imaging.reading import find_scans
from napari_spatial_ar.normative.backbones.registry import BACKBONES
from napari_spatial_ar.normative.model import load_model
from napari_spatial_ar.review.findings import Mark
from napari_spatial_ar.review.worklist import scoring
from napari_spatial_ar.review.worklist.scoring import MaskRule, score_steps
from napari_spatial_ar.review.worklist.store import Marks, WorklistStore, model_key, scan_key
from tests.tiny import TINY, make_backbone, make_spec

MOMENTS = 10
_STEPS = {"os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.truncate", "os.link"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Steps:
    """Counts what a process does on the disk under its working folder, and acts at one of them."""

    def __init__(self, at: int | None, how: str) -> None:
        self.count = 0
        #: Which of the steps put a file in its place that was just written.
        self.placing: list[int] = []
        self._at, self._how = at, how
        self._home = os.getcwd() + os.sep
        sys.addaudithook(self._hear)

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            if not isinstance(args[2], int) or not args[2] & _WRITING:
                return
        elif event not in _STEPS:
            return
        path = os.fsdecode(args[0]) if isinstance(args[0], str | bytes | os.PathLike) else ""
        if path.startswith("/") and not path.startswith(self._home):
            return
        now, self.count = self.count, self.count + 1
        if event == "os.rename" and ".partial-" in os.path.basename(path) and os.path.isfile(path):
            self.placing.append(now)
        if self._at is None or now < self._at:
            return
        self._at = None
        if self._how == "half":
            os.truncate(path, os.path.getsize(path) // 2)
        if self._how == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        else:
            os.kill(os.getpid(), signal.SIGKILL)


def worklist(*paths: str) -> int:
    """Score scans as a worklist does, slice by slice, and say something of each."""
    store, model = WorklistStore(Path("kept")), load_model("model", device="cpu")
    scoring._SAVE_SECONDS = 0.0
    try:
        for path in paths:
            (scan,) = find_scans(Path(path)).scans
            key, by = scan_key(scan), model_key(model)
            with store.hold(key):
                store.see(key)
                for _ in score_steps(model, scan, key, store, lambda: MaskRule(1.0)):
                    pass
                store.save_marks(key, by, Marks((Mark(np.arange(9), "keep", "old"),)))
                store.save_reading(key, "done")
    except SpatialARError as error:
        print(f"error: {error}")  # noqa: T201
        return 1
    return 0


def start(
    words: Sequence[str],
    home: Path,
    at: int | None = None,
    how: str = "kill",
    *,
    label: str = "",
    largest: int = 0,
) -> int:
    """Start a command in a process of its own; gives that. It writes no file above ``largest``."""
    label = label or home.name
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        os.chdir(home)
        os.environ["NAPARI_SPATIAL_AR_HOME"] = str(home)
        with (
            open(home.with_name(f"{label}.said"), "a") as said,
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
        ):
            if largest:
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
            steps = Steps(at, how)
            if words[0] == "worklist":
                code = worklist(*words[1:])
            else:
                try:
                    app(list(words))
                except SystemExit as end:
                    code = int(end.code or 0)
        done = {"count": steps.count, "placing": steps.placing}
        home.with_name(f"{label}.steps").write_text(json.dumps(done))
    finally:
        os._exit(code)


def end(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def seen(home: Path) -> dict[str, int]:
    """Files that are there, and the place on the disk of each."""
    return {
        path.relative_to(home).as_posix(): path.stat().st_ino
        for path in home.rglob("*")
        if path.is_file()
    }


def killed(name: str, words: Sequence[str], root: Path) -> list[dict[str, Any]]:
    whole = root / f"{name}-whole"
    shutil.copytree(root / "template", whole)
    ends = [{"home": whole.name, "again": end(start(words, whole))}]
    steps = json.loads(whole.with_name(f"{whole.name}.steps").read_text())
    for number in range(MOMENTS):
        home = root / f"{name}-{number}"
        shutil.copytree(root / "template", home)
        at, how = (2 * number + 1) * steps["count"] // (2 * MOMENTS), "kill"
        if number % 2:
            at, how = min(steps["placing"], key=lambda step: abs(step - at)), "half"
        ended = end(start(words, home, at, how))
        found = seen(home)
        again = end(start(words, home))
        ends.append({"home": home.name, "end": ended, "seen": found, "again": again})
    return ends


def both(name: str, first: Sequence[str], second: Sequence[str], root: Path) -> dict[str, int]:
    counted, home = root / f"{name}-counted", root / name
    for folder in (counted, home):
        shutil.copytree(root / "template", folder)
    end(start(first, counted))
    steps = json.loads(counted.with_name(f"{counted.name}.steps").read_text())
    one = start(first, home, steps["count"] // 2, "stop", label=f"{name}-first")
    assert os.WIFSTOPPED(os.waitpid(one, os.WUNTRACED)[1])
    meanwhile = end(start(second, home, label=f"{name}-second"))
    os.kill(one, signal.SIGCONT)
    return {
        "meanwhile": meanwhile,
        "first": end(one),
        "second": end(start(second, home, label=f"{name}-again")),
    }


def full(
    name: str, words: Sequence[str], place: str, sizes: Sequence[int], root: Path
) -> list[dict[str, Any]]:
    """Without the right to mount a small disk, no file may be larger than the size."""
    whole = root / f"{name}-whole"
    shutil.copytree(root / "template", whole)
    shutil.rmtree(whole / place, ignore_errors=True)
    ends = [{"home": whole.name, "again": end(start(words, whole))}]
    for number, size in enumerate(sizes):
        home = root / f"{name}-{number}"
        shutil.copytree(root / "template", home)
        shutil.rmtree(home / place, ignore_errors=True)
        (home / place).mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(home / place)]
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
        try:
            ended = end(start(words, home, largest=0 if mounted else size // 4))
            found = seen(home)
            if mounted:
                subprocess.run([*mount[:3], "-o", "remount,size=64m", mount[-1]], check=True)
            again = end(start(words, home))
            if mounted:
                shutil.copytree(home / place, home / "kept-of-it")
        finally:
            if mounted:
                subprocess.run(["umount", str(home / place)], check=True)
        if mounted:
            (home / place).rmdir()
            (home / "kept-of-it").rename(home / place)
        ends.append({"home": home.name, "end": ended, "seen": found, "again": again})
    return ends


def main(root: str, jobs: str) -> None:
    torch.set_num_threads(1)
    BACKBONES[TINY] = make_spec()
    # So that what these import is imported once.
    make_backbone(make_spec())
    with contextlib.suppress(SystemExit), contextlib.redirect_stderr(io.StringIO()):
        app(["inspect", "absent"])
    asked = json.loads(jobs)
    ends = {
        kind: {name: do(name, *asked[kind][name], Path(root)) for name in asked[kind]}
        for kind, do in (("killed", killed), ("both", both), ("full", full))
    }
    print(json.dumps(ends))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
