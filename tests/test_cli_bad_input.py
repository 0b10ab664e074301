"""Bad input of every command: one sentence that says what, which file and what to do."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from napari_spatial_ar.cli import app
from tests.test_cli import series_of

MODEL, OTHER = "brain-flair-change", "brain-flair-focus"
KINDS = {
    "empty": "the folder is empty",
    "absent": "there is no such file or folder",
    "cut.dcm": "cut.dcm: its header claims",
    "text.nii.gz": "text.nii.gz: is not a NIfTI file that can be read",
    "text": "notes.txt|there is no image in it|is not an image",
}
# What reads scans, with {} for the scan and OUT for a place to write to.
READERS = (
    "inspect {}",
    "summary {}",
    "convert {} --out OUT",
    "seg {} --reference good --out OUT",
    "seg mask.nii.gz --reference {} --out OUT",
    f"score {{}} --model {MODEL} --out OUT",
    "fit {} --method memory-bank --out OUT",
    f"calibrate {MODEL} {{}} --out OUT",
    f"models suspects {MODEL} {{}}",
    f"models compare {MODEL} {OTHER} {{}} --out OUT",
)
# What reads something else.
OTHERS = (
    ("evaluate {} --model " + MODEL, "BMAD layout|there is no such folder"),
    ("compare {} --model " + MODEL + " --out OUT", "BMAD layout|there is no such folder"),
    ("score good --model {} --out OUT", "no model|not a valid safetensors file"),
    ("calibrate {} good --out OUT", "no model|not a valid safetensors file"),
    ("speed {}", "no model|not a valid safetensors file"),
    ("models show {}", "no model|not a valid safetensors file"),
    ("models export {} --out OUT", "no model|not a valid safetensors file"),
    ("models duplicate {} copy", "no model|not a valid safetensors file"),
    ("models import {}", "no such model file|not a valid safetensors file"),
    ("models rename {} new", "no model"),
    ("models delete {}", "no model"),
    ("models restore {}", "no model"),
    ("weights add {}", "no weights|no such file or folder"),
    ("weights pull {}", "no backbone"),
    ("fit --recipe {}", "recipe"),
    (
        f"score --inputs-from {{}} --model {MODEL} --out OUT",
        "not a readable list of scans|no list of scans|no such file",
    ),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bad inputs of each kind, and a good series."""
    root = tmp_path_factory.mktemp("bad")
    (root / "empty").mkdir()
    series_of(root / "good")
    (root / "cut.dcm").write_bytes((root / "good/Doe_0").read_bytes()[:900])
    (root / "text.nii.gz").write_text("no scan at all")
    (root / "text").mkdir()
    (root / "text/notes.txt").write_text("no image here")
    nib.save(nib.Nifti1Image(np.ones((9, 9, 2), np.uint8), np.eye(4)), root / "mask.nii.gz")
    return root


def run(folder: Path, command: str, *, code: int = 1) -> str:
    """Run a command in a folder; give what it said, after looking at its manners."""
    out = folder / "out"
    words = [str(out) if word == "OUT" else word for word in command.split()]
    words = [str(folder / word) if (folder / word).exists() else word for word in words]
    words = [word if word != "absent" else str(folder / word) for word in words]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    assert "should not have happened" not in result.output
    assert not out.exists() or not any(out.iterdir())
    shutil.rmtree(out, ignore_errors=True)
    return result.stderr


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", READERS)
def test_scans_that_are_none(folder: Path, command: str, kind: str) -> None:
    *_, last = run(folder, command.format(kind)).splitlines()
    assert last.startswith("error: ")
    assert last.endswith(".")
    assert any(words in last for words in KINDS[kind].split("|")), last
    assert kind in last


@pytest.mark.parametrize("kind", ["empty", "absent", "text.nii.gz"])
@pytest.mark.parametrize(("command", "words"), OTHERS)
def test_other_things_that_are_none(folder: Path, command: str, words: str, kind: str) -> None:
    *_, last = run(folder, command.format(kind)).splitlines()
    assert last.startswith("error: ")
    assert last.endswith(".")
    assert any(part in last for part in words.split("|")), last


