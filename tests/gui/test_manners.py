"""What every control owes to a reader who hovers, tabs, or has the screen read aloud."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtGui import QWheelEvent
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QAbstractSlider,
    QAbstractSpinBox,
    QApplication,
    QComboBox,
    QDial,
    QDialog,
    QDialogButtonBox,
    QLineEdit,
    QScrollBar,
    QSlider,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from napari_spatial_ar import gui
from napari_spatial_ar.gui.library.comparison_dialog import ComparisonDialog
from napari_spatial_ar.gui.library.dialog import LibraryDialog
from napari_spatial_ar.gui.open_scan import SeriesChooser
from napari_spatial_ar.gui.review import findings_panel
from napari_spatial_ar.gui.review.dock import ReviewDock
from napari_spatial_ar.gui.shortcuts import SHORTCUTS, ShortcutsDialog
from napari_spatial_ar.gui.training.dock import TrainingDock
from napari_spatial_ar.gui.widgets.forms import Dialog, Fold, NoWheel
from napari_spatial_ar.gui.widgets.plots import ScoreHistogram
from napari_spatial_ar.gui.worklist import panel
from napari_spatial_ar.imaging.reading import Found

CONTROLS = (QAbstractButton, QComboBox, QAbstractSpinBox, QLineEdit, QAbstractSlider)
DOCS = Path(__file__).resolve().parents[2] / "docs"


def controls(root: QWidget) -> list[QWidget]:
    """What can be pressed, typed into or chosen from; not the parts that Qt makes those of."""
    found: list[Any] = []
    for kind in (*CONTROLS, QAbstractItemView):
        found += root.findChildren(kind)
    found += [w for w in root.findChildren(QWidget) if w.focusPolicy() & Qt.FocusPolicy.TabFocus]
    return [w for w in dict.fromkeys(found) if not _is_part(w, root)]


def _is_part(widget: QWidget, root: QWidget) -> bool:
    if isinstance(widget, QScrollBar):
        return True
    at = widget.parentWidget()
    while at is not None and at is not root:
        if isinstance(at, (QComboBox, QAbstractSpinBox, QAbstractItemView, QLineEdit)):
            return True
        if isinstance(at, QDialogButtonBox):
            return True
        at = at.parentWidget()
    # A scroll area is gone through with what is in it.
    return type(widget).__name__ in ("QScrollArea", "QTabWidget", "QStackedWidget")


def spoken_name(widget: QWidget) -> str:
    """What a screen reader says: the name that was given, or a button's text."""
    text = widget.text() if isinstance(widget, QAbstractButton) else ""
    return widget.accessibleName() or (text if re.search(r"[A-Za-z]{2}", text) else "")


def lacking(root: QWidget) -> list[str]:
    """Controls without tooltip or name."""
    found = []
    for widget in controls(root):
        text = widget.text() if hasattr(widget, "text") else ""
        what = f"{type(widget).__name__} {text!r} {widget.toolTip()[:40]!r}"
        if not widget.toolTip():
            found.append(f"no tooltip: {what}")
        if not spoken_name(widget):
            found.append(f"no name: {what}")
    return found


@pytest.fixture
def review(dock: Any, finish: Any) -> ReviewDock:
    made = dock(show=True)
    made.score("volume")
    finish(made)
    return made


def test_controls_of_the_review_dock_have_tooltip_and_name(review: ReviewDock) -> None:
    assert len(controls(review)) > 40
    assert lacking(review) == []


def test_controls_of_the_training_dock_have_tooltip_and_name(make_napari_viewer: Any) -> None:
    made = TrainingDock(make_napari_viewer())
    assert len(controls(made)) > 30
    assert lacking(made) == []


