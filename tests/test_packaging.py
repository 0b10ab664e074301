"""The package says about itself what is so: version, dependencies, plugin manifest, wheel."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from email import message_from_bytes
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt
from npe2 import PluginManifest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import napari_spatial_ar

REPO_ROOT = Path(__file__).resolve().parents[1]
PACKAGE = REPO_ROOT / "napari_spatial_ar"
SCRIPTS = REPO_ROOT / "scripts"
MANIFEST = PACKAGE / "napari.yaml"

QT_BINDINGS = {"pyqt5", "pyqt6", "pyside2", "pyside6"}
# PyPI takes 100 MB; a hospital's proxy may take less.
MOST_BYTES = 60e6
# Base dependencies that pydicom imports for us: the decoders of compressed pixel data.
PLUGINS = {"pylibjpeg", "pylibjpeg-openjpeg"}
# Imported only where an extra is installed.
OPTIONAL = {
    "anomalib",
    "dicom-anonymizer",
    "dicomanonymizer",  # its module, where it is not installed
    "dicomweb-client",
    "distributed",
    "fsspec",
    "keyring",
    "lightning",
    "nncf",
    "onnx",
    "openvino",
    "pynetdicom",
    "requests",
    "weasyprint",
}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """The table [project] of pyproject.toml."""
    return tomllib.loads((REPO_ROOT / "pyproject.toml").read_text())["project"]


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(r).name) for r in requirements}


def _is_typing(test: ast.expr) -> bool:
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


def imported_distributions() -> set[str]:
    """Distributions that the package's modules import when run, by the names pip knows."""
    modules: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        typing = [n for n in ast.walk(tree) if isinstance(n, ast.If) and _is_typing(n.test)]
        unused = {id(inner) for block in typing for inner in ast.walk(block)}
        for node in ast.walk(tree):
            if id(node) in unused:
                continue
            if isinstance(node, ast.Import):
                modules.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules.add(node.module)
    tops = {name.partition(".")[0] for name in modules}
    third_party = tops - set(sys.stdlib_module_names) - {"napari_spatial_ar"}
    known = packages_distributions()
    return {canonicalize_name(known[top][0]) if top in known else top for top in third_party}


def test_base_dependencies_are_what_is_imported(project):
    declared = names(project["dependencies"]) - PLUGINS
    assert declared == imported_distributions() - OPTIONAL


def test_no_base_dependency_brings_a_qt_binding(project):
    seen: set[str] = set()
    todo = names(project["dependencies"])
    while todo:
        name = todo.pop()
        seen.add(name)
        try:
            needs = [Requirement(r) for r in requires(name) or []]
        except PackageNotFoundError:  # needed on another platform or Python
            continue
        plain = {r.name for r in needs if r.marker is None or r.marker.evaluate({"extra": ""})}
        todo |= {canonicalize_name(n) for n in plain} - seen
    assert not seen & QT_BINDINGS


def test_every_dependency_has_a_tested_version(project):
    lines = (REPO_ROOT / "constraints.txt").read_text().splitlines()
    pinned = {
        canonicalize_name(r.name): r.specifier
        for r in (Requirement(line) for line in lines if line and not line.startswith("#"))
    }
    extras = project["optional-dependencies"].values()
    for requirement in map(Requirement, chain(project["dependencies"], *extras)):
        if requirement.name == project["name"]:  # an extra that holds another one
            continue
        version = str(pinned[canonicalize_name(requirement.name)]).removeprefix("==")
        assert requirement.specifier.contains(version), requirement


def test_pythons_claimed_are_those_tested(project):
    claimed = re.findall(r"Python :: (3\.\d+)", " ".join(project["classifiers"]))
    tested = re.search(r"pythons=\((python.*)\)", (SCRIPTS / "test_pythons.sh").read_text())
    assert tested is not None
    assert [f"python{version}" for version in claimed] == tested.group(1).split()
    assert project["requires-python"] == f">={claimed[0]}"


def test_hosted_tests_run_on_each_python_and_binding_that_is_claimed(project):
    jobs = yaml.safe_load((REPO_ROOT / ".github/workflows/test.yml").read_text())["jobs"]
    matrix = jobs["test"]["strategy"]["matrix"]
    claimed = re.findall(r"Python :: (3\.\d+)", " ".join(project["classifiers"]))
    assert matrix["python"] == claimed
    bindings = {*matrix["qt"], *(one["qt"] for one in matrix["include"])}
    assert bindings == QT_BINDINGS & set(project["optional-dependencies"])


def test_napari_is_capped_below_the_version_that_is_known_to_break(project):
    (napari,) = (Requirement(r) for r in project["dependencies"] if r.startswith("napari>"))
    assert napari.specifier.contains("0.9.99")
    assert not napari.specifier.contains("0.10.0")


