"""How long the GUI thread keeps a person waiting while a scan is scored, in a real viewer.

A timer is to fire every 5 ms; how late it comes is how late a click would be noticed. On Linux
without a screen:

QT_API=pyqt6 xvfb-run -a -s "-screen 0 1366x768x24" python benchmarks/ui_latency.py [--json FILE]

``--stalls`` also says what the GUI thread was doing where it came more than 50 ms late. It holds on
to frames of Python, and so to painters in them, of which Qt warns and may fail: not for figures.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import napari
import numpy as np
from qtpy.QtCore import QObject, Qt, QTimer
from qtpy.QtWidgets import QApplication

from napari_spatial_ar.demo import DEMO_MODEL
from napari_spatial_ar.gui.demo import open_review
from napari_spatial_ar.gui.layers import KEY, volume_layer_kwargs
from napari_spatial_ar.gui.review.dock import ReviewDock
from napari_spatial_ar.gui.viewer import go_to_slice, show_acquired_plane
from napari_spatial_ar.imaging.samples import sample_volume

_EVERY_MS = 5
_LATE_MS = 50
_WORDS = "napari_spatial_ar", "napari", "vispy"


class Lateness(QObject):
    """Measures how late a timer of 5 ms comes."""

    def __init__(self) -> None:
        super().__init__()
        self.late: list[float] = []
        self.worked: list[float] = []
        self.last = time.perf_counter()
        self._worked = time.thread_time()
        self._timer = QTimer(self)
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.setInterval(_EVERY_MS)
        self._timer.timeout.connect(self._on_time)

    def begin(self) -> None:
        """Measure anew."""
        self.late, self.worked = [], []
        self.last, self._worked = time.perf_counter(), time.thread_time()
        self._timer.start()

    def _on_time(self) -> None:
        now = time.perf_counter()
        self.late.append(max(0.0, 1000 * (now - self.last) - _EVERY_MS))
        self.last = now
        worked = time.thread_time()
        self.worked.append(1000 * (worked - self._worked))
        self._worked = worked

    def end(self) -> dict[str, float]:
        """Say what was measured, in ms."""
        self._timer.stop()
        late = np.array(self.late)
        # A stall of 100 ms hides twenty ticks: each of them would have had to wait too.
        waits = np.concatenate(
            [np.arange(ms, 0, -_EVERY_MS) for ms in late if ms > 0] or [np.zeros(1)]
        )
        every = np.concatenate([waits, np.zeros(int((late == 0).sum()))])
        return {
            "median": round(float(np.median(every)), 1),
            "p99": round(float(np.percentile(every, 99)), 1),
            "p99_of_ticks": round(float(np.percentile(late, 99)), 1),
            "max": round(float(late.max()), 1),
            "over_50_ms": int((late > _LATE_MS).sum()),
            "ticks": len(late),
            # Its own work between two ticks, which other programs do not add to.
            "own_cpu_p99": round(float(np.percentile(self.worked, 99)), 1),
            "own_cpu_max": round(float(max(self.worked)), 1),
        }


class Stalls(threading.Thread):
    """Looks at what the GUI thread does whenever its timer is late."""

    def __init__(self, lateness: Lateness) -> None:
        super().__init__(daemon=True)
        self._lateness = lateness
        self._gui = threading.get_ident()
        self.found: Counter[str] = Counter()

    def run(self) -> None:
        """Sample every 10 ms."""
        while True:
            time.sleep(0.01)
            if time.perf_counter() - self._lateness.last > _LATE_MS / 1000:
                frame = sys._current_frames().get(self._gui)
                if frame is None:
                    return
                stack = traceback.extract_stack(frame)
                places = [f for f in stack if any(word in f.filename for word in _WORDS)]
                own = [f for f in places if "napari_spatial_ar" in f.filename]
                at = (own or places or stack)[-1]
                leaf = stack[-1]
                self.found[
                    f"{Path(at.filename).name}:{at.lineno} {at.name} > "
                    f"{Path(leaf.filename).name}:{leaf.lineno} {leaf.name}"
                ] += 1


def wait(until: Callable[[], bool], seconds: float) -> None:
    """Run the event loop."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not until():
        QApplication.processEvents()
        time.sleep(0.0005)


