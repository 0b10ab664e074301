"""Processes that work together: what is lost with one of them, and what is not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from napari_spatial_ar.distributed import cluster as clusters
from napari_spatial_ar.distributed.cluster import Cluster, Tls, connect
from napari_spatial_ar.distributed.scoring import score_many
from napari_spatial_ar.errors import InputError, StorageError
from napari_spatial_ar.review.batch import score_scans
from tests.conftest import REPO_ROOT
from tests.distributed.conftest import NAMES, names_under

pytest.importorskip("distributed")

OPTIONS: dict[str, Any] = {"threshold": 1.0, "device": "cpu", "montage": False}


def ledger(out: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (out / "ledger").glob("[!.]*.json")}


@pytest.mark.skipif(sys.platform == "win32", reason="this system has no SIGKILL")
def test_a_killed_worker_loses_nothing_and_repeats_nothing(
    scans: list[Path], model: Path, tmp_path: Path, cluster: Cluster
) -> None:
    out = tmp_path / "out"
    finished: dict[str, str] = {}
    killed: set[int] = set()

    def kill(label: str, done: int, total: int) -> None:
        """Kill the process that did the first scan, with whatever it is doing now."""
        if not killed:
            finished.update(ledger(out))
            killed.add(json.loads(next(iter(finished.values())))["process"])
            os.kill(*killed, signal.SIGKILL)

    result = score_many(scans, model, str(out), run=cluster.run, progress=kill, **OPTIONS)
    assert (len(result["scans"]), result["failed"], result["skipped"]) == (6, [], 0)
    assert len(killed) == 1
    assert finished
    now = ledger(out)
    assert len(now) == 6
    # The time and the process in an entry are those of the one time that the scan was scored.
    assert {name: now[name] for name in finished} == finished
    plain = score_scans(scans, model, tmp_path / "plain", **OPTIONS)
    for one, other in zip(result["scans"], plain["scans"], strict=True):
        assert one["input"] == other["input"]
        assert one["findings"] == other["findings"]
        for name in ("nll", "mask"):
            files = out / one["files"][name], other["files"][name]
            here, there = (nib.load(path).get_fdata() for path in files)
            np.testing.assert_allclose(here, there, rtol=1e-5)
    assert not any(name in names_under(out) for name in NAMES)
    # What a second run has to do: nothing.
    again = score_many(scans, model, str(out), run=cluster.run, **OPTIONS)
    assert again["skipped"] == 6
    assert again["scans"] == result["scans"]
    assert ledger(out) == now


def test_a_client_that_stops_leaves_the_rest_for_the_next(
    scans: list[Path], model: Path, tmp_path: Path, cluster: Cluster
) -> None:
    out = tmp_path / "out"

    def stop(label: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_many(scans, model, str(out), run=cluster.run, progress=stop, **OPTIONS)
    finished = ledger(out)
    assert finished
    result = score_many(scans, model, str(out), run=cluster.run, **OPTIONS)
    assert len(result["scans"]) == 6
    assert len(finished) <= result["skipped"] < 6
    now = ledger(out)
    assert {name: now[name] for name in finished} == finished


def test_a_bad_scan_is_one_sentence(
    scans: list[Path], model: Path, tmp_path: Path, cluster: Cluster
) -> None:
    flat = tmp_path / "flat.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((20, 20, 3), np.float32), None), flat)
    out = str(tmp_path / "out")
    result = score_many([flat, scans[0]], model, out, run=cluster.run, **OPTIONS)
    assert len(result["scans"]) == 1
    (sentence,) = result["failed"]
    assert "flat.nii.gz: all voxels have the same value" in sentence


def test_clusters_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match="no scheduler answers at tcp:"),
        connect("tcp://127.0.0.1:9", seconds=0.5),
    ):
        pass
    tls = Tls(tmp_path / "ca", tmp_path / "cert", tmp_path / "key")
    with (
        pytest.raises(InputError, match="no scheduler answers"),
        connect("tls://127.0.0.1:9", tls=tls, seconds=0.5),
    ):
        pass
    with pytest.raises(InputError, match="either the address"), connect():
        pass
    monkeypatch.setattr(clusters, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"not installed.*\[cluster\]"), connect(processes=1):
        pass


def test_a_resource_that_no_worker_has(cluster: Cluster) -> None:
    address = cluster.client.scheduler.address
    with (
        pytest.raises(InputError, match=r"offers 'GPU'.*--resources GPU=1"),
        connect(address, resource="GPU"),
    ):
        pass


def test_the_command_line_on_a_scheduler(
    scans: list[Path], model: Path, tmp_path: Path, cluster: Cluster
) -> None:
    listed, said = tmp_path / "scans.txt", tmp_path / "said.json"
    listed.write_text("\n".join(map(str, scans[1:3])) + "\n")
    arguments = [
        *("score", "--inputs-from", listed, "--model", model, "--out", (tmp_path / "out").as_uri()),
        *("--scheduler", cluster.client.scheduler.address, "--threshold", "1", "--json", said),
        *("--device", "cpu", scans[0]),
    ]
    command = [sys.executable, "-m", "napari_spatial_ar.cli", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=REPO_ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(said.read_text())
    assert [record["input"] for record in result["scans"]] == [str(path) for path in scans[:3]]
    assert len(ledger(tmp_path / "out")) == 3


def test_a_worker_says_no_more_of_an_error_than_its_name(tmp_path: Path) -> None:
    def fail(task: None, error: Exception) -> None:
        raise error

    path = tmp_path / "DOE_JANE.nii"
    found = clusters._quietly(fail, None, InputError("is damaged", path=path))
    assert "DOE" not in repr(found)
    assert found.error.path == path
    with pytest.raises(clusters._Unexpected, match=r"^OSError$"):
        clusters._quietly(fail, None, OSError(5, "I/O error", str(path)))
    with pytest.raises(StorageError):  # which is worth another try
        clusters._quietly(fail, None, StorageError("could not be written"))
