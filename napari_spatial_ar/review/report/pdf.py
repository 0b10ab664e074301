"""Reports as PDF: the page of `napari_spatial_ar.review.report.html`, set on paper by WeasyPrint.

WeasyPrint is the extra ``pdf``. Nothing is fetched: what a page shows is inside it.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

from napari_spatial_ar.errors import Cancelled, InputError

__all__ = ["PAPERS", "PDF_FILE", "Paper", "need_pdf", "pdf_of"]

Paper = Literal["A4", "Letter"]
PAPERS: tuple[Paper, ...] = get_args(Paper)
PDF_FILE = "report.pdf"

# Only what paper needs beyond the page's own print style. Columns have fixed widths in mm, the last
# one the rest of 186 mm: fitting them to their texts takes several times longer.
_STYLE = """
@page{size:%s;font-family:"DejaVu Sans","Segoe UI","Helvetica Neue",Arial,sans-serif}
body{font-size:9.5pt;margin:0;padding:0;max-width:none;
font-family:"DejaVu Sans","Segoe UI","Helvetica Neue",Arial,sans-serif}
table{font-size:8pt;table-layout:fixed}th,td{box-sizing:border-box;padding:.5mm .7mm;
overflow-wrap:break-word}
.findings{font-size:7.5pt}.n,.k{white-space:normal}.n{padding-right:2mm}
.facts th{width:38mm}.text{min-width:0;overflow-wrap:break-word}
%s
figure img{max-height:190mm}.thumb{max-height:18mm;max-width:100%%}
figure,tr,li,.warn,.use,.quiet{break-inside:avoid}
h1,h2,h3,summary,caption{break-after:avoid}h3{margin-top:4mm}
.each{display:none}details{break-before:page;border:0}
summary{font-weight:bold;font-size:12pt;list-style:none;bookmark-level:3;bookmark-label:content()}
h3{bookmark-level:4}a{color:inherit}
"""
_COLUMNS = {
    "findings": (7, 13, 29, 15, 16, 18, 13, 13, 16, 15),
    "scans": (8, 20, 54, 17, 15, 54),
}
_WIDTHS = "".join(
    f".{table} thead th:nth-child({number}){{width:{width}mm}}"
    for table, widths in _COLUMNS.items()
    for number, width in enumerate(widths, 1)
)

_LIBRARIES = {
    "linux": "on Debian and Ubuntu: apt-get install libpango-1.0-0 libpangoft2-1.0-0",
    "darwin": "with Homebrew: brew install pango",
    "win32": "with MSYS2: pacman -S mingw-w64-ucrt-x86_64-pango",
}

# The check for cancellation at each step is global, and two reports at a time would not be faster.
_one_at_a_time = threading.Lock()


def need_pdf() -> None:
    """Check that a PDF can be written, before any work is done for it.

    Raises
    ------
    InputError
        If WeasyPrint or a system library that it loads is missing; states what to install.
    """
    _weasyprint()


def pdf_of(page: str, *, paper: Paper = "A4", stopped: Callable[[], bool] = lambda: False) -> bytes:
    """Render a report on paper.

    Parameters
    ----------
    page : str
        From `scan_page` or `folder_page`.
    paper : {"A4", "Letter"}
        Its size.
    stopped : callable
        Returns whether to stop; called before each page.

    Returns
    -------
    bytes
        The PDF file. Each page has its number, the number of pages and the sentence on research
        use; each scan of a folder starts on a new page, and has a bookmark.

    Raises
    ------
    InputError
        As for `need_pdf`.
    Cancelled
        If it was stopped.
    """
    weasyprint = _weasyprint()
    style = f"<style>{_STYLE % (paper, _WIDTHS)}</style></head>"
    with _one_at_a_time, _asked_at_each_step(stopped):
        document = weasyprint.HTML(
            string=page.replace("</head>", style, 1),
            base_url="about:blank",  # no URL in a page is relative
            url_fetcher=_fetcher(weasyprint),
        )
        made: bytes = document.write_pdf(pdf_tags=True)
    if stopped():
        raise _cancelled()
    return made


def _cancelled() -> Cancelled:
    return Cancelled("the report was cancelled")


def _fetcher(weasyprint: Any) -> Any:
    """Return a fetcher that reads ``data:`` URLs and refuses all others, which are omitted."""

    class DataOnly(weasyprint.urls.URLFetcher):  # type: ignore[misc]
        def fetch(self, url: str, headers: Any = None) -> Any:
            if url[:5].lower() != "data:":
                raise ValueError("A report loads nothing from outside of it.")
            return super().fetch(url, headers)

    return DataOnly(allowed_protocols=("data",), allow_redirects=False)


class _Stopper(logging.Handler):
    """Stops the work where it reports progress: WeasyPrint has no other way to be stopped."""

    def __init__(self, stopped: Callable[[], bool]) -> None:
        super().__init__()
        self._stopped = stopped

    def emit(self, record: logging.LogRecord) -> None:
        if self._stopped():
            raise _cancelled()


@contextlib.contextmanager
def _asked_at_each_step(stopped: Callable[[], bool]) -> Iterator[None]:
    """Raise `Cancelled` at the next step (each page is one) once it is stopped."""
    logger, handler = logging.getLogger("weasyprint.progress"), _Stopper(stopped)
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


def _weasyprint() -> Any:
    """Import it (`InputError` if that fails)."""
    # HarfBuzz-Subset is only preferred; advice is printed if it is missing.
    warnings.filterwarnings("ignore", "HarfBuzz-Subset will be required", DeprecationWarning)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            import weasyprint
            import weasyprint.urls
    except ImportError as error:
        raise InputError(
            "a PDF needs WeasyPrint, which is not installed",
            fix='Install it with: pip install "napari-spatial-ar[pdf]"',
        ) from error
    except OSError as error:
        how = _LIBRARIES.get(sys.platform, "through your system's packages")
        raise InputError(
            "a PDF needs the system's library Pango, which is not installed",
            fix=f"Install it, {how}",
        ) from error
    return weasyprint