class Person(QObject):
    """Scrolls through the slices, and drags the threshold of what is scored, ten times a second."""

    def __init__(self, dock: ReviewDock) -> None:
        super().__init__()
        self._dock = dock
        self._step = 0
        self._timer = QTimer(self)
        self._timer.setInterval(100)
        self._timer.timeout.connect(self._act)

    def begin(self) -> None:
        """Begin to use the viewer."""
        self._timer.start()

    def end(self) -> None:
        """Leave it alone."""
        self._timer.stop()

    def _act(self) -> None:
        dock, session = self._dock, self._dock.session
        self._step += 1
        geometry = dock.scan.layer.metadata[KEY]["geometry"]
        count = geometry.slice_count
        at = abs(self._step % (2 * count) - count + 1) % count
        go_to_slice(dock.viewer, dock.scan.layer, geometry, at)
        if session is None:
            return
        # From where a tenth of normal tissue is flagged to where a hundredth is, and back.
        share = 0.5 + 0.5 * np.sin(self._step / 5)
        ends = [session.model.threshold_for_fpr(fpr) for fpr in (0.1, 0.01)]
        dock.threshold.slider.setValue(float(ends[0] + share * (ends[1] - ends[0])))


def main() -> None:
    """Parse arguments, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=DEMO_MODEL)
    parser.add_argument("--seconds", type=float, default=20.0, help="at most, of each part")
    parser.add_argument("--stalls", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    viewer = napari.Viewer()
    volume = sample_volume()
    layers = [viewer.add_image(**volume_layer_kwargs(volume)) for _ in range(2)]
    show_acquired_plane(viewer, volume.geometry)
    dock = open_review(viewer)
    dock.scan.list.choose(layers[0])
    dock.models.choose(arguments.model)
    wait(lambda: dock.models.model is not None, 120)
    dock.models.model.score_slice(volume.slices[12])  # the backbone is loaded once, not measured
    wait(lambda: False, 5)

    lateness, person = Lateness(), Person(dock)
    stalls = Stalls(lateness)
    if arguments.stalls:
        stalls.start()
    ms: dict[str, dict[str, float]] = {}
    what_late: dict[str, list[tuple[str, int]]] = {}
    scored: dict[str, float] = {}
    # What is scored, and whether the viewer is used: what napari takes by itself is among them.
    parts = {
        "idle": (None, False),
        "using": (None, True),
        "scoring": (layers[0], False),
        "scoring and using": (layers[1], True),
        "using what is scored": (None, True),
    }
    for name, (layer, used) in parts.items():
        if layer is not None:
            dock.scan.list.choose(layer)
            wait(lambda: False, 1)
        stalls.found.clear()
        lateness.begin()
        begun = time.monotonic()
        if layer is not None:
            dock.score("volume")
        if used:
            person.begin()
        if layer is None:
            wait(lambda: False, min(10.0, arguments.seconds))
        else:
            wait(lambda: not dock.running, arguments.seconds)
            taken = time.monotonic() - begun
            count = int(dock.session.score.visited.sum())
            scored[name] = round(1000 * taken / max(1, count), 1)
        person.end()
        ms[name] = lateness.end()
        what_late[name] = stalls.found.most_common(12)
        dock.cancel()
        wait(lambda: not dock.running and dock.masks.settled, 30)

    result = {
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),  # other work on the machine adds to it
        "model": arguments.model,
        "late_ms": ms,
        "ms_per_slice": scored,
    }
    if arguments.stalls:
        result["stalls"] = what_late
    text = json.dumps(result, indent=2)
    print(text)  # noqa: T201
    if arguments.json:
        arguments.json.write_text(text + "\n")
    viewer.close()


if __name__ == "__main__":
    main()
