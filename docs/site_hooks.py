"""Hooks of MkDocs: files outside docs/ that pages link to come along; nothing loads from elsewhere.

Pages link to results of benchmarks, model cards and attributions by relative paths, as GitHub and
an editor follow them. These files are put into the folder ``files`` of the site under their paths
in the repository. A page in Markdown among them becomes a page of the site; its own links outside
docs/ are followed too.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel

_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|[#/])([^)#\s]+)")
_LOADED = re.compile(
    r"""<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//[^>]*>"""
)
_FOLDER = "files"
# A folder has no page: the site's page about it.
_PAGES = {"docs/reference/schema": "reference/json.md"}


def _in_repository(page: str, link: str) -> str:
    """Path in the repository that a link of a page of the site leads to."""
    folder = PurePosixPath(page).parent
    if folder.parts[:1] == (_FOLDER,):
        return normpath(str(folder.relative_to(_FOLDER) / link))
    return normpath(str("docs" / folder / link))


def _in_site(path: str) -> str:
    """Path below docs/ at which the site has a file of the repository."""
    if path in _PAGES:
        return _PAGES[path]
    inside = PurePosixPath(path)
    return str(inside.relative_to("docs") if inside.parts[0] == "docs" else _FOLDER / inside)


def on_files(files: Files, *, config: Any) -> Files:
    """Add the files outside docs/ that pages link to."""
    root = Path(config.config_file_path).parent
    pages = [file for file in files.documentation_pages() if file.abs_src_path]
    for page in pages:  # it grows
        text = Path(str(page.abs_src_path)).read_text(encoding="utf-8")
        for link in _LINK.findall(text):
            path = _in_repository(page.src_uri, link)
            target = _in_site(path)
            if path.startswith("..") or files.get_file_from_path(target) is not None:
                continue
            if (root / path).is_file() and not path.startswith("docs/"):
                added = File.generated(
                    config,
                    target,
                    abs_src_path=str(root / path),
                    inclusion=InclusionLevel.NOT_IN_NAV,
                )
                files.append(added)
                if path.endswith(".md"):
                    pages.append(added)
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Lead links outside docs/ to where the files are in the site."""
    here = PurePosixPath(page.file.src_uri).parent

    def moved(link: re.Match[str]) -> str:
        path = _in_repository(page.file.src_uri, link[1])
        return relpath(_in_site(path), str(here)) if not path.startswith("..") else link[1]

    return _LINK.sub(moved, markdown)


def on_post_page(output: str, *, page: Any, **_: Any) -> str:
    """See that a reader's browser asks no other server for anything.

    Raises
    ------
    PluginError
        If the page loads a font, script, style or picture from elsewhere.
    """
    if loaded := _LOADED.search(output):
        raise PluginError(f"{page.file.src_uri} loads from elsewhere: {loaded[0]}")
    return output
