"""Tooltips come from one table: no module has texts of its own, and the table has none too many."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from string import Formatter
from types import ModuleType
from typing import TypeGuard

import pytest

from napari_spatial_ar.gui.widgets import tooltips
from napari_spatial_ar.gui.widgets.tooltips import TOOLTIPS, tooltip

ROOT = Path(__file__).resolve().parents[3]
TABLE = Path(tooltips.__file__)
GUI = TABLE.parents[1]
MODULES = sorted(path for path in GUI.rglob("*.py") if path != TABLE)
TREES = {
    str(path.relative_to(GUI)): ast.parse(path.read_text(encoding="utf-8")) for path in MODULES
}


def name_of(call: ast.Call) -> str:
    """Name of what is called, without what stands before its last dot."""
    func = call.func
    return func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "")


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def fields(key: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(TOOLTIPS[key]) if name is not None}


# ---------------------------------------------------------------------- texts in the modules


def takers(tree: ast.Module) -> dict[str, int]:
    """Functions and classes with a parameter or field called tooltip: the place that it has."""
    found: dict[str, int] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            names = [one.arg for one in node.args.args if one.arg != "self"]
        elif isinstance(node, ast.ClassDef):
            names = [getattr(one.target, "id", "") for one in node.body if _is_field(one)]
            for one in node.body:
                if isinstance(one, ast.FunctionDef) and one.name == "__init__":
                    names = [argument.arg for argument in one.args.args[1:]]
        else:
            continue
        if "tooltip" in names:
            found[node.name] = names.index("tooltip")
    return found


def _is_field(node: ast.stmt) -> TypeGuard[ast.AnnAssign]:
    return isinstance(node, ast.AnnAssign)


EVERYWHERE = {name: at for tree in TREES.values() for name, at in takers(tree).items()}


def given(call: ast.Call, places: dict[str, int]) -> Iterator[ast.expr]:
    """What a call gives as a tooltip."""
    name = name_of(call)
    if name == "setToolTip":
        yield call.args[-1]
    elif "tooltip" in ast.unparse(call).lower() and name in ("setItemData", "setData"):
        yield from call.args
    if name in places:
        yield from call.args[places[name] : places[name] + 1]
    for keyword in call.keywords:
        if keyword.arg == "tooltip":
            yield keyword.value
        elif isinstance(keyword.value, ast.Dict):
            pairs = zip(keyword.value.keys, keyword.value.values, strict=True)
            for key, value in pairs:
                if isinstance(key, ast.Constant) and key.value == "tooltip":
                    yield value


def parts(node: ast.AST) -> Iterator[ast.AST]:
    """What an expression's text is made of: not conditions, nor what functions are called with."""
    yield node
    if isinstance(node, ast.IfExp):
        inside: list[ast.AST] = [node.body, node.orelse]
    elif isinstance(node, ast.Subscript):
        inside = [node.value]
    elif isinstance(node, ast.Call):
        # Of a method, what it is called on; of one of a literal (join, format), its arguments too.
        func = node.func
        inside = [func.value] if isinstance(func, ast.Attribute) else []
        if inside and isinstance(inside[0], ast.Constant | ast.JoinedStr):
            inside += [*node.args, *(keyword.value for keyword in node.keywords)]
    else:
        inside = list(ast.iter_child_nodes(node))
    for one in inside:
        yield from parts(one)


def words(node: ast.AST) -> list[str]:
    """Literal texts with words in an expression."""
    literals = [one.value for one in parts(node) if isinstance(one, ast.Constant)]
    return [text for text in literals if isinstance(text, str) and re.search("[A-Za-z]{2}", text)]


def is_bound(name: str, target: ast.expr) -> bool:
    """Whether an assignment's target is a name, or holds it in a tuple."""
    if isinstance(target, ast.Tuple | ast.List):
        return any(is_bound(name, one) for one in target.elts)
    return isinstance(target, ast.Name) and target.id == name


def assigned(name: str, scopes: list[ast.AST]) -> list[ast.expr]:
    """What a name was given in the innermost scope that knows it."""
    for scope in scopes:
        found: list[ast.expr] = []
        for node in ast.walk(scope):
            if isinstance(node, ast.Assign):
                bound = [(target, node.value) for target in node.targets]
            elif isinstance(node, ast.AugAssign | ast.AnnAssign) and node.value is not None:
                bound = [(node.target, node.value)]
            elif isinstance(node, ast.For):
                bound = [(node.target, node.iter)]
            else:
                continue
            found += [value for target, value in bound if is_bound(name, target)]
        if found or (isinstance(scope, ast.FunctionDef) and name in _parameters(scope)):
            return found
    return []


def _parameters(function: ast.FunctionDef) -> set[str]:
    return {one.arg for one in (*function.args.args, *function.args.kwonlyargs)}


def own_texts(tree: ast.Module) -> list[str]:
    """Literal texts that a module gives as tooltips, directly or through a name."""
    places = {**EVERYWHERE, **takers(tree)}
    found: list[str] = []

    def look(node: ast.AST, scopes: list[ast.AST]) -> None:
        if isinstance(node, ast.FunctionDef | ast.Module):
            scopes = [node, *scopes]
        if isinstance(node, ast.Call):
            for value in given(node, places):
                found.extend(words(value))
                for one in parts(value):
                    if isinstance(one, ast.Name):
                        for source in assigned(one.id, scopes):
                            found.extend(words(source))
        for child in ast.iter_child_nodes(node):
            look(child, scopes)

    look(tree, [])
    return found


def test_no_module_has_tooltips_of_its_own() -> None:
    assert {name: texts for name, tree in TREES.items() if (texts := own_texts(tree))} == {}