def draw_pictures(made: Path, seed: int) -> Path:
    """A folder of pictures of which one is cut short."""
    made.mkdir()
    rows, columns = np.mgrid[:48, :40]
    disc = (rows - 24) ** 2 + (columns - 20) ** 2 < 300
    for number in range(4):
        noise = np.random.default_rng([seed, number]).normal(120, 12, disc.shape)
        pixels = (disc * noise).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(made / f"p{number}_0.png")
    broken = made / "p2_0.png"
    broken.write_bytes(broken.read_bytes()[:200])
    return made


def test_a_broken_picture_among_others_is_named(
    tmp_path: Path, tiny_weights: Path, tiny_name: str
) -> None:
    def said(code: int, *words: Any) -> str:
        result = CliRunner().invoke(app, [*map(str, words)])
        assert result.exit_code == code, result.output
        return result.stderr

    pictures = draw_pictures(tmp_path / "pictures", seed=0)
    broken = f"{pictures / 'p2_0.png'}: is not a PNG, JPEG, TIFF or BMP image that can be read"
    assert f"could not be read: {broken}" in said(0, "inspect", pictures)
    assert f"could not be read: {broken}" in said(0, "summary", pictures)
    converted = said(1, "convert", pictures, "--out", tmp_path / "out")
    assert f"could not be converted: {broken}" in converted
    (volume,) = (tmp_path / "out").iterdir()
    assert nib.load(volume).shape == (40, 48, 3)
    model, here = tmp_path / "m", ("--device", "cpu")
    options = ("--backbone", tiny_name, "--method", "memory-bank", "--size", 64, *here)
    left_out = "warning: 1 input is left out"
    assert left_out in said(0, "fit", pictures, "--out", model, *options)
    place = tmp_path / "s"
    scored = said(1, "score", pictures, "--model", model, "--out", place, "--fpr", 0.5, *here)
    assert f"could not be scored: {broken}" in scored
    assert len(list(place.glob("*/mask.nii.gz"))) == 1
    others = draw_pictures(tmp_path / "others", seed=1)
    assert left_out in said(0, "calibrate", model, others, "--out", tmp_path / "c", *here)


def test_series_of_several_kinds_are_told_apart(tmp_path: Path) -> None:
    series_of(tmp_path / "in/a")
    series_of(tmp_path / "in/b", SeriesInstanceUID="1.2.77", SeriesNumber=9, Modality="CT")
    result = CliRunner().invoke(app, ["inspect", str(tmp_path / "in")])
    assert result.exit_code == 0
    assert [line.split("\t")[0] for line in result.stdout.splitlines()[1:]] == [
        "MR series 4",
        "CT series 9",
    ]
    command = ["models", "compare", MODEL, OTHER, str(tmp_path / "in")]
    result = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "it contains 2 scans. Give one of them." in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "command",
    [
        "convert good --out {}",
        f"score good --model {MODEL} --out {{}}",
        "fit good --method memory-bank --out {}",
        f"calibrate {MODEL} good --out {{}}",
        f"models export {MODEL} --out {{}}/x.zip",
        f"models compare {MODEL} {OTHER} good --out {{}}",
        "demo --headless --out {}",
        "inspect good --json {}/x.json",
        "fit good --json {}/x.json",
    ],
)
@pytest.mark.parametrize("inside", ["", "/in it"])
def test_places_that_cannot_be_written_to(
    folder: Path, tmp_path: Path, command: str, inside: str
) -> None:
    place = tmp_path / "place"
    place.write_text("mine")
    *_, last = run(folder, command.format(f"{place}{inside.replace(' ', '_')}")).splitlines()
    assert last.startswith("error: ")
    assert str(place) in last
    assert "not a folder" in last or "could not be written" in last
    assert place.read_text() == "mine"


@pytest.mark.skipif(os.access("/proc/version", os.W_OK), reason="root may write everywhere")
def test_a_folder_that_is_read_only(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "closed"
    place.mkdir(mode=0o555)
    for command in ("convert good --out {}", "inspect good --json {}/x.json"):
        *_, last = run(folder, command.format(place)).splitlines()
        assert "could not be written, because this is not permitted" in last
