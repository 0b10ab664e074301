"""Manners of the command line: help, completion, pipes, interrupts, choices."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from typer.testing import CliRunner

from napari_spatial_ar.cli import app, choices, options
from napari_spatial_ar.datasets.selection import SlicePlane
from napari_spatial_ar.imaging import reading
from napari_spatial_ar.normative.fitting.config import SECTIONS, FitConfig

PROGRAM = [sys.executable, "-m", "napari_spatial_ar"]
# The name that shells complete.
VARIABLE = "_NAPARI_SPATIAL_AR_COMPLETE"


def commands(group: Any, *names: str) -> Iterator[list[str]]:
    """Every command and group by the words that call it."""
    yield list(names)
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, *names, name)


EVERY = list(commands(typer.main.get_command(app)))


def on_terminal(columns: int, *arguments: str, **variables: str) -> str:
    """Output of the program on a terminal of so many columns."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
    environment |= {"TERM": "xterm-256color", **variables}
    with subprocess.Popen(
        [*PROGRAM, *arguments], stdin=follower, stdout=follower, stderr=follower, env=environment
    ) as process:
        os.close(follower)
        parts = []
        while True:
            try:
                part = os.read(leader, 4096)
            except OSError:  # on Linux, that is how a terminal ends
                break
            if not part:
                break
            parts.append(part)
        os.close(leader)
    assert process.returncode == 0
    return b"".join(parts).decode().replace("\r\n", "\n")


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_every_command_has_its_help(words: list[str]) -> None:
    short, long = (CliRunner().invoke(app, [*words, flag]) for flag in ("-h", "--help"))
    assert short.exit_code == long.exit_code == 0
    assert short.output == long.output
    lines = short.output.splitlines()
    assert lines[0].startswith("Usage: ")
    assert max(map(len, lines)) <= 80
    assert "..." not in short.output.replace("...", "", lines[0].count("...")).replace(
        "KEY=VALUE,...", ""
    ).replace("N,N,...", "").replace("N-N-...", "")
    # Python's names of types are not for readers.
    assert not re.search(r"<(bool|str|int|float|list\[.*)>", short.output)
    leaf = typer.main.get_command(app)
    for word in words:
        leaf = leaf.commands[word]
    if not hasattr(leaf, "commands"):
        assert "--json FILE" in short.output
        for param in leaf.params:
            assert param.help, f"{words}: {param.name} has no help"


def test_options_stand_in_sections_with_their_defaults() -> None:
    page = CliRunner().invoke(app, ["fit", "-h"]).output
    sections = re.findall(r"^(\w[\w -]+):$", page, re.MULTILINE)
    assert sections == [
        *("Arguments", "Options", "Which slices", "Preprocessing", "Method spatial-ar"),
        *("Calibration and scores", "Computing"),
    ]
    assert re.search(
        r"--modality <mri\|ct\|oct>\s+Modality of the scans\.\s+\[default: mri\]", page
    )
    assert "--context <causal|bidirectional>" in page
    assert re.search(r"--epochs N\s+Passes over the slices\.\s+\[default: \(40\)", page)


@pytest.mark.parametrize("columns", [80, 120])
def test_a_wide_terminal_shows_boxes_that_cut_nothing(columns: int) -> None:
    for words in (["fit"], ["score"], ["compare"], []):
        page = re.sub(r"\x1b\[[0-9;]*m", "", on_terminal(columns, *words, "-h"))
        assert "╭─ Options" in page
        assert "…" not in page
        assert max(map(len, page.splitlines())) <= columns


def test_no_color_and_narrow_terminals_are_plain() -> None:
    assert "\x1b[" in on_terminal(80, "-h")
    for page in (on_terminal(80, "-h", NO_COLOR="1"), on_terminal(60, "-h")):
        assert "\x1b" not in page
        assert "Options:\n" in page
    assert "\x1b" not in on_terminal(80, "models", "list", NO_COLOR="1")


def test_a_narrow_terminal_gets_a_line_for_each_cell() -> None:
    wide, narrow = (on_terminal(width, "models", "list", NO_COLOR="1") for width in (120, 40))
    assert re.search(r"^brain-flair-change +mri +change-novelty +dinov2_vits14_focus", wide, re.M)
    assert re.search(r"^name +brain-flair-change", narrow, re.M)
    assert re.search(r"^backbone +dinov2_vits14_focus", narrow, re.M)


def test_a_pipe_gets_whole_lines_with_tabs(capsys: pytest.CaptureFixture[str]) -> None:
    rows = options.table("series", "path")
    rows.add_row("T1", "/a" * 300)
    rows.add_row("two\nlines", "tab\there")
    options.show(rows)
    assert capsys.readouterr().out.splitlines() == [
        "series\tpath",
        f"T1\t{'/a' * 300}",
        "two; lines\ttab\\there",
    ]


