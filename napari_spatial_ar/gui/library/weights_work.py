"""What the dialogs of weights do in workers; torch is imported here, when it is first needed."""

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
    """How many bytes have arrived, of how many: written by one thread and read by another."""

    def __init__(self) -> None:
        self.done = self.total = 0

    def put(self, done: int, total: int) -> None:
        """Take what the download tells."""
        self.done, self.total = done, total


def measure(name: str) -> Work:
    """Make a task that gives about how many bytes the weights of a backbone take."""

    def work(stop: threading.Event) -> Run:
        from napari_spatial_ar.normative.backbones.backbone import weights_bytes
        from napari_spatial_ar.normative.backbones.weights import spec_of

        yield
        return weights_bytes(spec_of(name))

    return work


def fetch(name: str, token: str, keep: bool, arrived: Arrived) -> Work:
    """Make a task that fetches weights and gives where they are; None where it was stopped.

    Parameters
    ----------
    name : str
        The backbone.
    token : str
        Of the model hub; "" for the one that its client keeps.
    keep : bool
        Hand the token to the hub's client, to be kept, once it has served.
    arrived : Arrived
        Is told how far it is.
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
    """Let the hub's client keep a token where it keeps its own."""
    import huggingface_hub

    huggingface_hub.login(token=token, skip_if_logged_in=False)


def add(source: Path, name: str, overrides: dict[str, Any], overwrite: bool) -> Work:
    """Make a task that adds weights and gives the backbone's name; see `weights.add`.

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
            source, name, said=BackboneOverrides(**overrides), overwrite=overwrite
        ).stem

    return work