def test_versions_agree(project):
    citation = (REPO_ROOT / "CITATION.cff").read_text()
    cited = re.search(r"^version: (.+)$", citation, re.MULTILINE)
    assert cited is not None
    assert cited.group(1) == project["version"]
    assert f"## [{project['version']}]" in (REPO_ROOT / "CHANGELOG.md").read_text()
    assert napari_spatial_ar.__version__ == project["version"]


def test_names_of_the_package_are_listed_before_they_are_imported():
    code = "import sys, napari_spatial_ar as p; assert 'torch' not in sys.modules; print(*dir(p))"
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(napari_spatial_ar.__all__) <= set(seen.stdout.split())
    assert all(hasattr(napari_spatial_ar, name) for name in napari_spatial_ar.__all__)


def test_entry_points(project):
    assert project["entry-points"]["napari.manifest"] == {
        project["name"]: "napari_spatial_ar:napari.yaml"
    }
    assert project["scripts"] == {project["name"]: "napari_spatial_ar.cli:main"}


@pytest.mark.skipif(sys.platform == "win32", reason="a Windows checkout may hold no links")
def test_manifest_at_the_top_is_the_one_in_the_package():
    assert (REPO_ROOT / "napari.yaml").samefile(MANIFEST)


def test_manifest_is_valid(project):
    manifest = PluginManifest.from_file(MANIFEST)
    manifest.validate_imports()
    assert manifest.name == project["name"]
    assert manifest.contributions.readers
    assert manifest.contributions.writers
    assert manifest.contributions.widgets
    assert manifest.contributions.sample_data


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("hatch_fancy_pypi_readme")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel"]
    subprocess.run(
        [*command, "--directory", str(folder)], cwd=REPO_ROOT, check=True, capture_output=True
    )
    (built,) = folder.glob("*.whl")
    return built


def test_the_page_of_the_package_is_the_readme_without_dead_links(wheel):
    with zipfile.ZipFile(wheel) as held:
        (name,) = (name for name in held.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = message_from_bytes(held.read(name))
    assert metadata["Description-Content-Type"] == "text/markdown"
    page = str(metadata.get_payload())
    inline = [
        token for block in MarkdownIt("commonmark").parse(page) for token in block.children or ()
    ]
    addresses = [token.attrGet("href") or token.attrGet("src") for token in inline]
    assert not [each for each in addresses if each and not each.startswith("https://")]
    readme = (REPO_ROOT / "README.md").read_text(encoding="utf-8")
    for line in re.findall(r"^#+ .*$", readme, re.MULTILINE):
        assert line in page
    assert "a tour in pictures shows each step" in page.lower()


def test_wheel_holds_models_sample_and_manifest(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        "napari_spatial_ar/napari.yaml",
        "napari_spatial_ar/py.typed",
        "napari_spatial_ar/data/flair_tcga_lgg.nii.gz",
        "napari_spatial_ar/data/ATTRIBUTION.md",
        "napari_spatial_ar/models/brain-flair/model.safetensors",
        "napari_spatial_ar/models/brain-flair/README.md",
        "napari_spatial_ar/models/brain-flair-change/model.safetensors",
        "napari_spatial_ar/models/brain-flair-change/README.md",
        "napari_spatial_ar/models/brain-flair-focus/model.safetensors",
        "napari_spatial_ar/models/brain-flair-focus/README.md",
        "napari_spatial_ar/models/liver-ct/model.safetensors",
        "napari_spatial_ar/models/liver-ct/README.md",
        "napari_spatial_ar/models/dinov2_vits14_focus/backbone.safetensors",
        "napari_spatial_ar/models/dinov2_vits14_focus/README.md",
        "napari_spatial_ar/models/dinov2_vits14_focus/LICENSE-MIT.txt",
        "napari_spatial_ar/models/dinov2_vits14_focus/LICENSE-APACHE-2.0.txt",
    }
    assert expected <= held
    assert wheel.stat().st_size < MOST_BYTES
    assert sum(name.endswith("backbone.safetensors") for name in held) == 1
    assert not {name.partition("/")[0] for name in held} - {
        "napari_spatial_ar",
        wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info",
    }


def test_models_and_backbone_are_found_where_the_wheel_puts_them(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as held:
        held.extractall(tmp_path)
    code = (
        "from napari_spatial_ar.imaging.samples import sample_path\n"
        "from napari_spatial_ar.normative.library import list_models\n"
        "from napari_spatial_ar.paths import embedded_weights\n"
        "paths = [sample_path(), embedded_weights(), *(model.file for model in list_models())]\n"
        "print(*paths, sep='\\n')"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    found = [Path(line) for line in run.stdout.splitlines()]
    assert len(found) == 6
    assert all(path.is_relative_to(tmp_path) for path in found)
