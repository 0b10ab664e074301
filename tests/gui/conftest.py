"""A small model that keeps the contract of the real one, and scans in many orientations."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
from napari.components import ViewerModel
from napari.utils._proxies import PublicOnlyProxy
from napari.utils.notifications import Notification, notification_manager
from qtpy.QtCore import QEvent, QSettings
from qtpy.QtWidgets import QApplication

from napari_spatial_ar.gui import model_access
from napari_spatial_ar.gui.jobs import pool
from napari_spatial_ar.gui.layers import volume_layer_kwargs
from napari_spatial_ar.gui.review.dock import ReviewDock
from napari_spatial_ar.imaging.geometry import Geometry
from napari_spatial_ar.imaging.scan import Scan
from napari_spatial_ar.imaging.series import Series
from tests.fake_model import FakeModel

SHAPE = (12, 40, 36)
# Voxels of the bright box that stands for a lesion, as (z, y, x) slices of the source grid.
LESION = (slice(5, 8), slice(8, 16), slice(20, 30))


@dataclass(frozen=True)
class FakeInfo:
    name: str
    file: Path
    modality: str = "mri"
    backbone: str = "fake-backbone"
    method: str = "fake"
    summary: str = "9 slices of 3 patients"
    header: Any = None


@pytest.fixture(scope="session")
def lab() -> SimpleNamespace:
    """What several test modules make scans from."""
    return SimpleNamespace(
        shape=SHAPE,
        lesion=LESION,
        voxels=voxels,
        affine=affine,
        make_volume=make_volume,
        Model=FakeModel,
    )


@pytest.fixture(autouse=True)
def own_settings(tmp_path: Path) -> None:
    """What docks remember goes to this test's folder."""
    QSettings.setPath(
        QSettings.Format.IniFormat, QSettings.Scope.UserScope, str(tmp_path / "settings")
    )


@pytest.fixture
def notes() -> Iterator[list[str]]:
    """Messages shown to the user."""
    shown: list[str] = []

    def take(notification: Notification) -> None:
        shown.append(str(notification.message))

    notification_manager.notification_ready.connect(take)
    yield shown
    notification_manager.notification_ready.disconnect(take)


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, FakeModel]:
    """Models by name; what a test puts in is what the docks find."""
    known = {"fake": FakeModel()}
    monkeypatch.setattr(
        model_access, "list_models", lambda: [FakeInfo(name, tmp_path / name) for name in known]
    )
    monkeypatch.setattr(model_access, "load_model", lambda path: known[Path(path).name])
    monkeypatch.setattr(model_access, "weights_hint", lambda backbone, header=None: "")
    return known


def voxels() -> npt.NDArray[np.float32]:
    """Grey 20 everywhere, a lesion of 100."""
    data = np.full(SHAPE, 20, np.float32)
    data[LESION] = 100
    return data


def affine(codes: str, spacing: tuple[float, float, float], degrees: float = 0.0) -> Any:
    """Affine whose i, j, k grow towards the letters, turned about the z axis."""
    start = nib.orientations.axcodes2ornt("RAS")
    turn = nib.orientations.ornt_transform(start, nib.orientations.axcodes2ornt(codes))
    axes = np.zeros((3, 3))
    for world, (voxel, sign) in enumerate(turn):
        axes[world, int(voxel)] = sign
    angle = np.deg2rad(degrees)
    turned = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    made = np.eye(4)
    made[:3, :3] = turned @ axes @ np.diag(spacing)
    made[:3, 3] = -31.0, 17.0, 5.0
    return made


def make_volume(
    codes: str = "LPS", spacing: tuple[float, float, float] = (1.0, 1.5, 3.0), degrees: float = 0.0
) -> Scan:
    geometry = Geometry(SHAPE, affine(codes, spacing, degrees))
    return Scan(voxels(), geometry, "mri", Series("MR series 4"))


@pytest.fixture(scope="session", autouse=True)
def imports_uncollected() -> None:
    """Let the collections that go with each viewer leave out what was imported: it stays."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def bare_viewer(qtbot: Any) -> Iterator[ViewerModel]:
    """napari's viewer without its window, at a fifth of the time.

    It is enough for all that is read from layers, dims and the docks themselves.
    """
    yield ViewerModel()
    # Docks are taken apart here and now, not whenever Python collects them, which may be in a
    # worker: Qt does not outlive that.
    for widget in QApplication.topLevelWidgets():
        widget.close()
        widget.deleteLater()
    assert pool().waitForDone(10_000)
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    QApplication.processEvents()
    gc.collect()


@pytest.fixture
def dock(
    request: pytest.FixtureRequest, models: dict[str, FakeModel], qtbot: Any
) -> Callable[..., ReviewDock]:
    """Make a viewer with the Review dock and a scan; called with a volume or None.

    Without a ``window``, which ``show`` implies, the viewer is the bare one. As napari does, the
    dock is given a proxy of it, whose layers are not those of the viewer.
    """

    def make(
        volume: Scan | None = None, *, scan: bool = True, show: bool = False, window: bool = False
    ) -> ReviewDock:
        if show or window:
            viewer = request.getfixturevalue("make_napari_viewer")(show=show)
            made = ReviewDock(PublicOnlyProxy(viewer))
            viewer.window.add_dock_widget(made, name="Review")
        else:
            viewer = request.getfixturevalue("bare_viewer")
            made = ReviewDock(PublicOnlyProxy(viewer))
        if scan:
            viewer.add_image(**volume_layer_kwargs(volume or make_volume()))
        if models:
            qtbot.waitUntil(lambda: made.models.model is not None, timeout=20_000)
        return made

    return make


@pytest.fixture
def finish(qtbot: Any) -> Callable[[ReviewDock], None]:
    """Wait until scoring is over and the mask is up to date."""

    def wait(made: ReviewDock) -> None:
        qtbot.waitUntil(lambda: not made.running and made.masks.settled, timeout=20_000)

    return wait
