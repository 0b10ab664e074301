"""Time and memory of retrieving a generated CT series of 500 slices from Orthanc.

python benchmarks/archive_retrieval.py [--slices 500] [--rounds 7] [--json FILE]

Needs the Debian packages orthanc and orthanc-dicomweb. The series is that of `stream_ct.py` (a body
with lungs, spine and noise, 512 x 512 voxels, 16 bits, uncompressed). It is retrieved from a server
on loopback, in turns,

- by plain `requests`: WADO-RS of the series, its body written to one file as it is;
- by the package over DICOMweb: found, listed, each instance checked and in a file of its own, the
  folder renamed once all are there;
- by the package over DIMSE (C-GET), the same;

each time in a process of its own, which also tells its largest resident memory. A ratio is that of
medians of one run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
HTTP, DICOM = 18142, 14342
WEB = f"http://127.0.0.1:{HTTP}/dicom-web"
DIMSE = f"dicom://ORTHANC@127.0.0.1:{DICOM}"


def peak_mb() -> int:
    """Largest resident memory of this process so far, MB (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (line for line in lines if line.startswith("VmHWM"))
    return round(int(peak.split()[1]) * 1024 / 1e6)


def plain(url: str, study: str, series: str, out: Path) -> int:
    """Retrieve a series as curl would: one request, its body into one file."""
    import requests

    accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
    address = f"{url}/studies/{study}/series/{series}"
    size = 0
    with requests.get(address, headers={"Accept": accept}, stream=True, timeout=60) as answer:
        answer.raise_for_status()
        with open(out / "body", "wb") as file:
            for piece in answer.iter_content(1 << 17):
                file.write(piece)
                size += len(piece)
    return size


def packaged(url: str, study: str, series: str, out: Path) -> int:
    """Retrieve it by the package."""
    from napari_spatial_ar.archive.opening import open_archive
    from napari_spatial_ar.archive.retrieval import get_series, the_series
    from napari_spatial_ar.steps import finish

    archive = open_archive(url)
    got = finish(get_series(archive, the_series(archive, series, study), out))
    return sum(path.stat().st_size for path in got.folder.iterdir())


def once(way: str, study: str, series: str, out: Path) -> dict[str, Any]:
    """Retrieve in this process; imports are not counted."""
    if way == "plain":
        import requests as _  # noqa: F401

        retrieve, url = plain, WEB
    else:
        from napari_spatial_ar.archive import dicomweb as _web  # noqa: F401
        from napari_spatial_ar.archive import dimse as _dimse  # noqa: F401

        retrieve, url = packaged, WEB if way == "web" else DIMSE
    before = peak_mb()
    start = time.perf_counter()
    size = retrieve(url, study, series, out)
    seconds = time.perf_counter() - start
    return {"s": seconds, "bytes": size, "peak_mb": peak_mb(), "peak_mb_before": before}


def in_process(way: str, study: str, series: str) -> dict[str, Any]:
    """Retrieve in a process of its own."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, __file__, "--once", way, study, series, out]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Median time and largest memory of some retrievals."""
    seconds = [one["s"] for one in found]
    return {
        "s": round(statistics.median(seconds), 3),
        "s_least_and_most": [round(min(seconds), 3), round(max(seconds), 3)],
        "peak_mb": max(one["peak_mb"] for one in found),
        "peak_mb_before": max(one["peak_mb_before"] for one in found),
    }


def main() -> None:
    """Parse arguments, measure, report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slices", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--once", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.once:
        way, study, series, out = args.once
        sys.stdout.write(json.dumps(once(way, study, series, Path(out))))
        return
    from stream_ct import write_ct

    from napari_spatial_ar.archive.opening import open_archive
    from napari_spatial_ar.archive.sending import files_to_send, send
    from napari_spatial_ar.steps import finish

    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as work:
        source, server = Path(work, "source"), Path(work, "orthanc")
        source.mkdir()
        write_ct(source, args.slices, 512)
        orthanc = str(ROOT / "scripts" / "orthanc.sh")
        ports = ["--http", str(HTTP), "--dicom", str(DICOM)]
        subprocess.run([orthanc, "start", str(server), *ports], check=True, capture_output=True)
        try:
            files = files_to_send([source]).files
            start = time.perf_counter()
            finish(send(open_archive(WEB), files))
            sent = time.perf_counter() - start
            ids = files[0].study_uid, files[0].series_uid
            found: dict[str, list[dict[str, Any]]] = {"plain": [], "web": [], "dimse": []}
            for _ in range(args.rounds):
                for way, results in found.items():
                    results.append(in_process(way, *ids))
        finally:
            subprocess.run([orthanc, "stop", str(server)], check=True)
    ways = {way: summary(results) for way, results in found.items()}
    result = {
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "load_average_at_start": round(load, 2),
        "series": f"{args.slices} generated slices of 512 x 512, 16 bits, uncompressed",
        "mb": round(found["web"][0]["bytes"] / 1e6, 1),
        "rounds": args.rounds,
        "plain_requests": ways["plain"],
        "dicomweb": ways["web"],
        "dimse": ways["dimse"],
        "dicomweb_times_plain": round(ways["web"]["s"] / ways["plain"]["s"], 2),
        "dimse_times_plain": round(ways["dimse"]["s"] / ways["plain"]["s"], 2),
        "send_by_dicomweb_s": round(sent, 2),
    }
    text = json.dumps(result, indent=2) + "\n"
    sys.stdout.write(text)
    if args.json is not None:
        args.json.write_text(text)


if __name__ == "__main__":
    main()
