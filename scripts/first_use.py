"""What a new user does, from a fresh environment to exported files, with real clicks and keys.

    python scripts/first_use.py [--binding pyqt6] [--python PYTHON] [--shots FOLDER] [-- PIP...]

Builds the wheel, checks it (``twine check --strict``, its size), and then for each Qt binding makes
an environment with ``napari[BINDING]`` and the wheel, nothing else and nothing from a cache; checks
the manifest; and starts napari in a new home, on a screen of 1366 x 768 that only this run sees,
without any network. A hand that knows no more than what stands on the screen opens the Review dock
and the sample by the menus, scores a slice, moves the threshold and exports everything. It prints
how long the first heatmap took. ``-- --constraint constraints.txt`` takes the versions tested.

It needs Linux and, of Debian's packages, xvfb, libxtst6 and util-linux.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parents[1]
BINDINGS = ("pyqt6", "pyqt5")
WIDTH, HEIGHT = 1366, 768
MOST_MB = 60
WRITTEN = ("nll.nii.gz", "mask.nii.gz", "findings.csv", "findings.json", "provenance.json")
STARTED = time.monotonic()
T = TypeVar("T")


# ---------------------------------------------------------------------- around napari


def print_message(text: str) -> None:
    """Write a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def call(*command: str | Path, **options: Any) -> None:
    """Run a program that must succeed; what it prints is shown where it does not."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, **options
    )
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}\nfailed: {' '.join(map(str, command))}")


@contextmanager
def environment(python: str, *packages: str | Path) -> Iterator[Path]:
    """Make an environment with packages, and remove it; gives the folder of its programs."""
    with tempfile.TemporaryDirectory(prefix="first-use-") as place:
        call(python, "-m", "venv", place)
        programs = Path(place) / "bin"
        call(programs / "pip", "install", "--no-cache-dir", "--quiet", *packages)
        yield programs


def checked_wheel(place: Path) -> Path:
    """Build the wheel and see that an index would take it."""
    with environment(sys.executable, "build", "twine") as programs:
        call(programs / "python", "-m", "build", "--wheel", "--outdir", place, ROOT)
        (wheel,) = place.glob("*.whl")
        call(programs / "twine", "check", "--strict", wheel)
    megabytes = wheel.stat().st_size / 1e6
    print_message(f"{wheel.name}: {megabytes:.1f} MB, twine check --strict passed")
    assert megabytes < MOST_MB
    return wheel


def without_network() -> list[str]:
    """Give the command that runs another in a network of its own, which has no way out."""
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    return ["unshare", "--net", *user]


def use(binding: str, python: str, wheel: Path, pip: list[str], shots: Path | None) -> None:
    """Install, start napari in a new home, and tell how it went."""
    began = time.monotonic()
    with environment(python, f"napari[{binding}]", wheel, *pip) as programs:
        installed = time.monotonic() - began
        call(programs / "npe2", "validate", "napari-spatial-ar")
        home = programs.parent / "home"
        for folder in ("home", "home/exported", "home/shots", "home/run"):
            (programs.parent / folder).mkdir(mode=0o700)
        keep = {key: os.environ[key] for key in ("PATH", "LANG") if key in os.environ}
        env = {**keep, "HOME": str(home), "XDG_RUNTIME_DIR": str(home / "run"), "QT_API": binding}
        screen = ["xvfb-run", "-a", "-s", f"-screen 0 {WIDTH}x{HEIGHT}x24"]
        hand = [programs / "python", __file__, "--hand", home]
        try:
            call(*without_network(), *screen, *hand, env=env, cwd=home, timeout=900)
        finally:
            if shots is not None:
                shutil.copytree(home / "shots", shots / binding, dirs_exist_ok=True)
        told = json.loads((home / "told.json").read_text())
    print_message(
        f"{binding}, Python {told['python']}, napari {told['napari']}: installed in "
        f"{installed:.0f} s; the window stood after {told['window']:.1f} s, the first heatmap "
        f"{told['heatmap']:.1f} s later ({told['after_click']:.1f} s after Score); threshold moved "
        f"({told['flagged'][0]} to {told['flagged'][1]} voxels), {told['files']} files exported; "
        f"no network, {len(told['connections'])} connections tried"
    )
    assert not told["connections"], told["connections"]
    assert not told["errors"], told["errors"]


# ---------------------------------------------------------------------- inside napari's process


class Mouse:
    """Mouse and keyboard of the X server, as if they were real (the XTEST extension)."""

    def __init__(self) -> None:
        self._x = ctypes.CDLL("libX11.so.6")
        self._test = ctypes.CDLL("libXtst.so.6")
        self._x.XOpenDisplay.restype = ctypes.c_void_p
        self._x.XStringToKeysym.restype = ctypes.c_ulong
        self._x.XStringToKeysym.argtypes = [ctypes.c_char_p]
        self._x.XKeysymToKeycode.argtypes = [ctypes.c_void_p, ctypes.c_ulong]
        self._x.XKeysymToKeycode.restype = ctypes.c_ubyte
        self._display = ctypes.c_void_p(self._x.XOpenDisplay(None))

    def _flush(self, seconds: float = 0.05) -> None:
        self._x.XFlush(self._display)
        time.sleep(seconds)

    def move(self, place: tuple[int, int]) -> None:
        """Move to pixels of the screen."""
        self._test.XTestFakeMotionEvent(self._display, -1, *place, 0)
        self._flush()

    def press(self, down: bool, button: int = 1) -> None:
        """Press or release a button."""
        self._test.XTestFakeButtonEvent(self._display, button, int(down), 0)
        self._flush()

    def click(self, place: tuple[int, int], button: int = 1) -> None:
        """Click once; buttons 4 and 5 are the wheel, up and down."""
        self.move(place)
        self.press(True, button)
        self.press(False, button)

    def drag(self, start: tuple[int, int], end: tuple[int, int], steps: int = 12) -> None:
        """Press at a place, move to another and release there."""
        self.move(start)
        self.press(True)
        for step in range(1, steps + 1):
            part = step / steps
            self.move(tuple(round(a + part * (b - a)) for a, b in zip(start, end, strict=True)))
        self.press(False)

    def type(self, text: str) -> None:
        """Type a path, and Return for a line's end."""
        names = {"/": "slash", "-": "minus", ".": "period", "_": "underscore", "\n": "Return"}
        for letter in text:
            keys = [names.get(letter, letter)]
            if letter == "_" or letter.isupper():
                keys.insert(0, "Shift_L")
            for down, order in ((1, keys), (0, keys[::-1])):
                for key in order:
                    symbol = self._x.XStringToKeysym(key.encode())
                    code = self._x.XKeysymToKeycode(self._display, symbol)
                    self._test.XTestFakeKeyEvent(self._display, code, down, 0)
            self._flush(0.02)