def test_helpers_that_take_a_tooltip_are_known() -> None:
    assert {"button": 1, "combo": 0, "size_box": 0, "Fold": 1}.items() <= EVERYWHERE.items()


@pytest.mark.parametrize(
    "source",
    [
        "box.setToolTip('A text')",
        "item.setToolTip(1, f'A text of {name}')",
        "box.setToolTip('A text' if ready else tooltip('scan.scan'))",
        "_TIP = 'A text'\ndef build():\n    box.setToolTip(_TIP)",
        "def build():\n    tip = 'A text'\n    tip += other\n    box.setToolTip(tip)",
        "for box, tip in ((a, 'A text'), (b, 'Another')):\n    box.setToolTip(tip)",
        "box = button('Open', 'A text')",
        "box = combo('A text', 'Name')",
        "Fold('Title', 'A text', content)",
        "COLUMNS = (_Column('title', 'title', 'A text', 3, text, text),)",
        "widget(options={'tooltip': 'A text'})",
        "widget(tooltip='A text')",
        "box.setItemData(0, 'A text', Qt.ItemDataRole.ToolTipRole)",
    ],
)
def test_a_text_in_a_module_is_seen(source: str) -> None:
    assert any("A text" in text for text in own_texts(ast.parse(source)))


def test_what_is_said_by_others_may_be_shown() -> None:
    source = (
        "box.setToolTip(tooltip('scan.scan'))\n"
        "box.setToolTip(option.text)\n"
        "box.setToolTip(f'{modality}, {backbone}: {summary}')\n"
        "button('Open', tooltip('scan.open_scan'))\n"
    )
    assert own_texts(ast.parse(source)) == []


# ---------------------------------------------------------------------- keys


def uses() -> list[tuple[str, ast.Call]]:
    return [(name, one) for name, tree in TREES.items() for one in calls(tree)]


def test_keys_are_written_out_and_exist() -> None:
    asked = [(name, one) for name, one in uses() if name_of(one) == "tooltip"]
    assert len(asked) >= len(TOOLTIPS)
    for name, one in asked:
        where = f"{name}: {ast.unparse(one)}"
        assert len(one.args) == 1, where
        key = one.args[0]
        assert isinstance(key, ast.Constant), where
        assert key.value in TOOLTIPS, where
        assert {keyword.arg for keyword in one.keywords} == fields(key.value), where


def test_every_text_is_used() -> None:
    used = {
        one.args[0].value
        for _, one in uses()
        if name_of(one) == "tooltip" and isinstance(one.args[0], ast.Constant)
    }
    assert sorted(set(TOOLTIPS) - used) == []


def test_an_unknown_key_is_named() -> None:
    with pytest.raises(KeyError, match=r"threshold\.slidre"):
        tooltip("threshold.slidre")


def test_a_missing_value_is_named() -> None:
    with pytest.raises(KeyError, match="unit"):
        tooltip("threshold.slider")


def test_values_are_filled_in() -> None:
    told = tooltip("threshold.slider", unit="nats per dimension")
    assert (
        " ".join(told.split())
        == "Tissue with a score above this value (nats per dimension) is in the mask"
    )
    assert "Alt+1" in tooltip("scan.planes", plane="axial", key="Alt+1")


def test_long_texts_are_broken_into_lines() -> None:
    told = tooltip("threshold.histogram")
    assert max(map(len, told.split("\n"))) <= 72
    assert " ".join(told.split()) == TOOLTIPS["threshold.histogram"]


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        TOOLTIPS["scan.scan"] = "Another"  # type: ignore[index]


def test_no_key_stands_twice() -> None:
    tree = ast.parse(TABLE.read_text(encoding="utf-8"))
    keys = [
        key.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Dict)
        for key in node.keys
        if isinstance(key, ast.Constant)
    ]
    assert sorted(keys) == sorted(TOOLTIPS)


# ---------------------------------------------------------------------- wording


def faults(key: str) -> list[str]:
    text = TOOLTIPS[key]
    # Sentences that follow the first one.
    more = re.findall(r"[.?!] (?=[A-Z0-9])", text)
    rules = {
        "key": re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", key),
        "capital": text[:1].isupper(),
        "spaces": text == " ".join(text.split()),
        "end": not text.endswith((".", ";", ":", ",")),
        "sentences": len(more) <= 2,
        "length": len(text) <= 200,
    }
    return [name for name, kept in rules.items() if not kept]


def test_texts_are_short_sentences() -> None:
    assert {key: found for key in TOOLTIPS if (found := faults(key))} == {}


def test_faults_of_a_text_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        f"{__name__}.TOOLTIPS", {"Key": "one.  Two. Three. Four. Five" + 200 * "x" + "."}
    )
    assert faults("Key") == ["key", "capital", "spaces", "end", "sentences", "length"]


# ---------------------------------------------------------------------- the page of controls


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_controls", ROOT / "docs/make_controls.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_the_page_of_controls_is_up_to_date() -> None:
    made = script()
    page = (ROOT / "docs/reference/controls.md").read_text(encoding="utf-8")
    assert page == made.page(), "run python docs/make_controls.py"


def test_the_page_has_every_control() -> None:
    page = script().page()
    rows = re.findall(r"^\| .+ \| .+ \|$", page, re.MULTILINE)
    headings = page.count("| control | what it does |")
    # Each table has two lines above its controls.
    assert len(rows) - 2 * headings == len(TOOLTIPS)
    assert headings == page.count("\n## ")
    assert "{" not in page


def test_a_part_without_a_title_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    made = script()
    monkeypatch.setattr(made, "TOOLTIPS", {"elsewhere.button": "Does something"})
    with pytest.raises(KeyError, match="elsewhere"):
        made.page()
