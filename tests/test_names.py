"""Names of any kind, from file to table, JSON, report and screen."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from napari_spatial_ar.cli import app, cluster, options
from napari_spatial_ar.errors import InputError, UnguardedWarning, printable
from napari_spatial_ar.imaging import files
from napari_spatial_ar.review.tables import csv_text

NAMES = [
    b"[red]a",
    b"a[/]",  # a folder and a file in it
    b"b[/bold]",
    b":smile:",
    b"=cmd|' -C calc'!A0",
    b"x\x1b[31mred",
    b"bell\x07",
    b"two\nlines",
    b"not\xfftext",
    "left\u202eright".encode(),
    b"<b>bold&amp;",
    b"-rf",
    "größe".encode(),
    b"n" * 240,
]
UGLY = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

linux = pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")


def strict(path: Path) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    found: dict[str, Any] = json.loads(path.read_bytes().decode(), parse_constant=refuse)
    return found


@pytest.fixture
def named(tmp_path: Path) -> Path:
    """A picture of each name."""
    folder = tmp_path / "in"
    folder.mkdir()
    rows, columns = np.mgrid[:48, :40]
    disc = (rows - 24) ** 2 + (columns - 20) ** 2 < 300
    for number, name in enumerate(NAMES):
        noise = np.random.default_rng(number).normal(0, 12, disc.shape)
        pixels = np.clip(disc * (120 + noise), 0, 255).astype(np.uint8)
        path = folder / os.fsdecode(name + b"_0.png")
        path.parent.mkdir(exist_ok=True)
        with open(path, "wb") as file:
            Image.fromarray(pixels).save(file, "PNG")
    return folder


def run(target: Path, *arguments: Any, code: int = 0) -> tuple[str, dict[str, Any]]:
    target.unlink(missing_ok=True)
    result = CliRunner().invoke(app, [*map(str, arguments), "--json", str(target)])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    assert not UGLY.search(result.output)
    return result.output, strict(target)


@linux
def test_every_name_is_listed_learned_from_and_scored(
    tmp_path: Path, named: Path, tiny_weights: Path, tiny_name: str
) -> None:
    target = tmp_path / "result.json"
    paths = sorted(named.rglob("*.png"))
    _, found = run(target, "inspect", named)
    listed = {file for series in found["series"] for file in series["files"]}
    assert {os.fsencode(file) for file in listed} == {os.fsencode(path) for path in paths}
    run(target, "summary", named)
    arguments = ["--backbone", tiny_name, "--epochs", 1, "--batch-size", 4, "--size", 64]
    model = tmp_path / "[bold]model"
    _, fitted = run(target, "fit", named, "--out", model, "--device", "cpu", *arguments)
    training = fitted["training"]
    assert training["subjects"] + training["valid_subjects"] == len(NAMES)
    suspects = tmp_path / "suspects"
    run(target, "models", "suspects", model, named, "--out", suspects, "--device", "cpu")
    table = list(csv.reader(io.StringIO((suspects / "suspects.csv").read_text("utf-8"))))
    assert len(table) == len(NAMES) + 1
    out = tmp_path / "out [/]"
    said, scored = run(
        target, "score", *paths, "--model", model, "--out", out, "--fpr", 0.2, "--report"
    )
    assert [os.fsencode(r["input"]) for r in scored["scans"]] == [os.fsencode(p) for p in paths]
    assert len({r["folder"] for r in scored["scans"]}) == len(NAMES)
    assert "out [/]" in said
    (out / "report.html").read_text("utf-8")


@linux
@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_be_read_is_one_printable_sentence(tmp_path: Path, name: bytes) -> None:
    path = tmp_path / (os.fsdecode(name) + ".nii")
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"no scan")
    target = tmp_path / "result.json"
    said, found = run(target, "inspect", path, code=1)
    assert said.startswith("error: ")
    assert len(said.splitlines()) == 1
    assert found["error"] == printable(found["error"])
    assert printable(path.name) in said
    run(target, "inspect", tmp_path / "absent" / path.name, code=1)
    run(target, "score", path, "--model", os.fsdecode(name), "--out", tmp_path / "o", code=1)


def test_very_long_names(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    for arguments in (
        ("inspect", "x" * 5000),
        ("convert", "x" * 300, "--out", tmp_path / "out"),
        ("models", "show", "y" * 300),
        ("models", "import", "z" * 300),
    ):
        run(target, *arguments, code=1)
    scan = tmp_path / "a.nii"
    nib.save(nib.Nifti1Image(np.arange(60, dtype=np.float32).reshape(5, 4, 3), np.eye(4)), scan)
    _, found = run(target, "convert", scan, "--out", tmp_path / ("x" * 300), code=1)
    assert "its name is too long" in found["error"]


@pytest.mark.parametrize("argument", ["--[/red]", "--x\x1b[31m", "[/]"])
def test_wrong_use_with_markup_is_no_crash(argument: str) -> None:
    result = CliRunner().invoke(app, ["score", argument, "--bad"])
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)


def test_lines_of_a_table_and_of_progress_are_shown_as_they_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = options.table("series", "note")
    rows.add_row("[/] :smile: \x1b[31m", "a\nb\udcff")
    options.show(rows)
    out = capsys.readouterr().out
    assert out == "series\tnote\n[/] :smile: \\x1b[31m\ta; b\\udcff\n"
    terminal = Console(width=60, force_terminal=True, color_system=None)
    with terminal.capture() as seen:
        terminal.print(rows.on(terminal))
    assert "[/] :smile: \\x1b[31m  a" in seen.get()
    assert "b\\udcff" in seen.get()
    monkeypatch.setattr(options, "console", terminal)
    monkeypatch.setattr(Console, "is_seen", True, raising=False)
    with terminal.capture() as seen, options.progress("begins") as bar:
        bar("[/] :smile: \x1b[31m", 1, 2)
    assert "[/] :smile: \\x1b[31m" in seen.get()
    assert "1/2" in seen.get()
    monkeypatch.undo()
    options.print_message("[/] :smile: \n")
    assert "[/] :smile: \\n" in capsys.readouterr().err


def test_a_folder_that_cannot_be_claimed_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(descriptor: int, *, blocking: bool) -> bool:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(files, "lock_descriptor", no_locks)
    scan = tmp_path / "a.nii"
    nib.save(nib.Nifti1Image(np.arange(60, dtype=np.float32).reshape(5, 4, 3), np.eye(4)), scan)
    said, _ = run(tmp_path / "result.json", "convert", scan, "--out", tmp_path / "out")
    assert f"warning: {tmp_path / 'out'} is on a file system without locks" in said
    assert UnguardedWarning.__name__ not in said


@linux
def test_a_list_of_scans_may_name_any_file(tmp_path: Path) -> None:
    spaced = tmp_path / " a.nii "
    spaced.touch()
    lines = [b"\xef\xbb\xbfa\xff.nii", b"", b"b\x85\xe2\x80\xa8.nii\r", os.fsencode(spaced), b" c "]
    (tmp_path / "list").write_bytes(b"\n".join(lines))
    found = cluster.listed(None, tmp_path / "list")
    assert [os.fsencode(path) for path in found] == [
        b"a\xff.nii",
        b"b\x85\xe2\x80\xa8.nii",
        os.fsencode(spaced),
        b"c",
    ]
    (tmp_path / "list").write_bytes(b"\x1f\x8b\0\0")
    with pytest.raises(InputError, match="no list of scans"):
        cluster.listed(None, tmp_path / "list")


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+cmd", "'+cmd"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "\\t=1"),
        ("\r=1", "\\r=1"),
        (" =1", "' =1"),
        ("\uff1d1", "'\uff1d1"),
        ("-3.2", "-3.2"),
        ("+4", "+4"),
        ("-1e-5", "-1e-5"),
        ("-1.5 mm", "'-1.5 mm"),
        (-3.2, "-3.2"),
        (float("nan"), ""),
        (float("-inf"), ""),
        (None, ""),
        (7, "7"),
        ('say "a", b', 'say "a", b'),
        ("two\nlines", "two\nlines"),
        ("\x1b[31m\udcff\0", "\\x1b[31m\\udcff\\x00"),
        ("größe", "größe"),
        ("a=b", "a=b"),
    ],
)
def test_no_cell_is_a_formula(value: Any, cell: str) -> None:
    text = csv_text([["name", "x"], [value, "end"]])
    text.encode()
    assert list(csv.reader(io.StringIO(text, newline=""))) == [["name", "x"], [cell, "end"]]
