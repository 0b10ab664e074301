"""The pages for people: links lead somewhere, and the tutorial runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import nibabel as nib
import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from napari_spatial_ar.imaging.samples import sample_path

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("models/*/*.md"),
        *ROOT.glob("napari_spatial_ar/data/*.md"),
    ]
)


def tokens(page: Path) -> Iterator[Token]:
    """Blocks of a page in Markdown, and what is inside their lines."""
    for block in MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8")):
        yield block
        yield from block.children or ()


def links(page: Path) -> list[str]:
    """Where links and pictures of a page lead, web addresses left out."""
    found = [token.attrGet("href") or token.attrGet("src") for token in tokens(page)]
    return [str(one) for one in found if one and not re.match(r"[a-z]+:", str(one))]


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and the documentation site make them."""
    blocks = list(tokens(page))
    headings = [after.content for block, after in pairwise(blocks) if block.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


def dead(page: Path) -> list[str]:
    """Links of a page that lead nowhere."""
    found = []
    for link in links(page):
        path, _, anchor = unquote(link).partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_link_is_dead(page: Path) -> None:
    assert not dead(page)


def test_dead_links_are_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A heading, with *marks*\n\n[here](#a-heading-with-marks), [gone](gone.md)\n"
        "![](gone.png)\n"
        "[there](page.md#a-heading), [web](https://example.org)\n\n`[code](no.md)`\n"
    )
    assert dead(page) == ["gone.md", "gone.png", "page.md#a-heading"]


# ---------------------------------------------------------------------- files that pages name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_are_there(page: Path) -> None:
    if page.name in ("CHANGELOG.md", "history.md"):  # of their time
        return
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w.-]+(?:/[\w.-]+)*\.(?:py|sh|toml))`", text))
    named = {path for path in named if "NAME" not in path}
    assert len(named) > 20 or page.stem not in ("CONTRIBUTING", "architecture")
    places = (ROOT, ROOT / "napari_spatial_ar", ROOT / "napari_spatial_ar/gui/training")
    assert not [path for path in named if not any((place / path).is_file() for place in places)]


# ---------------------------------------------------------------------- code in pages


def test_the_readme_begins_with_a_picture_and_its_code_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = ROOT / "README.md"
    first = next(token for token in tokens(page) if token.type in ("image", "strong_open"))
    assert first.type == "image"
    whole = nib.load(sample_path())
    nib.save(whole.slicer[..., 14:16], tmp_path / "scan.nii.gz")
    monkeypatch.chdir(tmp_path)
    (block,) = (token for token in tokens(page) if token.info == "python")
    names: dict[str, Any] = {}
    exec(compile(block.content, str(page), "exec"), names)
    assert names["result"].scores.shape == names["mask"].shape == (2, 256, 256)
    assert 0 < names["mask"].mean() < 0.5


def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = ROOT / "docs/tutorials/first-model.md"
    blocks = [token for token in tokens(page) if token.type == "fence" and token.info == "python"]
    assert len(blocks) >= 8
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks:
        assert block.map is not None
        # Blank lines before it, so that an error names the line of the page.
        source = "\n" * (block.map[0] + 1) + block.content
        exec(compile(source, str(page), "exec"), names)
    assert names["regions"]
    assert names["regions"][0].peak_score > names["threshold"]
    assert nib.load(tmp_path / "results/mask.nii.gz").shape == (256, 256, 32)
    assert names["score"].nll.shape == (256, 256)
    assert (tmp_path / "my-model/model.safetensors").is_file()
