"""Fixtures and settings for every test.

Tests never touch the user's files or the network: everything that a library would keep in the
user's home goes to a folder of this run, which is removed afterwards. The variables are set here,
at import, because napari reads its own when its settings are first imported.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from napari_spatial_ar.paths import user_models_dir, weights_dir
from tests.browser import Browser, start

pytest_plugins = ["tests.scans", "tests.tiny"]

REPO_ROOT = Path(__file__).resolve().parents[1]
# Where they were before this home: processes that pytest starts are born with it.
FOCUS_WEIGHTS = Path(
    os.environ.setdefault(
        "NAPARI_SPATIAL_AR_TESTS_WEIGHTS",
        str(weights_dir() / "dinov2_vits14_focus.safetensors"),
    )
)

_HOME = Path(tempfile.mkdtemp(prefix="napari-spatial-ar-tests-"))
os.environ.update(
    HOME=str(_HOME),
    XDG_CACHE_HOME=str(_HOME / "cache"),
    XDG_CONFIG_HOME=str(_HOME / "config"),
    XDG_DATA_HOME=str(_HOME / "data"),
    XDG_STATE_HOME=str(_HOME / "state"),
    NAPARI_CONFIG=str(_HOME / "napari" / "settings.yaml"),
    NAPARI_SPATIAL_AR_HOME=str(_HOME / "napari-spatial-ar"),
    HF_HOME=str(_HOME / "huggingface"),
    HF_HUB_OFFLINE="1",
    # What tests compare must not depend on which engine is faster on the machine at hand.
    NAPARI_SPATIAL_AR_ENGINE="float32",
)


def pytest_configure(config: pytest.Config) -> None:
    """Let pytest-qt take the binding that qtpy takes: QT_API where set, else the one installed."""
    if "PYTEST_QT_API" not in os.environ:
        import qtpy

        os.environ["PYTEST_QT_API"] = qtpy.API


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove this run's home."""
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture(autouse=True)
def no_models_left() -> Iterator[None]:
    """Remove the models that a test put among the user's: others list them."""
    before = _models()
    yield
    for left in _models() - before:
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink()


def _models() -> set[Path]:
    folder = user_models_dir()
    return set(folder.iterdir()) if folder.is_dir() else set()


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test that opens a network connection, to this machine too."""
    connect = socket.socket.connect

    def connect_here(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            self.close()
            pytest.fail(f"a test reached for the network: {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_here)


@pytest.fixture(params=["on", "off"])
def bfloat16(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let the processor have bfloat16, and not, whatever it has."""
    monkeypatch.setenv("NAPARI_SPATIAL_AR_BFLOAT16", request.param)
    return str(request.param)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real scans kept beside a developer's checkout; the test is skipped without it."""
    folder = REPO_ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real scans beside this checkout: {folder} is not there")
    return folder


@pytest.fixture(scope="session")
def focus_weights() -> Path:
    """Weights that those of the package are a rounded cut of; skipped where not pulled."""
    if not FOCUS_WEIGHTS.is_file():
        pytest.skip("run 'napari-spatial-ar weights pull dinov2_vits14_focus' first")
    return FOCUS_WEIGHTS


@pytest.fixture(scope="session")
def one_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A headless Chromium, started once; the test is skipped where none is installed."""
    with start(tmp_path_factory.mktemp("browser")) as started:
        yield started


@pytest.fixture
def browser(one_browser: Browser) -> Browser:
    """A browser that has heard of nothing yet, with a window of a usual size."""
    one_browser.forget()
    return one_browser
