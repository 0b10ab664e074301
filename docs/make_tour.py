"""Makes the pictures of the documentation: napari at 1366 x 768, used with clicks and keys.

xvfb-run -a -s "-screen 0 1366x768x24" python docs/make_tour.py [--out FOLDER] [--theme light] \
    [--only NAME] [--normals FOLDER]

It takes some minutes. The picture of the Training dock needs a folder of normal slices, that of a
report Chromium, those of an archive the Debian packages orthanc, orthanc-dicomweb and dcmtk.
Nothing of the user's own settings, models or worklist is read or changed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

WIDTH, HEIGHT = 1366, 768
# Pictures in their order, each with the step that makes it, which needs the steps before.
STEPS = {
    "empty": "empty",
    "open": "open",
    "scoring": "score",
    "threshold": "threshold",
    "findings": "findings",
    "painting": "paint",
    "side_by_side": "side_by_side",
    "explain": "explain",
    "export": "export",
    "report": "report",
    "worklist": "worklist",
    "models": "models",
    "training": "training",
    "archive": "archive",
    "send": "send",
}
# These begin in a window of their own.
APART = ("worklist", "models", "training", "archive", "send")
# Pictures of other pages than the tour.
ELSEWHERE = ("report", "models", "training", "archive", "send")
MODEL = "brain-flair"
ORTHANC = Path(__file__).resolve().parents[1] / "scripts" / "orthanc.sh"


def apart() -> Path:
    """Let settings, models and worklist go to a folder of this run."""
    home = Path(tempfile.mkdtemp(prefix="napari-spatial-ar-tour-"))
    own = home / "napari-spatial-ar"
    own.mkdir()
    os.environ.update(
        HOME=str(home),
        XDG_CONFIG_HOME=str(home / "config"),
        XDG_CACHE_HOME=str(home / "cache"),
        NAPARI_CONFIG=str(home / "napari.yaml"),
        NAPARI_SPATIAL_AR_HOME=str(own),
    )
    return home


class Guide:
    """Goes through the plugin and takes pictures.

    Parameters
    ----------
    out : Path
        Folder of the pictures.
    home : Path
        Folder of this run.
    theme : str
        Of napari.
    wanted : sequence of str
        Pictures to take: one of `APART`, or others.
    normals : Path or None
        Folder of normal slices, for the picture of the Training dock.
    """

    def __init__(
        self,
        out: Path,
        home: Path,
        theme: str,
        wanted: Sequence[str],
        normals: Path | None = None,
    ):
        import napari
        from napari.settings import get_settings

        from napari_spatial_ar.gui.demo import open_review

        get_settings().appearance.theme = theme
        self.out, self.home, self.normals = out, home, normals
        self.wanted = tuple(wanted)
        self.viewer = napari.Viewer(title="napari-spatial-ar")
        self.window = self.viewer.window._qt_window
        self.window.setGeometry(0, 0, WIDTH, HEIGHT)
        self.dock = open_review(self.viewer)
        self.wait(lambda: self.dock.models.model is not None)
        self.rest()
        self._hush()

    def _hush(self) -> None:
        """Close what napari says in a corner."""
        from napari._qt.dialogs.qt_notification import NapariQtNotification

        for said in self.window.findChildren(NapariQtNotification):
            said.close()

    # ------------------------------------------------------------------ hands and eyes

    def wait(self, until: Callable[[], bool], seconds: float = 600) -> None:
        """Let Qt work until something holds."""
        from qtpy.QtWidgets import QApplication

        end = time.monotonic() + seconds
        while not until():
            if time.monotonic() > end:
                raise TimeoutError(f"waited {seconds:.0f} s in vain")
            QApplication.processEvents()
            time.sleep(0.005)

    def rest(self, seconds: float = 0.6) -> None:
        """Let Qt draw, without what is to be deleted, which only an event loop of Qt's own does."""
        from qtpy.QtCore import QCoreApplication, QEvent

        QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
        end = time.monotonic() + seconds
        self.wait(lambda: time.monotonic() > end)

    def shoot(self, name: str, *show: Any, of: Any = None) -> None:
        """Take a picture of the screen, with widgets of the dock scrolled into view; or of one."""
        from qtpy.QtGui import QGuiApplication

        for widget in show:
            self.dock.scroll.ensureWidgetVisible(widget, 0, 8)
        self.rest()
        if name not in self.wanted:
            return
        path = self.path(name)
        picture = of.grab() if of is not None else QGuiApplication.primaryScreen().grabWindow(0)
        assert picture.save(str(path))
        self.shrink(path)

    def path(self, name: str) -> Path:
        """Give the file of a picture."""
        return self.out / (f"{name}.png" if name in ELSEWHERE else f"tour_{name}.png")

    def shrink(self, path: Path) -> None:
        """Write a picture with fewer bytes."""
        from PIL import Image

        with Image.open(path) as image:
            image.convert("RGB").save(path, optimize=True)

    def top(self) -> None:
        """Scroll the dock to its start."""
        self.dock.scroll.verticalScrollBar().setValue(0)

    def click(self, widget: Any, at: Any = None) -> None:
        """Press and release the left button."""
        from qtpy.QtCore import QPoint, Qt
        from qtpy.QtTest import QTest

        QTest.mouseClick(
            widget,
            Qt.MouseButton.LeftButton,
            Qt.KeyboardModifier.NoModifier,
            QPoint() if at is None else at,
        )

    def press(self, key: str) -> None:
        """Press a key with the mouse on the scan."""
        from qtpy.QtTest import QTest

        QTest.keyClicks(self.canvas, key)

    @property
    def canvas(self) -> Any:
        """Where the scan is drawn."""
        return self.viewer.window._qt_viewer.canvas.native

    def spot(self, voxel: Any) -> Any:
        """Place on the canvas of a voxel of the scan, as it is drawn."""
        from qtpy.QtCore import QPoint

        from napari_spatial_ar.gui.viewer import camera_of

        layer = self.dock.scan.layer
        world = layer.data_to_world(voxel)
        camera = camera_of(self.viewer)
        down, right = (world[axis] for axis in self.viewer.dims.displayed)
        zoom = camera.zoom / self.canvas.devicePixelRatioF()
        middle = self.canvas.rect().center()
        return QPoint(
            round(middle.x() + (right - camera.center[-1]) * zoom),
            round(middle.y() + (down - camera.center[-2]) * zoom),
        )

    def drag(self, spots: list[Any]) -> None:
        """Draw on the canvas with the left button down."""
        from qtpy.QtCore import QEvent, QPointF, Qt
        from qtpy.QtGui import QMouseEvent
        from qtpy.QtWidgets import QApplication

        left, none = Qt.MouseButton.LeftButton, Qt.MouseButton.NoButton
        kinds = [QEvent.Type.MouseMove, QEvent.Type.MouseButtonPress]
        kinds += [QEvent.Type.MouseMove] * (len(spots) - 1) + [QEvent.Type.MouseButtonRelease]
        places = [spots[0], *spots, spots[-1]]
        for at, (kind, place) in enumerate(zip(kinds, places, strict=True)):
            moving = kind == QEvent.Type.MouseMove
            down = none if at == 0 or kind == QEvent.Type.MouseButtonRelease else left
            event = QMouseEvent(
                kind,
                QPointF(place),
                QPointF(self.canvas.mapToGlobal(place)),
                none if moving else left,
                down,
                Qt.KeyboardModifier.NoModifier,
            )
            QApplication.sendEvent(self.canvas, event)
            QApplication.processEvents()

    # ------------------------------------------------------------------ the tour

    def go(self) -> None:
        """Take the pictures that are wanted."""
        apart = self.wanted[0] in APART
        names = list(self.wanted if apart else (name for name in STEPS if name not in APART))
        last = max(names.index(name) for name in self.wanted)
        for name in names[: last + 1]:
            getattr(self, STEPS[name])()
        self.viewer.close()

    def empty(self) -> None:
        """Show the dock before anything is open."""
        self.top()
        self.shoot("empty")

    def open(self) -> None:
        """Open a scan that is unlike those of the model; then one that is not."""
        import nibabel as nib

        from napari_spatial_ar.imaging.samples import sample_path

        dock = self.dock
        cropped = self.home / "cropped.nii.gz"
        nib.save(nib.load(sample_path()).slicer[72:184, 64:192, :], cropped)
        self._open(cropped)
        self.wait(lambda: bool(dock.shift_note.text()))
        self.shoot("open")
        self.viewer.layers.clear()
        self._open(sample_path())
        self.wait(lambda: dock.domain_shift.shift is not None)

    def _open(self, path: Path) -> None:
        """Drop a file on the dock."""
        from qtpy.QtCore import QMimeData, QPointF, Qt, QUrl
        from qtpy.QtGui import QDropEvent

        mime = QMimeData()
        mime.setUrls([QUrl.fromLocalFile(str(path))])
        left, none = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
        copy = Qt.DropAction.CopyAction
        self.dock.dropEvent(QDropEvent(QPointF(5, 5), copy, mime, left, none))
        self.wait(lambda: self.dock.scan.layer is not None)

    def score(self) -> None:
        """Score half of the slices; then all of them."""
        dock = self.dock
        self.click(dock.volume_button)
        self.wait(lambda: dock.progress.value() >= 16 or not dock.running)
        self.shoot("scoring")
        self.wait(lambda: not dock.running and dock.masks.settled)
        self.click(dock.threshold.highest)
        self.viewer.reset_view()
        self.rest()

    def threshold(self) -> None:
        """Show the threshold in the histogram."""
        dock = self.dock
        self.click(dock.threshold.more.heading)
        self.shoot("threshold", dock.threshold)
        self.click(dock.threshold.more.heading)

    def findings(self) -> None:
        """Keep one finding, reject one."""
        dock = self.dock
        self.press("n")
        self.press("k")
        self.press("n")
        self.press("r")
        self.wait(lambda: dock.masks.settled)
        self.top()
        self.shoot("findings")

    def paint(self) -> None:
        """Draw a stroke of napari's brush on the mask layer."""
        dock = self.dock
        mask = dock.session.mask
        self.press("p")
        self.viewer.layers.selection = {mask}
        mask.mode, mask.brush_size = "paint", 10
        self.viewer.reset_view()
        self.rest()
        index = dock.session.geometry.display_index((dock.session.highest_slice, 0, 0))[0]
        self.drag([self.spot((index, 90 + step, 60 + step)) for step in range(0, 50, 2)])
        self.wait(lambda: dock.masks.settled)
        self.shoot("painting", dock.findings)
        mask.mode = "pan_zoom"
        self.viewer.layers.selection = {dock.scan.layer}

    def side_by_side(self) -> None:
        """Show the scan alone, and with its results."""
        self.press("g")
        self.rest()
        self.click(self.dock.display_panel.fold.heading)
        self.rest()
        self.shoot("side_by_side", self.dock.display_panel)
        self.click(self.dock.display_panel.fold.heading)
        self.press("g")

    def explain(self) -> None:
        """Explain the patch under the mouse."""
        from qtpy.QtTest import QTest

        panel = self.dock.explain
        self.press("q")
        voxel = (self.viewer.dims.current_step[0], 120, 110)
        self.viewer.cursor.position = tuple(self.dock.scan.layer.data_to_world(voxel))
        QTest.mouseMove(self.canvas, self.spot(voxel))
        self.wait(lambda: bool(panel.meaning.text()), 60)
        self.press("q")
        self.shoot("explain", panel)

    def export(self) -> None:
        """Write everything into a folder."""
        from napari.utils.notifications import notification_manager
        from qtpy.QtWidgets import QFileDialog

        target = self.home / "exported"
        target.mkdir()
        QFileDialog.getExistingDirectory = staticmethod(lambda *a, **k: str(target))
        told = len(notification_manager.records)
        self.click(self.dock.export.all_button)
        self.wait(lambda: len(notification_manager.records) > told)
        self.click(self.dock.export.fold.heading)
        self.rest()
        self.shoot("export", self.dock.export)

    def report(self) -> None:
        """Write a report, and open it in a browser."""
        from qtpy.QtWidgets import QFileDialog

        page = self.home / "report.html"
        QFileDialog.getSaveFileName = staticmethod(lambda *a, **k: (str(page), ""))
        self.click(self.dock.export.report_button)
        self.wait(page.exists)
        names = ("chromium-headless-shell", "chromium", "google-chrome")
        browser = next(filter(None, map(shutil.which, names)))
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--user-data-dir={self.home / 'browser'}", "--window-size=1000,1180"]
        command += [f"--screenshot={self.path('report')}", page.as_uri()]
        subprocess.run(command, check=True, capture_output=True)
        self.shrink(self.path("report"))

    def models(self) -> None:
        """Show the dialog of models, with the card of one."""
        from qtpy.QtWidgets import QApplication

        self.click(self.dock.library_button)
        (dialog,) = (w for w in QApplication.topLevelWidgets() if w.windowTitle() == "Models")
        dialog.resize(WIDTH, HEIGHT - 120)
        self.wait(lambda: not dialog.listing)
        self.rest(2)
        self.shoot("models", of=dialog)
        dialog.close()

    def training(self) -> None:
        """Show the Training dock with a folder that was checked."""
        from qtpy.QtCore import QMimeData, QPointF, Qt, QUrl
        from qtpy.QtGui import QDropEvent

        assert self.normals is not None, "--normals says which slices are normal"
        self.viewer.layers.clear()
        _, training = self.viewer.window.add_plugin_dock_widget("napari-spatial-ar", "Training")
        training.bring_to_front()
        # The dock shows the path.
        folder = Path(tempfile.gettempdir()) / "normal-slices"
        folder.symlink_to(self.normals.absolute(), target_is_directory=True)
        mime = QMimeData()
        mime.setUrls([QUrl.fromLocalFile(str(folder))])
        left, none = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
        copy = Qt.DropAction.CopyAction
        training.dropEvent(QDropEvent(QPointF(5, 5), copy, mime, left, none))
        self.wait(lambda: training.form.normals.summary is not None)
        self.rest(2)
        self.shoot("training")
        folder.unlink()

    def worklist(self) -> None:
        """Score the scans of a folder in the background."""
        dock = self.dock
        self._hush()
        self.viewer.layers.clear()
        folder = self._folder_of_scans()
        dock.show_worklist([str(folder)])
        rows = dock.worklist.rows
        self.wait(lambda: any(entry.state == "scored" for entry in rows.entries))
        self.wait(
            lambda: (
                not any(entry.state == "scoring" for entry in rows.entries)
                or (sum(entry.state == "scored" for entry in rows.entries) >= 2)
            )
        )
        key = next(entry.key for entry in rows.entries if entry.state == "scored")
        dock.worklist.table.choose(key)
        dock.worklist.controller.open(key)
        self.rest(2)
        self.wait(lambda: not dock.running and dock.masks.settled)
        self.top()
        self.shoot("worklist")
        dock.worklist.cancel()

    def archive(self) -> None:
        """Find a study in an archive, with a thumbnail of each of its series."""
        dialog = self._found()
        self.wait(lambda: len(dialog._known) == 2, 30)
        self.rest()
        self.shoot("archive", of=dialog)
        dialog.close()
        self._stop_archive()

    def send(self) -> None:
        """Open a series of an archive, score it, and send the results."""
        from qtpy.QtWidgets import QMessageBox

        dock, dialog = self.dock, self._found()
        self.click(dialog.open_button)
        self.wait(lambda: dock.scan.layer is not None)
        self.click(dock.volume_button)
        self.wait(lambda: not dock.running and dock.masks.settled)
        self.rest(2)
        self.click(dock.threshold.highest)
        self.shoot("send", dock.export)
        self.click(dock.export.send_button)
        dialog = dock.exporter.dialog
        self.wait(lambda: bool(dialog.choice.name))
        QMessageBox.question = staticmethod(lambda *a: QMessageBox.StandardButton.Yes)
        self.click(dialog.send_button)
        self.wait(lambda: dialog.answers.topLevelItemCount() > 0)
        self.shoot("send", of=dialog)
        dialog.close()
        self._stop_archive()

    def _found(self) -> Any:
        """Start an archive, and find all of its studies in the dialog."""
        from napari_spatial_ar.archive.saved import SavedArchive, save_archive

        subprocess.run([ORTHANC, "start", self.home / "orthanc"], check=True, capture_output=True)
        scans = self._dicom_scans()
        command = ["storescu", "+sd", "+r", "127.0.0.1", "4342", "-aec", "ORTHANC", scans]
        subprocess.run(command, check=True, capture_output=True)
        save_archive("Clinic", SavedArchive(url="http://127.0.0.1:8142/dicom-web"), overwrite=True)
        self._hush()
        self.viewer.layers.clear()
        self.dock.scan.opener.ask_archive(self.window)
        dialog = self.dock.scan.opener.archive
        self.wait(lambda: bool(dialog.choice.name))
        dialog.form.date.setCurrentText("20260101-")
        self.click(dialog.form.find_button)
        self.wait(lambda: bool(dialog.chosen))
        return dialog

    def _stop_archive(self) -> None:
        subprocess.run([ORTHANC, "stop", self.home / "orthanc"], check=True)

    def _dicom_scans(self) -> Path:
        """Write slices of the sample as DICOM, of patients that do not exist."""
        import nibabel as nib
        import numpy as np
        import pydicom
        from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

        from napari_spatial_ar.imaging.samples import sample_path

        folder = self.home / "dicom"
        if folder.exists():
            return folder
        folder.mkdir()
        voxels = np.asarray(nib.load(sample_path()).dataobj)
        patients = (
            ("Sample^Anna", "S-1001", "20260114", ("FLAIR axial", "FLAIR axial, fast")),
            ("Sample^Ben", "S-1002", "20260112", ("FLAIR axial",)),
            ("Sample^Carla", "S-1003", "20260107", ("FLAIR axial",)),
        )
        for name, patient, date, series in patients:
            study, frame = generate_uid(), generate_uid()
            for number, description in enumerate(series, 1):
                uid = generate_uid()
                for at, z in enumerate(range(12, 24, 1 if number == 1 else 2)):
                    made = pydicom.Dataset()
                    made.file_meta = pydicom.dataset.FileMetaDataset()
                    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
                    made.SOPClassUID, made.SOPInstanceUID = MRImageStorage, generate_uid()
                    made.StudyInstanceUID, made.SeriesInstanceUID = study, uid
                    made.FrameOfReferenceUID, made.StudyID = frame, "1"
                    made.PatientName, made.PatientID, made.PatientSex = name, patient, "O"
                    made.PatientBirthDate, made.AccessionNumber = "", f"A{patient[2:]}"
                    made.StudyDate, made.StudyTime = date, "101500"
                    made.StudyDescription, made.SeriesDescription = "MRI of the head", description
                    made.Modality, made.BodyPartExamined = "MR", "HEAD"
                    made.SeriesNumber, made.InstanceNumber = number, at + 1
                    made.ImageType = ["ORIGINAL", "PRIMARY"]
                    made.ImagePositionPatient = [-128, -128, 3.0 * z]
                    made.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
                    made.PixelSpacing, made.SliceThickness = [1, 1], 3
                    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
                    made.Rows, made.Columns = 256, 256
                    made.BitsAllocated, made.BitsStored, made.HighBit = 16, 12, 11
                    made.PixelRepresentation = 0
                    made.PixelData = voxels[:, :, z].T.astype("<u2").tobytes()
                    path = folder / f"{patient}-{number}-{at:02}.dcm"
                    pydicom.dcmwrite(path, made, enforce_file_format=True)
        return folder

    def _folder_of_scans(self) -> Path:
        """Write stacks of eight slices of the sample each, and a file that is cut short."""
        import nibabel as nib

        from napari_spatial_ar.imaging.samples import sample_path

        folder = self.home / "scans"
        folder.mkdir()
        whole = nib.load(sample_path())
        for at in range(3):
            part = whole.slicer[:, :, 8 * at + 4 : 8 * at + 12]
            nib.save(part, folder / f"stack-{at + 1}.nii.gz")
        data = sample_path().read_bytes()
        (folder / "cut-short.nii.gz").write_bytes(data[: len(data) // 3])
        return folder


def main() -> None:
    """Parse arguments and go."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "images")
    parser.add_argument("--theme", choices=("dark", "light"), default="dark")
    parser.add_argument("--only", choices=STEPS, action="append", default=[], metavar="NAME")
    parser.add_argument("--normals", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    home = apart()
    arguments.out.mkdir(parents=True, exist_ok=True)
    try:
        wanted = arguments.only or [n for n in STEPS if n != "training" or arguments.normals]
        together = [name for name in STEPS if name in wanted and name not in APART]
        for names in (together, *([name] for name in APART if name in wanted)):
            if names:
                Guide(arguments.out, home, arguments.theme, names, arguments.normals).go()
    finally:
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
