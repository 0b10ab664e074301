"""The command line: fit, score, evaluate and the rest, one scan or thousands.

Every command writes its result as JSON with ``--json FILE`` and exits with 0 (done), 1 (could
not), 2 (wrong use) or 130 (stopped with Ctrl+C). Errors are one sentence, never a traceback.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from napari_spatial_ar import __version__
from napari_spatial_ar.cli.archive import archive_app
from napari_spatial_ar.cli.data import data_app
from napari_spatial_ar.cli.evaluate import evaluation_app
from napari_spatial_ar.cli.fit import fit_app
from napari_spatial_ar.cli.models import models_app
from napari_spatial_ar.cli.options import print_message
from napari_spatial_ar.cli.pages import App, is_wide_terminal
from napari_spatial_ar.cli.score import score_app
from napari_spatial_ar.cli.speed import speed_app
from napari_spatial_ar.cli.weights import weights_app

__all__ = ["app", "main"]

_NAME = "napari-spatial-ar"
_COMPLETE = "_NAPARI_SPATIAL_AR_COMPLETE"  # variable for `_NAME` that typer's completion uses

app = App(
    name=_NAME,
    help="Show where an MRI, CT or OCT scan departs from normal. For research use, not for "
    "diagnosis.",
    no_args_is_help=True,
)
app.add_typer(data_app)
app.add_typer(score_app)
app.add_typer(fit_app)
app.add_typer(models_app, name="models", rich_help_panel="Models")
app.add_typer(weights_app, name="weights", rich_help_panel="Models")
app.add_typer(archive_app, name="archive", rich_help_panel="Scans")
app.add_typer(evaluation_app)
app.add_typer(speed_app)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", "-V", callback=_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    del version


def main() -> None:
    """Entry point of ``napari-spatial-ar``."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a console without UTF-8 shows ? instead
    app.rich_markup_mode = "rich" if is_wide_terminal() else None
    # typer's option takes the shell that it is run from; one may be named as well.
    option, *shell = sys.argv[1:3] or [""]
    if option == "--show-completion" and shell:
        os.environ[_COMPLETE] = f"source_{shell[0]}"
    try:
        app(prog_name=_NAME)
    except OSError as error:  # from printing help: commands report their own
        from napari_spatial_ar.imaging.files import storage_error

        print_message(f"error: {storage_error(error, 'standard output')}")
        sys.exit(1)