def test_controls_of_the_worklist_have_tooltip_and_name(
    review: ReviewDock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(panel, "worklist_dir", lambda: tmp_path / "kept")
    review.show_worklist()
    assert review.worklist is not None
    assert len(controls(review.worklist)) >= 6
    assert lacking(review.worklist) == []


def _library(review: ReviewDock) -> QDialog:
    return LibraryDialog(review.window())


def _comparison(review: ReviewDock) -> QDialog:
    return ComparisonDialog([], review.scan, review)


def _chooser(review: ReviewDock) -> QDialog:
    return SeriesChooser(Found((), ()), review)


@pytest.mark.parametrize("make", [_library, _comparison, _chooser, ShortcutsDialog])
def test_controls_of_dialogs_have_tooltip_and_name(
    review: ReviewDock, make: Callable[[ReviewDock], QDialog], qtbot: Any
) -> None:
    made = make(review)
    try:
        assert controls(made)
        assert lacking(made) == []
        made.show()
        assert changed_by_wheel(made) == []
    finally:
        made.close()


# ---------------------------------------------------------------------- wheel


def turn_wheel(widget: QWidget) -> QWheelEvent:
    """Turn the wheel a notch towards the user, with the mouse on a widget."""
    at, none = widget.rect().center(), Qt.MouseButton.NoButton
    event = QWheelEvent(
        QPointF(at),
        QPointF(widget.mapToGlobal(at)),
        QPoint(),
        QPoint(0, -120),
        none,
        Qt.KeyboardModifier.NoModifier,
        Qt.ScrollPhase.NoScrollPhase,
        False,
    )
    QApplication.sendEvent(widget, event)
    return event


def value_of(widget: QWidget) -> Any:
    return widget.currentIndex() if isinstance(widget, QComboBox) else widget.value()


def changed_by_wheel(root: QWidget) -> list[str]:
    """Controls that the wheel changes, or takes from what scrolls behind them."""
    kinds = (QComboBox, QAbstractSpinBox, QSlider, QDial)
    found = []
    for widget in (w for w in root.findChildren(QWidget) if isinstance(w, kinds)):
        if isinstance(widget, QComboBox):
            while widget.count() < 2:
                widget.addItem("another")
        widget.setEnabled(True)
        if isinstance(widget, QAbstractSlider) and not isinstance(widget.value(), tuple):
            widget.setValue((widget.minimum() + widget.maximum()) // 2)
        before = value_of(widget)
        taken = turn_wheel(widget).isAccepted()
        focus = widget.focusPolicy() == Qt.FocusPolicy.WheelFocus
        if taken or focus or value_of(widget) != before:
            found.append(f"{type(widget).__name__} {widget.accessibleName()}")
    return found


def test_the_wheel_would_change_what_is_not_guarded(qtbot: Any) -> None:
    plain = QWidget()
    qtbot.addWidget(plain)
    for kind in (QComboBox, QSpinBox, QSlider):
        kind(plain)
    assert len(changed_by_wheel(plain)) == 3
    NoWheel(plain)
    assert changed_by_wheel(plain) == []
    QVBoxLayout(plain)
    late = QWidget()
    late.setLayout(QVBoxLayout())
    late.layout().addWidget(QSpinBox())
    plain.layout().addWidget(late)
    plain.show()
    qtbot.waitUntil(lambda: changed_by_wheel(plain) == [])
    late.layout().addWidget(QComboBox())
    qtbot.waitUntil(lambda: changed_by_wheel(plain) == [])


def test_the_wheel_changes_nothing_in_the_docks_and_the_worklist(
    review: ReviewDock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(panel, "worklist_dir", lambda: tmp_path / "kept")
    training = TrainingDock(review.viewer)
    review.show_worklist()
    for fold in review.findChildren(Fold):
        fold.expand()
    assert len(review.findChildren(QAbstractSpinBox)) > 4
    assert len(training.findChildren(QAbstractSpinBox)) > 10
    for root in (review, training, review.worklist):
        assert changed_by_wheel(root) == []
    training.form.method.box.setCurrentIndex(1)  # its options come into view
    assert changed_by_wheel(training) == []


def dialogs_of_the_package() -> set[type[QDialog]]:
    for module in pkgutil.walk_packages(gui.__path__, f"{gui.__name__}."):
        importlib.import_module(module.name)

    def below(kind: type[QDialog]) -> set[type[QDialog]]:
        return {kind}.union(*(below(each) for each in kind.__subclasses__()))

    return {kind for kind in below(QDialog) if kind.__module__.startswith(gui.__name__)}


def test_every_dialog_is_guarded_against_the_wheel() -> None:
    found = dialogs_of_the_package()
    assert len(found) >= 7
    assert [kind.__name__ for kind in found if not issubclass(kind, Dialog)] == []


# ---------------------------------------------------------------------- keyboard


def chain(root: QWidget, qtbot: Any) -> list[QWidget]:
    """Widgets in the order in which Tab goes through them."""
    root.window().activateWindow()
    first = next(w for w in controls(root) if w.isVisible() and w.isEnabled())
    first.setFocus(Qt.FocusReason.TabFocusReason)
    qtbot.waitUntil(first.hasFocus)
    went = [first]
    for _ in range(200):
        qtbot.keyClick(QApplication.focusWidget(), Qt.Key.Key_Tab)
        now = QApplication.focusWidget()
        if now is None or not root.isAncestorOf(now) or now in went:
            break
        went.append(now)
    return went


def test_tab_goes_through_the_dock_from_top_to_bottom(review: ReviewDock, qtbot: Any) -> None:
    for fold in review.findChildren(Fold):
        fold.expand()
    QApplication.processEvents()
    went = chain(review, qtbot)
    missed = [
        w
        for w in controls(review)
        if w.isVisible() and w.isEnabled() and w not in went and not _one_of_a_group(w, went)
    ]
    assert [f"{type(w).__name__} {w.toolTip()}" for w in missed] == []
    content, bar = review.scroll.widget(), review.scroll.verticalScrollBar()
    # Head, sections and foot, as if all were in view.
    tops = [
        w.mapTo(review, w.rect().center()).y() + (bar.value() if content.isAncestorOf(w) else 0)
        for w in went
        if not review.export.foot.isAncestorOf(w)
    ]
    jumps = [
        (went[i].toolTip(), went[i + 1].toolTip())
        for i in range(len(tops) - 1)
        if tops[i + 1] < tops[i] - 20
    ]
    assert jumps == []


def _one_of_a_group(widget: QWidget, went: list[QWidget]) -> bool:
    """Of buttons of which one is pressed, Tab goes to that, and arrow keys to the others."""
    group = widget.group() if isinstance(widget, QAbstractButton) else None
    return group is not None and any(button in went for button in group.buttons())


def _is_framed(widget: QWidget) -> bool:
    """Whether its edges are in the colour of the focus."""
    image = widget.grab().toImage()
    middle = image.height() // 2
    sides = [*range(4), *range(image.width() - 4, image.width())]
    return any(image.pixelColor(x, middle).name() == "#2f8fe0" for x in sides)


def test_what_is_reached_by_tab_is_framed_and_in_view(review: ReviewDock, qtbot: Any) -> None:
    review.window().activateWindow()
    review.model_box.setFocus(Qt.FocusReason.TabFocusReason)
    qtbot.waitUntil(review.model_box.hasFocus)
    for _ in range(20):
        qtbot.keyClick(QApplication.focusWidget(), Qt.Key.Key_Tab)
        now = QApplication.focusWidget()
        assert review.isAncestorOf(now)
        if not isinstance(now, QLineEdit | QAbstractSpinBox | ScoreHistogram):
            assert _is_framed(now), now.accessibleName()
        assert now.visibleRegion().boundingRect().height() > 0


def test_space_presses_what_tab_reached(review: ReviewDock, qtbot: Any) -> None:
    review.display_panel.fold.expand()
    button = review.display_panel.buttons["fill"]
    review.window().activateWindow()
    button.setFocus(Qt.FocusReason.TabFocusReason)
    qtbot.waitUntil(button.hasFocus)
    qtbot.keyClick(button, Qt.Key.Key_Space)
    assert review.display_panel.display.mode == "fill"
    heading = review.findings.fold.heading
    heading.setFocus(Qt.FocusReason.TabFocusReason)
    qtbot.keyClick(heading, Qt.Key.Key_Space)
    assert not review.findings.table.isVisible()
    qtbot.keyClick(heading, Qt.Key.Key_Space)
    assert review.findings.table.isVisible()


# ---------------------------------------------------------------------- folding


def test_folded_sections_are_remembered_and_say_what_is_chosen(
    review: ReviewDock, dock: Any, qtbot: Any
) -> None:
    fold = review.model_panel.fold
    assert not fold.isExpanded()
    review.plane_box.setCurrentIndex(2)
    assert fold.heading.text().endswith("Model: Coronal slices")
    qtbot.mouseClick(fold.heading, Qt.MouseButton.LeftButton)
    assert review.plane_box.isVisible()
    assert fold.heading.text().endswith("Model")
    qtbot.mouseClick(review.findings.fold.heading, Qt.MouseButton.LeftButton)
    again = dock(show=True)
    assert again.model_panel.fold.isExpanded()
    assert not again.findings.fold.isExpanded()
    assert not again.display_panel.fold.isExpanded()


def test_what_is_folded_says_which_settings_are_active(review: ReviewDock) -> None:
    more, export = review.threshold.more, review.export
    assert more.heading.text().endswith("Histogram and mask settings")
    review.threshold.min_size.setValue(50)
    review.threshold.form.fill_holes.setChecked(True)
    assert more.heading.text().endswith("Histogram and mask settings: 2 set")
    export.png.setChecked(True)
    export.itksnap.setChecked(True)
    assert export.fold.heading.text().endswith("Export options: With pictures, ITK-SNAP")


# ---------------------------------------------------------------------- keys


def words(text: str) -> set[str]:
    """Keys that a cell of a table names."""
    return {part.strip() for part in re.split(r",| or ", text)}


def test_the_table_of_keys_has_them_all_and_the_docs_agree() -> None:
    table = set().union(*(words(key) for key, _ in SHORTCUTS))
    bound = {*findings_panel.KEYS, *panel.KEYS}
    assert bound <= table
    assert "Alt+1" in table
    text = (DOCS / "how-to/review.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \|$", text.split("\n## Keys\n")[1], re.MULTILINE)
    documented = set().union(*(words(row) for row in rows if row not in ("key", "---")))
    assert documented == table
