"""DICOM objects as programs of others see them: dicom3tools' checker, and dcmtk."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def _run(program: str, package: str, *arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    if shutil.which(program) is None:
        pytest.skip(f"{program} (Debian's {package}) is not installed")
    return subprocess.run([program, *map(str, arguments)], capture_output=True, check=False)


def conformance_errors(path: Path) -> list[str]:
    """Errors that dciodvfy finds in an object, which it must recognise."""
    result = _run("dciodvfy", "dicom3tools", path)
    lines = (result.stdout + result.stderr).decode(errors="replace").splitlines()
    known = {"Segmentation", "ParametricMap", "SCImage", "Comprehensive3DSR"}
    known |= {"GrayscaleSoftcopyPresentationState"}
    assert {line.strip() for line in lines} & known, lines
    return [line for line in lines if "Error" in line]


def pixels_by_dcmtk(path: Path, *, frame: int = 1) -> np.ndarray:
    """Picture of an image as dcmtk decodes it, 8-bit grey or RGB."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "picture.pnm")
        result = _run("dcm2pnm", "dcmtk", "+F", str(frame), "+op", path, out)
        assert result.returncode == 0, result.stderr
        return np.asarray(Image.open(out))


def presented_by_dcmtk(state: Path, image: Path, out: Path) -> np.ndarray:
    """Picture of an image as dcmtk displays it by a presentation state."""
    result = _run("dcmp2pgm", "dcmtk", "-p", state, image, out)
    assert result.returncode == 0, result.stderr
    return np.asarray(Image.open(out))


@dataclass
class Group:
    """Measurement group of a report: values by the codes of their concepts."""

    texts: dict[str, list[str]] = field(default_factory=dict)
    codes: dict[str, str] = field(default_factory=dict)
    #: By code, or code and code of the derivation: value and unit.
    numbers: dict[str, tuple[float, str]] = field(default_factory=dict)
    #: UIDs of images, and number of a segment.
    images: list[tuple[str, str]] = field(default_factory=list)
    laterality: str = ""


@dataclass
class Report:
    """A structured report."""

    xml: ET.Element
    groups: list[Group]

    def text(self, path: str) -> str:
        found = self.xml.find(path)
        assert found is not None, path
        return found.text or ""


def report_by_dcmtk(path: Path) -> Report:
    """Content of a structured report by dcmtk's ``dsr2xml``."""
    result = _run("dsr2xml", "dcmtk", path)
    assert result.returncode == 0, result.stderr
    xml = ET.fromstring(result.stdout.decode("latin-1").partition("?>")[2])
    containers = [
        item for item in xml.iter("container") if item.findtext("concept/value") == "125007"
    ]
    return Report(xml, [_group(item) for item in containers])


def _group(container: ET.Element) -> Group:
    group = Group()
    for item in container:
        concept = item.findtext("concept/value") or ""
        if item.tag in ("text", "uidref"):
            value = item.findtext("value") or ""
            group.texts.setdefault(concept, []).append(value)
        elif item.tag == "code":
            group.codes[concept] = item.findtext("value") or ""
            for inner in item.findall("code"):
                if inner.findtext("concept/value") == "272741003":
                    group.laterality = inner.findtext("value") or ""
        elif item.tag == "num":
            inner = {c.findtext("concept/value"): c.findtext("value") for c in item.findall("code")}
            key = " ".join(filter(None, (concept, inner.get("121401"))))
            value = float(item.findtext("value") or "nan")
            group.numbers[key] = value, item.findtext("unit/value") or ""
        elif item.tag == "image":
            uid = item.find(".//instance")
            assert uid is not None
            group.images.append((uid.get("uid", ""), item.findtext(".//segments") or ""))
    return group
