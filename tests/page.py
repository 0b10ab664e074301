"""Reads a report with the standard library's parser, as a browser without scripts would."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

import numpy as np
from PIL import Image

_VOID = {"meta", "img", "br"}


@dataclass
class Page(HTMLParser):
    """What stands in a page.

    ``rows`` are those of all tables: the text of each cell, and of each row the values of its
    ``<data>``.
    """

    html: str
    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    text: str = ""
    style: str = ""
    rows: list[list[str]] = field(default_factory=list)
    values: list[list[float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._open: list[str] = []
        self.feed(self.html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
            self.values.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "data":
            self.values[-1].append(float(dict(attrs)["value"]))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            self.style += data
            return
        self.text += data
        if {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def pictures(self) -> list[tuple[str, np.ndarray]]:
        """Alternative text and pixels of each; each has the size that it says."""
        found = []
        for image in self.named("img"):
            kind, _, code = str(image["src"]).partition(";base64,")
            assert kind == "data:image/jpeg"
            pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(code, validate=True))))
            assert pixels.shape == (int(str(image["height"])), int(str(image["width"])), 3)
            found.append((str(image["alt"]), pixels))
        return found

    def check_alone(self) -> None:
        """Nothing is run, nothing is loaded from elsewhere, all can be read aloud."""
        allowed = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "ul"}
        allowed |= {"li", "table", "caption", "thead", "tbody", "tr", "th", "td", "div", "span"}
        allowed |= {"figure", "figcaption", "img", "br", "data", "a", "details", "summary"}
        allowed |= {"section", "strong"}
        assert {name for name, _ in self.tags} <= allowed
        anchors = {attributes["id"] for _, attributes in self.tags if "id" in attributes}
        for name, attributes in self.tags:
            assert not [key for key in attributes if key.startswith("on")]
            if name == "a":
                assert str(attributes["href"])[:1] == "#"
                assert str(attributes["href"])[1:] in anchors
            else:
                assert "href" not in attributes
            if name == "img":
                assert str(attributes["src"]).startswith("data:image/jpeg;base64,")
                assert attributes["alt"]
            if name == "th":
                assert attributes["scope"] in ("row", "col")
        assert "url(" not in self.style
        assert "@import" not in self.style
        assert "://" not in self.text + self.style
        (policy,) = [m["content"] for m in self.named("meta") if "http-equiv" in m]
        assert str(policy).startswith("default-src 'none';")
        assert self.named("html") == [{"lang": "en"}]
