"""Workers of the dialogs of weights; torch is imported here, on first use."""

from __future__ import annotations

import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

from napari_spatial_ar.errors import Cancelled
from napari_spatial_ar.gui.jobs import Work

__all__ = ["Arrived", "add", "fetch", "measure"]

Run = Generator[None, None, object]


class Arrived:
    """How many bytes have been downloaded, of how many: written in one thread, read in another."""

    def __init__(self) -> None:
        self.done = self.total = 0

    def put(self, done: int, total: int) -> None:
        """Record the progress of the download."""
        self.done, self.total = done, total


def measure(name: str) -> Work:
    """Make a task that returns the approximate size of a backbone's weights in bytes."""

    def work(stop: threading.Event) -> Run:
        from napari_spatial_ar.normative.backbones.backbone import weights_bytes
        from napari_spatial_ar.normative.backbones.weights import spec_of

        yield
        return weights_bytes(spec_of(name))

    return work


def fetch(name: str, token: str, keep: bool, arrived: Arrived) -> Work:
    """Make a task that downloads weights and returns their location; None if it was stopped.

    Parameters
    ----------
    name : str
        The backbone.
    token : str
        Token of the model hub; "" for the one stored by its client.
    keep : bool
        Pass the token to the hub's client for storage, once it has worked.
    arrived : Arrived
        Records the progress.
    """

    def work(stop: threading.Event) -> Run:
        from napari_spatial_ar.normative.backbones.weights import pull

        def report(done: int, total: int) -> None:
            if stop.is_set():
                raise Cancelled("stopped")
            arrived.put(done, total)

        yield
        try:
            source = pull(name, progress=report, token=token or None)
        except Cancelled:
            return None
        if token and keep:
            _keep(token)
        return source

    return work


def _keep(token: str) -> None:
    """Store a token where the hub's client keeps its own."""
    import huggingface_hub

    huggingface_hub.login(token=token, skip_if_logged_in=False)


def add(source: Path, name: str, overrides: dict[str, Any], overwrite: bool) -> Work:
    """Make a task that adds weights and returns the backbone's name; see `weights.add`.

    Parameters
    ----------
    source : Path
        A file or folder.
    name : str
        One of the known backbones, or a name of the user's own.
    overrides : dict
        Arguments of `BackboneOverrides`.
    overwrite : bool
        Whether another backbone of this name may be replaced.
    """

    def work(stop: threading.Event) -> Run:
        from napari_spatial_ar.normative.backbones.weights import BackboneOverrides
        from napari_spatial_ar.normative.backbones.weights import add as add_weights

        yield
        return add_weights(
            source, name, overrides=BackboneOverrides(**overrides), overwrite=overwrite
        ).stem

    return work