def test_forced_colours_make_no_terminal_of_a_pipe() -> None:
    environment = {**os.environ, "FORCE_COLOR": "1", "COLUMNS": "40"}
    found = subprocess.run(
        [*PROGRAM, "models", "list"], env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.splitlines()[0] == "name\tmodality\tmethod\tbackbone\ttrained on"


def test_a_reader_that_leaves_is_no_error() -> None:
    for words in (["-h"], ["models", "methods"], ["inspect", "/nonexistent"]):
        process = subprocess.Popen(
            [*PROGRAM, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
        process.stderr.close()
        assert process.wait() in (0, 1)
        assert not said or said.startswith("error: /nonexistent: ")
        assert len(said.splitlines()) <= 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has it")
@pytest.mark.parametrize("words", [["-h"], ["models", "list"], ["models", "list", "--json", "-"]])
def test_an_output_that_is_full_is_a_sentence(words: list[str]) -> None:
    with open("/dev/full", "w") as full:
        found = subprocess.run(
            [*PROGRAM, *words], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert found.returncode == 1
    assert found.stderr.startswith("error: standard output: could not be written, because the disk")
    assert len(found.stderr.splitlines()) == 1


def test_json_to_standard_output_stands_alone(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["models", "list", "--json", "-"])
    names = [model["name"] for model in json.loads(result.stdout)["models"]]
    assert "brain-flair-change" in names
    result = CliRunner().invoke(app, ["inspect", str(tmp_path / "absent"), "--json", "-"])
    assert result.exit_code == 1
    assert "absent" in json.loads(result.stdout)["error"]


def test_json_does_not_take_the_place_of_a_device(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    result = CliRunner().invoke(app, ["weights", "list", "--json", str(pipe)])
    assert result.exit_code == 0, result.output
    assert os.read(reader, 1 << 16).startswith(b"{")
    os.close(reader)
    assert pipe.is_fifo()
    (tmp_path / "link").symlink_to(tmp_path / "real.json")
    CliRunner().invoke(app, ["weights", "list", "--json", str(tmp_path / "link")])
    assert json.loads((tmp_path / "real.json").read_text())["weights"]
    assert (tmp_path / "link").is_symlink()


def test_ctrl_c_exits_with_130_and_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(path: Path) -> None:
        raise KeyboardInterrupt  # by SIGINT, which programs in the background ignore

    monkeypatch.setattr(reading, "find_scans", interrupted)
    target = tmp_path / "result.json"
    result = CliRunner().invoke(app, ["inspect", "x", "--json", str(target)])
    assert result.exit_code == 130
    assert result.stderr.startswith("error: Stopped. Finished work is kept")
    assert json.loads(target.read_text())["error"].startswith("Stopped.")


def test_an_unforeseen_error_is_a_sentence_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path) -> None:
        raise ZeroDivisionError("by\nzero")

    monkeypatch.setattr(reading, "find_scans", broken)
    result = CliRunner().invoke(app, ["inspect", "x"])
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert "ZeroDivisionError: by\\nzero" in result.stderr
    monkeypatch.setenv("NAPARI_SPATIAL_AR_TRACEBACK", "1")
    assert "Traceback" in CliRunner().invoke(app, ["inspect", "x"]).stderr


def test_fit_offers_the_settings_of_its_configuration() -> None:
    plain = re.sub(r"\s+", " ", CliRunner().invoke(app, ["fit", "-h"], terminal_width=80).output)
    offered = FitConfig.offered()
    assert {"plane", "tile", "seed", "weights"} < set(offered)
    for name, option in offered.items():
        flag = option.flag or f"--{name.replace('_', '-')}"
        assert f" {flag} " in plain, name
        assert option.section in plain
    titles = [plain.index(f"{section}:") for section in SECTIONS if section]
    assert titles == sorted(titles)
    config = FitConfig.of("in", backbone="dinov2_vits14", slice_range="0:1", size="448")
    assert config == FitConfig(folders=("in",), backbone="dinov2_vits14")


def test_help_version_and_completion_come_without_torch() -> None:
    watched = (
        "import sys; sys.argv[0] = 'torch napari qtpy numpy matplotlib '\n"
        "sys.argv[0] += 'napari_spatial_ar.json_schemas'\n"
        "from napari_spatial_ar.cli import app\n"
        "try: app(sys.argv[1:], prog_name='napari-spatial-ar')\n"
        "finally: print([m for m in sys.argv[0].split() if m in sys.modules])"
    )
    completing = {
        VARIABLE: "complete_bash",
        "COMP_WORDS": "napari-spatial-ar score --model ",
        "COMP_CWORD": "3",
    }
    for arguments, extra in ((["-h"], {}), (["fit", "-h"], {}), (["-V"], {}), ([], completing)):
        found = subprocess.run(
            [sys.executable, "-c", watched, *arguments],
            env={**os.environ, **extra},
            capture_output=True,
            text=True,
            check=True,
        )
        assert found.stdout.splitlines()[-1] == "[]", arguments
        assert not extra or "brain-flair-change" in found.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    script = subprocess.run(
        [*PROGRAM, "--show-completion", shell], capture_output=True, text=True, check=True
    ).stdout
    assert f"{VARIABLE}=complete_{shell}" in script
    assert "napari-spatial-ar" in script
    if program := shutil.which(shell):
        subprocess.run([program, "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", {"fit", "score", "models", "weights"}),
        ("models sh", {"show"}),
        (
            "score --model ",
            {"brain-flair", "brain-flair-change", "brain-flair-focus", "liver-ct", "mine"},
        ),
        ("models show brain-flair-f", {"brain-flair-focus"}),
        ("models delete ", {"mine"}),
        (
            "fit --backbone dinov2_vits",
            {"dinov2_vits14", "dinov2_vits14_reg4", "dinov2_vits14_focus"},
        ),
        ("fit --backbone ow", {"own"}),
        ("weights pull dinov3_vits", {"dinov3_vits16", "dinov3_vits16plus"}),
        ("fit --method ", set(choices.METHOD_NAMES)),
        ("fit --modality ", {"mri", "ct", "oct"}),
        ("fit --plane c", {"coronal"}),
        ("score --pdf ", {"A4", "Letter"}),
        ("compare --anomalib pa", {"patchcore", "padim"}),
        ("evaluate --engine open", {"openvino", "openvino-bfloat16", "openvino-int8"}),
        ("fit --dev", {"--device"}),
    ],
)
def test_completion(
    words: str, expected: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAPARI_SPATIAL_AR_HOME", str(tmp_path))
    for file in ("models/mine/model.safetensors", "weights/own.safetensors", "models/.trash/x"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    line = f"napari-spatial-ar {words}".split(" ")
    result = CliRunner().invoke(
        app,
        [],
        prog_name="napari-spatial-ar",
        env={
            VARIABLE: "complete_bash",
            "COMP_WORDS": " ".join(line),
            "COMP_CWORD": str(len(line) - 1),
        },
    )
    found = set(result.stdout.split())
    assert expected <= found
    if words:
        assert found == expected


def test_choices_are_those_of_the_program() -> None:
    from napari_spatial_ar.evaluation.anomalib_models import METHODS
    from napari_spatial_ar.normative.backbones.engines import ENGINES
    from napari_spatial_ar.normative.backbones.registry import BACKBONES, Fuse
    from napari_spatial_ar.normative.detectors import DETECTORS
    from napari_spatial_ar.normative.detectors.ar_network import Context
    from napari_spatial_ar.review.report.pdf import PAPERS

    assert set(choices.METHOD_NAMES) == set(DETECTORS)
    assert list(choices.BACKBONE_NAMES) == [
        name for name in BACKBONES if "tiny" not in name or "convnext" in name
    ]
    assert tuple(METHODS) == choices.ANOMALIB_NAMES
    assert list(choices.EngineName) == list(ENGINES)
    assert tuple(choices.PlaneName) == get_args(SlicePlane)
    assert tuple(choices.ContextName) == get_args(Context)
    assert tuple(choices.FuseName) == get_args(Fuse)
    assert tuple(choices.PaperName) == PAPERS


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fit", "x", "--modality", "pet"], "'pet' is not one of"),
        (["fit", "x", "--epochs", "0"], "for '--epochs'"),
        (["fit", "x", "--min-body", "1.5"], "for '--min-body'"),
        (["score", "x", "--model", "m", "--out", "o", "--fpr", "2"], "for '--fpr'"),
        (["score", "x", "--model", "m", "--out", "o", "--pdf", "a5"], "'a5' is not one of"),
        (["evaluate", "x", "--model", "m", "--split", "train"], "'train' is not one of"),
        (["evaluate", "x", "--model", "m", "--engine", "gpu"], "'gpu' is not one of"),
        (["models", "sow"], "Did you mean 'show'?"),
        (["score"], "Missing option '--model'"),
        (["inspect", "x", "--jsn", "y"], "No such option"),
    ],
)
def test_wrong_use_is_said_at_once(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stderr.splitlines()[-1].startswith("Error: ")


def test_models_show_is_for_people(tmp_path: Path) -> None:
    target = tmp_path / "model.json"
    result = CliRunner().invoke(app, ["models", "show", "brain-flair-focus", "--json", str(target)])
    facts = dict(line.split("\t") for line in result.stdout.splitlines())
    assert facts["Method"].startswith("spatial-ar: ")
    assert facts["Settings"].endswith("kernel 3, dilation 4, context causal")
    assert facts["Trained on"] == "469 normal slices of 60 patients"
    assert facts["Calibration"].startswith("121 normal slices of 12 patients")
    assert "1 %: 1.197" in facts["Thresholds"]
    assert json.loads(target.read_text())["parameters"]["dilation"] == 4
