"""The commands about archives, as a user meets them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from typer.testing import CliRunner

import napari_spatial_ar as nsar
from napari_spatial_ar.cli import app
from napari_spatial_ar.paths import archives_file
from tests.archive.conftest import MemoryKeyring, Orthanc, Written, free_port, write_series
from tests.archive.fake_web import FakeWeb
from tests.json_check import check
from tests.tiny import draw_normal_slices

PROGRAM = [sys.executable, "-m", "napari_spatial_ar"]


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """Runs a command in this process; gives its JSON, and its output where asked."""
    target = tmp_path / "result.json"

    def call(*arguments: Any, code: int = 0, input: str | None = None) -> dict[str, Any]:
        target.unlink(missing_ok=True)
        words = [*map(str, arguments), "--json", str(target)]
        result = CliRunner().invoke(app, words, input=input)
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        found: dict[str, Any] = json.loads(target.read_text())
        check(found)
        return found | {"output": result.output}

    return call


def test_find_get_and_send(run: Any, orthanc: Orthanc, series: Written, tmp_path: Path) -> None:
    sent = run("archive", "send", orthanc.dimse, series.folder)
    assert (sent["stored"], sent["there"], sent["refused"]) == (4, 0, 0)
    assert run("archive", "send", orthanc.web, series.folder)["there"] == 4
    for url in (orthanc.web, orthanc.dimse):
        assert run("archive", "echo", url)["url"] == url
        found = run("archive", "find", url, "--patient-id", "P-*", "--date", "20260101-20260103")
        (study,) = found["studies"]
        assert (study["patient_name"], study["number_of_instances"]) == ("Doe^Jane", 4)
        assert study["modalities"] == ["MR"]
        assert "Doe^Jane" in found["output"]
        listed = run("archive", "find", url, "--study", series.study_uid)
        (one,) = listed["studies"][0]["series"]
        assert (one["series_uid"], one["instances"]) == (series.series_uid, 4)
        assert run("archive", "find", url, "--modality", "CT")["studies"] == []
        out = tmp_path / url.partition(":")[0]
        got = run("archive", "get", url, "--series", series.series_uid, "--out", out)
        assert got["series"][0]["fetched"] == 4
        assert got["failed"] == []
        again = run("archive", "get", url, "--study", series.study_uid, "--out", out)
        assert (again["series"][0]["instances"], again["series"][0]["fetched"]) == (4, 0)
        (scan,) = nsar.read(out)
        np.testing.assert_array_equal(scan.data, nsar.read(series.folder)[0].data)


def test_archives_are_saved_by_name(
    run: Any, web: FakeWeb, series: Written, tmp_path: Path, kept_secrets: MemoryKeyring
) -> None:
    web.add(*series.files)
    assert run("archive", "list")["archives"] == []
    run("archive", "add", "main", web.url, "--aet", "WS1", "--timeout", 9)
    (saved,) = run("archive", "list")["archives"]
    assert (saved["name"], saved["url"], saved["aet"]) == ("main", web.url, "WS1")
    assert len(run("archive", "find", "main")["studies"]) == 1
    assert "there is an archive" in run("archive", "add", "main", web.url, code=1)["error"]
    run("archive", "add", "main", web.url, "--overwrite")
    said = run("archive", "login", "main", input="hunter2\n")
    run("archive", "find", "main")
    assert web.headers[-1]["Authorization"] == "Bearer hunter2"
    run("archive", "login", web.url, "--user", "jane", input="hunter2\n")
    run("archive", "find", "main")
    assert web.headers[-1]["Authorization"].startswith("Basic ")
    assert "hunter2" not in str(said) + archives_file().read_text()
    run("archive", "login", "main", "--forget")
    assert kept_secrets.kept == {}
    run("archive", "remove", "main")
    assert "neither the URL" in run("archive", "find", "main", code=1)["error"]


def test_a_login_that_is_refused_names_what_to_do(run: Any, web: FakeWeb) -> None:
    web.before = lambda method, path: (401, "text/html", b"<html>")
    error = run("archive", "find", web.url, "--patient-id", "P-9", code=1)["error"]
    assert error.endswith(f"Run: napari-spatial-ar archive login {web.url}.")
    assert "P-9" not in error


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["find", "ftp://pacs/x"], "is not the URL of an archive"),
        (["find", "http://j:hunter2@pacs/x"], "contains a user name or a password"),
        (["find", "nowhere"], "neither the URL of an archive nor the name"),
        (["find", "http://127.0.0.1:1/x", "--date", "2026"], "not a date or a range"),
        (["get", "http://127.0.0.1:1/x", "--series", "x", "--out", "o"], "is not a DICOM UID"),
        (["get", "http://127.0.0.1:1/x", "--series", "1.2", "--out", "o"], "was refused"),
        (["send", "http://127.0.0.1:1/x", "absent"], "absent: there is no such file"),
        (["send", "http://127.0.0.1:1/x", "pyproject.toml"], "is not a DICOM file"),
        (["listen", "--port", "0", "--out", "o", "--host", "0.0.0.0"], "anyone who reaches"),
        (["add", "a/b", "http://pacs/x"], "not a name for an archive"),
        (["find", "http://127.0.0.1:1/x", "--ca", "absent.pem"], "no such file of certificates"),
    ],
)
def test_errors_are_one_sentence(
    run: Any, words: list[str], error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = run("archive", *words, code=1)
    assert error in found["error"]
    assert "hunter2" not in found["output"]
    assert len(found["output"].splitlines()) == 1


@pytest.mark.parametrize(
    "words",
    [
        ["get", "http://pacs/x", "--out", "o"],
        ["get", "http://pacs/x", "--series", "1.2"],
        ["listen", "--out", "o"],
        ["find"],
        ["find", "http://pacs/x", "--limit", "0"],
    ],
)
def test_wrong_use(words: list[str]) -> None:
    assert CliRunner().invoke(app, ["archive", *words]).exit_code == 2


def test_half_of_a_study_that_cannot_be_had(
    run: Any, web: FakeWeb, series: Written, tmp_path: Path
) -> None:
    other = write_series(tmp_path / "other", StudyInstanceUID=series.study_uid)
    web.add(*series.files, *other.files)
    web.before = lambda m, p: (200, "text/html", b"") if p.endswith(other.series_uid) else None
    words = ["archive", "get", web.url, "--study", series.study_uid, "--out", tmp_path / "out"]
    found = run(*words, code=1)
    assert [one["series_uid"] for one in found["series"]] == [series.series_uid]
    assert "does not answer as DICOMweb does" in found["failed"][0]
    assert len([path for path in (tmp_path / "out").iterdir() if path.name[0] != "."]) == 1


def test_the_cache_is_shown_and_emptied(run: Any, own_home: Path) -> None:
    folder = own_home / "studies" / ("0" * 16)
    folder.mkdir(parents=True)
    (folder / "1.dcm").write_bytes(b"x" * 1000)
    assert run("archive", "cache")["bytes"] == 1000
    emptied = run("archive", "cache", "--empty")
    assert (emptied["bytes"], emptied["freed"]) == (0, 1000)


# ---------------------------------------------------------------- services


def wait_for(port: int) -> None:
    for _ in range(400):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("it does not listen")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_listen_ends_cleanly(run: Any, series: Written, tmp_path: Path, how: int) -> None:
    port, out, target = free_port(), tmp_path / "out", tmp_path / "listen.json"
    words = ["archive", "listen", "--port", port, "--out", out, "--settle", 0.2, "--json", target]
    # Not as a job in the background of a shell, which ignores SIGINT.
    with subprocess.Popen(
        [*PROGRAM, *map(str, words)], stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            wait_for(port)
            url = f"dicom://NSAR@127.0.0.1:{port}"
            assert run("archive", "send", url, series.folder, "--aet", "CT1")["stored"] == 4
            end = time.monotonic() + 20
            while not list(out.glob("[0-9a-f]*")) and time.monotonic() < end:
                time.sleep(0.05)
        finally:
            process.send_signal(how)
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.wait(timeout=20) == 0, said
    found = json.loads(target.read_text())
    check(found)
    assert (len(found["series"]), found["waiting"]) == (1, 0)
    assert len(nsar.read(out)) == 1
    assert "Doe" not in said
    assert "P-1" not in said


@pytest.fixture
def model(tmp_path: Path, run: Any, tiny_weights: Path, tiny_name: str) -> Path:
    """A model that scores in no time, in the home of the test."""
    normal = draw_normal_slices(tmp_path / "normal")
    words = ["fit", normal, "--out", tmp_path / "model", "--backbone", tiny_name, "--epochs", 1]
    words += ["--batch-size", 4, "--dilation", 1, "--size", 64, "--device", "cpu"]
    run(*words, "--method", "spatial-ar")
    return tmp_path / "model"


def heads(folder: Path, count: int = 1) -> list[Written]:
    """Series with something in each slice."""
    return [
        write_series(folder / str(number), 3, 32, PatientID=f"P-{number}", StudyDate="20260102")
        for number in range(count)
    ]


def test_scores_go_from_one_archive_to_another(
    run: Any, orthanc: Orthanc, dcmtk: Any, model: Path, tmp_path: Path
) -> None:
    (series,) = heads(tmp_path / "source")
    run("archive", "send", orthanc.web, series.folder)
    words = ["score", "--from", orthanc.dimse, "--query", "modality=MR,date=20260102"]
    words += ["--to", orthanc.web, "--model", model, "--out", tmp_path / "results"]
    words += ["--fpr", 0.2, "--dicom-objects", "seg,pm", "--device", "cpu"]
    scored = run(*words)
    assert len(scored["scans"]) == 1
    assert scored["sent"]["refused"] == 0
    assert scored["sent"]["stored"] == len(scored["sent"]["files"]) >= 2
    again = run(*words)
    assert again["skipped"] == 1
    assert again["sent"]["stored"] == 0
    # Another client fetches what was stored, beside the scan it belongs to.
    back = tmp_path / "back"
    back.mkdir()
    keys = ["-k", "0008,0052=STUDY", "-k", f"0020,000d={series.study_uid}"]
    us = ["-aet", "NSAR", "-aem", "NSAR", "+P", orthanc.move, "-od", back]
    dcmtk("movescu", "-S", *us, *keys, "-aec", "ORTHANC", "127.0.0.1", orthanc.dicom)
    found = [pydicom.dcmread(path) for path in back.iterdir()]
    segs = [one for one in found if one.Modality == "SEG"]
    assert segs
    for one in segs:
        seg = hd.seg.Segmentation.from_dataset(one)
        assert seg.StudyInstanceUID == series.study_uid
        assert seg.PatientID == "P-0"
        for image in seg.get_source_image_uids():
            assert image[1] == series.series_uid
    assert orthanc.count("MR") == 3


def test_a_query_that_says_nothing_or_finds_nothing(
    run: Any, web: FakeWeb, model: Path, tmp_path: Path
) -> None:
    start = ["score", "--model", model, "--out", tmp_path / "results"]
    error = run(*start, "--from", web.url, "--query", "modality=MR", code=1)["error"]
    assert "no series of the model's modality matches the query" in error
    for words in (
        ["--from", web.url],
        ["--query", "modality=MR", "scan.nii"],
        ["--from", web.url, "--query", "modality="],
        ["--to", web.url, "--out", "s3://bucket/x", "scan.nii"],
    ):
        assert CliRunner().invoke(app, [*map(str, start), *words]).exit_code == 2


def test_watch_scores_and_sends_each_once(
    run: Any, orthanc: Orthanc, model: Path, tmp_path: Path
) -> None:
    for one in heads(tmp_path / "source", 2):
        run("archive", "send", orthanc.web, one.folder)
    words = ["archive", "watch", orthanc.web, "--model", model, "--to", orthanc.dimse]
    words += ["--date", "20260102", "--settle", 0, "--fpr", 0.2, "--device", "cpu"]
    words += ["--dicom-objects", "seg"]
    # The model was trained on other pictures: what it finds here stays here, unless asked for.
    held = run(*words, "--once", "--ledger", tmp_path / "held")["series"]
    assert [one["state"] for one in held] == ["left out"] * 2
    for one in held:
        assert "outside the model's training domain" in one["reason"]
        assert list((tmp_path / "held" / "results" / one["key"]).rglob("mask.dcm"))
    assert orthanc.count("SEG") == 0
    words += ["--outside-domain", "--ledger", tmp_path / "ledger"]
    first = run(*words, "--once")
    assert [one["state"] for one in first["series"]] == ["sent"] * 2
    stored = orthanc.count("SEG")
    assert stored >= 2
    assert run(*words, "--once")["series"] == []
    assert orthanc.count("SEG") == stored
    assert orthanc.count("MR") == 6


def test_a_later_reading_of_a_series_that_grew_supersedes_the_earlier(
    run: Any, orthanc: Orthanc, model: Path, tmp_path: Path
) -> None:
    series = write_series(tmp_path / "source", 5, 32, PatientID="P-0", BodyPartExamined="BRAIN")
    words = ["archive", "watch", orthanc.web, "--model", model, "--to", orthanc.web]
    words += ["--once", "--settle", 0, "--fpr", 0.2, "--device", "cpu", "--outside-domain"]
    words += ["--dicom-objects", "seg,sr", "--ledger", tmp_path / "ledger"]
    reports: list[pydicom.Dataset] = []
    for files in (series.files[:3], [], series.files[3:], []):
        if files:
            run("archive", "send", orthanc.web, *files)
        watched = run(*words)["series"]
        assert [(one["state"], one["instances"]) for one in watched] == (
            [("sent", len(reports) * 2 + 3)] if files else []
        )
        (path,) = (tmp_path / "ledger" / "results").rglob("report.dcm")
        report = pydicom.dcmread(path)
        if files:
            reports.append(report)
        assert report.SOPInstanceUID == reports[-1].SOPInstanceUID
    first, second = reports
    assert orthanc.count("SR") == 2
    assert "PredecessorDocumentsSequence" not in first
    (study,) = second.PredecessorDocumentsSequence
    (document,) = study.ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert document.ReferencedSOPInstanceUID == first.SOPInstanceUID
    assert second.SeriesDescription.endswith("reading 2")


def test_watch_ends_cleanly(orthanc: Orthanc, model: Path, tmp_path: Path) -> None:
    target = tmp_path / "watch.json"
    words = ["archive", "watch", orthanc.web, "--model", model, "--to", orthanc.web]
    words += ["--ledger", tmp_path / "ledger", "--json", target, "--device", "cpu"]
    code = (
        "import tests.tiny, sys\n"
        "from napari_spatial_ar.normative.backbones.registry import BACKBONES\n"
        "spec = tests.tiny.make_spec(); BACKBONES[spec.name] = spec\n"
        "from napari_spatial_ar.cli import app\n"
        "app(sys.argv[1:])\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ.copy(),
    ) as process:
        assert process.stderr is not None
        try:
            said = process.stderr.readline()
        finally:
            process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait(timeout=30) == 0, said + rest
    assert said.startswith("Watching http://127.0.0.1")
    check(json.loads(target.read_text()))