class Hand:
    """Works in a thread of its own; what is on the screen it asks of napari's thread.

    So napari's event loop runs as it always does, through menus and dialogs too.
    """

    def __init__(self, home: Path) -> None:
        from qtpy.QtCore import QObject, Qt, Signal

        class Bridge(QObject):
            asked = Signal(object)

        self.home = home
        self.connections: list[str] = []
        self.told: dict[str, Any] = {}
        self._bridge = Bridge()
        self._bridge.asked.connect(lambda work: work(), Qt.ConnectionType.QueuedConnection)
        self._shots = 0

    def ask(self, question: Callable[[], T]) -> T:
        """Give the answer to a question that only napari's thread may ask."""
        done, answer = threading.Event(), []

        def work() -> None:
            try:
                answer.append((question(), None))
            except Exception as error:  # noqa: BLE001 - raised again, in the hand's thread
                answer.append((None, error))
            done.set()

        self._bridge.asked.emit(work)
        if not done.wait(120):
            raise TimeoutError("napari's window does not answer")
        value, error = answer[0]
        if error is not None:
            raise error
        return value

    def until(self, question: Callable[[], T], seconds: float = 180) -> T:
        """Ask until the answer is something."""
        end = time.monotonic() + seconds
        while not (answer := self.ask(question)):
            if time.monotonic() > end:
                raise TimeoutError(f"waited {seconds:.0f} s for {question.__name__}")
            time.sleep(0.02)
        return answer

    def shoot(self, name: str) -> None:
        """Keep a picture of the screen."""
        from qtpy.QtGui import QGuiApplication

        time.sleep(0.5)
        self._shots += 1
        path = self.home / "shots" / f"{self._shots}_{name}.png"
        self.ask(lambda: QGuiApplication.primaryScreen().grabWindow(0).save(str(path)))

    # ------------------------------------------------------------------ finding things

    def _middle(self, widget: Any, rect: Any = None) -> tuple[int, int]:
        place = widget.mapToGlobal((rect or widget.rect()).center())
        return place.x(), place.y()

    def choose(self, *texts: str) -> None:
        """Click through the menus."""
        from qtpy.QtWidgets import QApplication

        menu = self.ask(lambda: self.window.menuBar())
        for text in texts:

            def entry(menu: Any = menu, text: str = text) -> Any:
                for action in menu.actions():
                    if action.text().replace("&", "").startswith(text) and action.isEnabled():
                        return self._middle(menu, menu.actionGeometry(action))
                return None

            self.mouse.click(self.until(entry, 20))
            if text == texts[-1]:
                return

            def opened(before: Any = menu) -> Any:
                popup = QApplication.activePopupWidget()
                return popup if popup is not None and popup is not before else None

            menu = self.until(opened, 20)

    def visible(self, kind: type[Any], said: str) -> Any:
        """Find what says so, in its text or to a screen reader; to be asked in napari's thread."""
        from qtpy.QtWidgets import QApplication

        for widget in QApplication.allWidgets():
            if isinstance(widget, kind) and widget.isVisible() and widget.isEnabled():
                text = widget.text() if hasattr(widget, "text") else ""
                if said in (text.replace("&", ""), widget.accessibleName()):
                    return widget
        return None

    def button(self, text: str) -> Any:
        """Find a button as soon as it can be pressed."""
        from qtpy.QtWidgets import QPushButton

        return self.until(lambda: self.visible(QPushButton, text))

    def scroll_to(self, widget: Any) -> tuple[int, int]:
        """Turn the wheel over the dock until a widget is in view; gives its middle."""
        from qtpy.QtWidgets import QScrollArea

        def area() -> Any:
            up = widget.parentWidget()
            while up is not None and not isinstance(up, QScrollArea):
                up = up.parentWidget()
            return up

        def hidden() -> int:
            """Give how far it is below the view, or above: pixels."""
            view = scroll.viewport()
            top = widget.mapTo(view, widget.rect().topLeft()).y()
            return max(0, top + widget.height() - view.height()) or min(0, top)

        scroll = self.ask(area)
        for _ in range(200 if scroll is not None else 0):
            if not (away := self.ask(hidden)):
                break
            # The margin of the dock: nothing there takes the wheel for itself.
            place = self.ask(lambda: self._middle(scroll.viewport()))
            left = self.ask(lambda: scroll.viewport().mapToGlobal(scroll.rect().topLeft()).x())
            self.mouse.click((left + 3, place[1]), 5 if away > 0 else 4)
        return self.ask(lambda: self._middle(widget))

    @property
    def layers(self) -> list[Any]:
        """Layers in view, to be asked in napari's thread."""
        return [layer for layer in self.viewer.layers if layer.visible]

    def settled(self) -> int:
        """Count the voxels of the mask once they have stayed the same for a second."""

        def count() -> int:
            masks = [layer for layer in self.layers if layer._type_string == "labels"]
            return sum(int((layer.data > 0).sum()) for layer in masks)

        last, since = self.ask(count), time.monotonic()
        while time.monotonic() - since < 1:
            time.sleep(0.1)
            now = self.ask(count)
            if now != last:
                last, since = now, time.monotonic()
        return last

    # ------------------------------------------------------------------ first use

    def work(self) -> None:
        """Go from the window to the exported files."""
        import napari
        from qtpy.QtWidgets import QPushButton

        def window() -> Any:
            viewer = napari.current_viewer()
            return viewer if viewer and viewer.window._qt_window.isVisible() else None

        self.viewer = self.until(window)
        opened = time.monotonic()
        self.window = self.ask(lambda: self.viewer.window._qt_window)
        # There is no window manager to give it the screen.
        self.ask(lambda: self.window.setGeometry(0, 0, WIDTH, HEIGHT))
        self.mouse = Mouse()
        self.shoot("window")
        self.choose("Plugins", "Spatial AR", "Review")
        self.button("Open scan...")
        self.choose("File", "Open Sample", "Brain FLAIR")
        self.until(lambda: self.layers)
        self.shoot("sample")
        score = self.scroll_to(self.button("Score this slice"))
        clicked = time.monotonic()
        self.mouse.click(score)
        self.until(lambda: sum(layer._type_string == "image" for layer in self.layers) > 1)
        seen = time.monotonic()
        self.shoot("heatmap")
        self.mouse.click(self.scroll_to(self.button("Score whole volume")))
        self.until(lambda: self.visible(QPushButton, "Cancel"), 20)
        self.until(lambda: not self.visible(QPushButton, "Cancel"), 600)
        before = self.settled()
        self.shoot("scored")
        self.move_threshold()
        after = self.settled()
        assert before != after, "the mask did not follow the threshold"
        self.shoot("threshold")
        self.export()
        self.told = {
            "window": opened - STARTED,
            "heatmap": seen - opened,
            "after_click": seen - clicked,
            "flagged": (before, after),
            "files": len(list((self.home / "exported").rglob("*.*"))),
        }

    def move_threshold(self) -> None:
        """Drag the threshold a fifth of its way up."""
        from qtpy.QtWidgets import QSlider

        slider = self.until(lambda: self.visible(QSlider, "Threshold"))
        self.scroll_to(slider)

        def spots() -> list[tuple[int, int]]:
            part = slider.value() / slider.maximum()
            width, rect = slider.width() - 16, slider.rect()
            found = []
            for at in (part, min(1, part + 0.2)):
                rect.moveCenter(slider.rect().center())
                place = slider.mapToGlobal(rect.center())
                left = slider.mapToGlobal(slider.rect().topLeft()).x() + 8
                found.append((round(left + at * width), place.y()))
            return found

        self.mouse.drag(*self.ask(spots))

    def export(self) -> None:
        """Export everything into a folder that is typed."""
        from qtpy.QtWidgets import QApplication

        folder = self.home / "exported"
        self.mouse.click(self.scroll_to(self.button("Export all...")))
        self.until(QApplication.activeModalWidget, 20)
        self.shoot("dialog")
        self.mouse.type(f"{folder}\n")
        self.until(lambda: QApplication.activeModalWidget() is None, 20)
        self.until(lambda: all(any(folder.rglob(name)) for name in WRITTEN), 120)
        self.shoot("exported")


