"""Names in docstrings: cross references lead somewhere, and types are types that exist."""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import napari_spatial_ar

PACKAGE = Path(napari_spatial_ar.__file__).parent
MODULES = {path: ast.parse(path.read_text("utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}
#: Words with a capital that stand where types do: axes of a grid, a size of paper.
NO_TYPES = {"Hp", "Wp", "Letter"}
#: Functions of other packages.
ELSEWHERE = {"save_pretrained"}

_REFERENCE = re.compile(r"(?<!`)`([A-Za-z_][\w.]*)`(?!`)")
_PARAMETER = re.compile(r"^\w+(?:, \w+)* : (.+)$", re.MULTILINE)
_RETURNED = re.compile(r"^(?:Yields|Returns)\n-+\n(\S.*)\n {4}\S", re.MULTILINE)
_TYPE = re.compile(r"(?<![\w.\"'-])[A-Z][a-z]\w*")


def docstrings() -> Iterator[tuple[str, str]]:
    for path, tree in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                name = getattr(node, "name", "")
                yield f"{path.relative_to(PACKAGE)}: {name}", ast.get_docstring(node) or ""


@cache
def names_of(path: Path) -> set[str]:
    """Every name that a module defines, imports or uses."""
    found: set[str] = set()
    for node in ast.walk(MODULES[path]):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.alias):
            found |= {*node.name.split("."), node.asname or ""}
    return found


@cache
def names() -> set[str]:
    stems = {path.stem for path in MODULES} | {path.parent.name for path in MODULES}
    return {*dir(builtins), *stems}.union(*map(names_of, MODULES))


def leads_somewhere(reference: str) -> bool:
    """Whether a dotted name is a module of the package, or a name in one."""
    first = reference.partition(".")[0]
    if first != "napari_spatial_ar":
        return set(reference.split(".")) <= names() | ELSEWHERE or find_spec(first) is not None
    place, parts = PACKAGE, reference.split(".")[1:]
    while parts and (place / parts[0]).is_dir():
        place /= parts.pop(0)
    if not parts:
        return True
    module = place / f"{parts[0]}.py"
    return module in MODULES and set(parts[1:]) <= names_of(module)


def test_cross_references_lead_somewhere() -> None:
    lost = [
        f"{where}: {reference}"
        for where, text in docstrings()
        for reference in _REFERENCE.findall(text)
        if not leads_somewhere(reference)
    ]
    assert not lost


def test_types_of_parameters_and_results_exist() -> None:
    unknown = [
        f"{where}: {word}"
        for where, text in docstrings()
        for kind in _PARAMETER.findall(text) + _RETURNED.findall(text)
        for word in _TYPE.findall(kind)
        if word not in names() | NO_TYPES
    ]
    assert not unknown


def test_a_name_that_is_gone_is_noticed() -> None:
    assert leads_somewhere("napari_spatial_ar.review.masks")
    assert leads_somewhere("napari_spatial_ar.normative.library.find_model")
    assert not leads_somewhere("napari_spatial_ar.normative.catalogue")
    assert not leads_somewhere("napari_spatial_ar.normative.library.ModelInfo")
    assert not leads_somewhere("ModelInfo")
