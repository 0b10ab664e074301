"""A model's card: drawn with what lies in the model's folder, and with nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from qtpy.QtCore import QUrl
from qtpy.QtGui import QImageReader

from napari_spatial_ar.gui.library import dialog
from napari_spatial_ar.gui.library.dialog import CardView


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    made.mkdir()
    Image.new("RGB", (3000, 30), "red").save(made / "wide.png")
    Image.new("RGB", (10, 10), "red").save(tmp_path / "outside.png")
    (made / "notes.txt").write_text("private")
    return made


@pytest.fixture
def view(qtbot: Any) -> CardView:
    made = CardView()
    qtbot.addWidget(made)
    made.resize(400, 300)
    made.show()
    return made


def picture(view: CardView, address: str) -> tuple[int, int]:
    image = view.loadResource(2, QUrl(address))
    return image.width(), image.height()


def test_what_programs_read_is_not_shown(view: CardView, folder: Path) -> None:
    view.show_card(
        folder, "---\nlicense: mit\ntags:\n- mri\n---\n\n# Title\n\nabove\n\n---\n\nbelow"
    )
    shown = view.toPlainText()
    assert "Title" in shown
    assert "above" in shown
    assert "below" in shown
    assert "license" not in shown


def test_pictures_fit_the_page(view: CardView, folder: Path) -> None:
    view.show_card(folder, "![losses](wide.png)")
    width, height = picture(view, "wide.png")
    assert width == view.viewport().width() - 24
    assert height == round(width / 100)
    view.resize(600, 300)
    assert picture(view, "wide.png")[0] > width


@pytest.mark.parametrize(
    "address",
    [
        "../outside.png",
        "https://example.org/a.png",
        "file:///etc/hostname",
        "notes.txt",
        "absent.png",
        "data:image/png;base64,iVBORw0KGgo=",
    ],
)
def test_nothing_else_is_read(
    view: CardView, folder: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(QImageReader, "read", lambda self: pytest.fail("read a file"))
    assert picture(view, address) == (1, 1)
    view.show_card(folder, f"![a map]({address})")
    assert "a map (not shown" in view.toPlainText()


def test_a_picture_that_would_fill_the_memory_is_left_out(
    view: CardView, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view.show_card(folder, "![losses](wide.png)")
    monkeypatch.setattr(dialog, "_MOST_PIXELS", 1000)
    assert picture(view, "wide.png") == (1, 1)


def test_text_is_no_html_and_no_link(view: CardView, folder: Path) -> None:
    view.show_card(
        folder,
        "<!-- written\nby hand -->\n# Brains\n\nSee [the docs](https://example.org) "
        "<img src='wide.png'>\n\n| | |\n| --- | --- |\n| one | two |\n",
    )
    said = view.toPlainText()
    assert said.startswith("Brains")
    assert "the docs" in said
    assert "written" not in said
    assert "href" not in view.toHtml()
    assert "<img src=" not in view.toHtml().lower()
    (table,) = view.document().rootFrame().childFrames()
    assert (table.rows(), table.columns()) == (1, 2)