def hand(home: Path) -> None:
    """Start napari and a hand; ends with napari's exit code, or 1 where the hand was stuck."""
    import platform

    import napari
    from napari.__main__ import main as napari_main
    from napari.utils.notifications import notification_manager

    user = Hand(home)

    def listen(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "socket.getaddrinfo" or (
            event == "socket.connect" and isinstance(arguments[1], tuple)
        ):
            user.connections.append(
                f"{event} {arguments[1:] if event.endswith('t') else arguments}"
            )

    sys.addaudithook(listen)

    def work() -> None:
        try:
            user.work()
            told = {
                **user.told,
                "connections": user.connections,
                "errors": [
                    str(n) for n in notification_manager.records if n.severity.value in ("error",)
                ],
                "python": platform.python_version(),
                "napari": napari.__version__,
            }
            (home / "told.json").write_text(json.dumps(told))
        except Exception:  # noqa: BLE001 - whatever it is, the hand is stuck
            traceback.print_exc()
            user.shoot("stuck")
            os._exit(1)
        user.ask(user.viewer.close)

    threading.Thread(target=work, daemon=True).start()
    sys.argv = ["napari"]
    napari_main()


def main() -> None:
    """Parse arguments and go."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--binding", choices=BINDINGS, action="append")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--shots", type=Path, help="folder for pictures of the screen")
    parser.add_argument("--hand", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("pip", nargs="*", metavar="PIP_OPTION")
    arguments = parser.parse_args()
    if arguments.hand:
        hand(arguments.hand)
        return
    pip = [str(ROOT / o) if (ROOT / o).is_file() else o for o in arguments.pip]
    with tempfile.TemporaryDirectory() as place:
        wheel = checked_wheel(Path(place))
        for binding in arguments.binding or BINDINGS:
            use(binding, arguments.python, wheel, pip, arguments.shots)


if __name__ == "__main__":
    main()
