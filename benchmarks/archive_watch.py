"""Whether `archive watch` scores and stores each study once, whatever is killed meanwhile.

python benchmarks/archive_watch.py [--studies 50] [--protocol web|dimse]... [--json FILE]

Needs the Debian packages orthanc and orthanc-dicomweb. A small model is fitted on generated slices,
and generated studies are sent to an Orthanc on loopback. The command `archive watch` scores them
and sends segmentations, report and captures back. Meanwhile, with SIGKILL,

- the server is killed twice while the results of a study are being stored, and once between two
  studies, and is started again after three seconds;
- the watch is killed once while results are being stored, and once while a study is being scored,
  and is started again.

Then everything is fetched from the server and compared with the files of the watch. It ends with
status 1 unless each study was scored once, and each of its results is stored once, with all its
instances and as it was sent.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import requests
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

ROOT = Path(__file__).resolve().parents[1]
HTTP, DICOM = 18143, 14343
SERVER = f"http://127.0.0.1:{HTTP}"
URLS = {"web": f"{SERVER}/dicom-web", "dimse": f"dicom://ORTHANC@127.0.0.1:{DICOM}"}
SLICES, SIDE = 3, 64
PROGRAM = [sys.executable, "-m", "napari_spatial_ar"]
# Nothing takes so long.
_LONGEST_SECONDS = 1200


def write_study(folder: Path, patient: str, seed: int, *, lesion: bool) -> None:
    """Write one series of a head of noise; with a lesion, a brighter box is in it."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    across = np.linspace(-1, 1, SIDE)
    head = np.hypot(across[:, None] / 0.9, across[None] / 0.75) < 1
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    for z in range(SLICES):
        voxels = head * (600 + 60 * random.standard_normal((SIDE, SIDE)))
        if lesion:
            y, x = 14 + seed % 16, 18 + seed % 12
            voxels[y : y + 18, x : x + 16] = 700
        one = pydicom.Dataset()
        one.file_meta = pydicom.dataset.FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = MRImageStorage
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        one.StudyInstanceUID, one.SeriesInstanceUID, one.FrameOfReferenceUID = study, series, frame
        one.PatientName, one.PatientID, one.PatientBirthDate = f"Sample^{patient}", patient, ""
        one.PatientSex, one.ReferringPhysicianName, one.AccessionNumber = "", "", patient
        one.StudyID, one.StudyDate, one.StudyTime = "1", "20260114", "101500"
        one.Modality, one.SeriesNumber, one.InstanceNumber = "MR", 3, z + 1
        one.ImageType, one.BodyPartExamined = ["ORIGINAL", "PRIMARY", "M"], "BRAIN"
        one.ImagePositionPatient = [-SIDE / 2, -SIDE / 2, 4.0 * z]
        one.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        one.PixelSpacing, one.SliceThickness = [1.0, 1.0], 4.0
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.Rows = one.Columns = SIDE
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 12, 11, 0
        one.PixelData = np.clip(voxels, 0, 4095).astype("<u2").tobytes()
        pydicom.dcmwrite(folder / f"{z}.dcm", one, enforce_file_format=True)


def command(*words: object) -> None:
    """Run a command of the package."""
    done = subprocess.run([*PROGRAM, *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words[:2]))} failed:\n{done.stderr}")


def fitted(folder: Path) -> Path:
    """Fit a model in less than a minute."""
    for number in range(8):
        write_study(folder / "normal" / str(number), f"N-{number}", number, lesion=False)
    words = ["--modality", "mri", "--backbone", "dinov2_vits14_focus", "--method", "spatial-ar"]
    words += ["--epochs", 2, "--size", 112, "--dilation", 1, "--batch-size", 4, "--device", "cpu"]
    command("fit", folder / "normal", "--out", folder / "model", *words)
    return folder / "model"


@dataclass
class Server:
    """An Orthanc that can be killed."""

    folder: Path

    def start(self) -> None:
        """Start it, with all that it has stored."""
        ports = ["--http", str(HTTP), "--dicom", str(DICOM)]
        script = str(ROOT / "scripts" / "orthanc.sh")
        subprocess.run([script, "start", str(self.folder), *ports], check=True, capture_output=True)

    def kill(self) -> None:
        """Kill it as a crash would."""
        os.kill(int((self.folder / "pid").read_text()), signal.SIGKILL)

    def stop(self) -> None:
        """Stop it, if it runs."""
        script = str(ROOT / "scripts" / "orthanc.sh")
        subprocess.run([script, "stop", str(self.folder)], check=True)

    def count(self) -> int:
        """Instances that it has."""
        return int(requests.get(f"{SERVER}/statistics", timeout=30).json()["CountInstances"])


@dataclass
class Run:
    """A run of `archive watch`, killed and started again."""

    server: Server
    ledger: Path
    studies: int
    words: list[str] = field(default_factory=list)
    process: subprocess.Popen[str] | None = None
    #: Versions of each record of a scored scan: it is written last, when all results are.
    records: dict[Path, set[tuple[int, str]]] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)

    def start(self) -> None:
        """Start the watch."""
        with open(self.ledger.with_suffix(".log"), "a") as log:
            self.process = subprocess.Popen(
                [*PROGRAM, *self.words], stdout=log, stderr=subprocess.STDOUT, text=True
            )

    def kill(self) -> None:
        """Kill the watch as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def states(self) -> Counter[str]:
        """How many series are in each state."""
        found: Counter[str] = Counter()
        for path in (self.ledger / "ledger").glob("[0-9a-f]*.json"):
            with open(path, "rb") as file:
                found[json.load(file)["state"]] += 1
        return found

    def look(self) -> None:
        """Note every record of a scored scan that is there, or is another one than before."""
        for path in (self.ledger / "results").glob("*/*/provenance.json"):
            try:
                data = path.read_bytes()
            except OSError:
                continue
            version = path.stat().st_ino, hashlib.sha256(data).hexdigest()
            self.records.setdefault(path, set()).add(version)

    def until(self, reached: Callable[[], bool], pause: float = 0.02) -> None:
        """Wait until something is so."""
        end = time.monotonic() + _LONGEST_SECONDS
        while not reached():
            self.look()
            if time.monotonic() > end or (self.process and self.process.poll() is not None):
                raise SystemExit(f"the watch ended or hangs, see {self.ledger}.log")
            time.sleep(pause)

    def until_sent(self, more: int) -> None:
        """Wait until the results of some more studies are stored."""
        goal = self.states()["sent"] + more
        self.until(lambda: self.states()["sent"] >= goal)

    def until_storing(self) -> None:
        """Wait until some results of a study, and not all, are stored."""
        self.until(lambda: self.states()["scored"] == 0, 0.001)
        self.until(lambda: self.states()["scored"] > 0, 0.001)
        before = self.server.count()
        self.until(lambda: self.server.count() > before, 0.0)

    def half_stored(self) -> list[int]:
        """Count the stored objects, and all, of the study whose results were being stored."""
        for path in (self.ledger / "ledger").glob("[0-9a-f]*.json"):
            if json.loads(path.read_bytes())["state"] == "scored":
                uids = [
                    str(pydicom.dcmread(one, stop_before_pixels=True).SOPInstanceUID)
                    for one in (self.ledger / "results" / path.stem).rglob("*.dcm")
                ]
                stored = sum(bool(looked_up(uid)) for uid in uids)
                return [stored, len(uids)]
        return [0, 0]

    def note(self, what: str) -> None:
        """Note what was killed, and how far the study was whose results were being stored."""
        self.events.append({"killed": what, "stored_of_its_study": self.half_stored()})
        sys.stderr.write(f"{self.events[-1]}\n")


def looked_up(uid: str) -> list[str]:
    """Orthanc's own names of an instance."""
    found: list[Any] = requests.post(f"{SERVER}/tools/lookup", data=uid, timeout=30).json()
    return [one["ID"] for one in found if one["Type"] == "Instance"]


def run(protocol: str, studies: int, model: Path, work: Path) -> dict[str, Any]:
    """Watch, kill and compare; returns what was found."""
    server = Server(work / "orthanc")
    server.start()
    watch = Run(server, ledger=work / "ledger", studies=studies)
    try:
        for number in range(studies):
            folder = work / "source" / str(number)
            write_study(folder, f"S-{number}", 100 + number, lesion=True)
        url = URLS[protocol]
        command("archive", "send", url, work / "source")
        words = ["archive", "watch", url, "--to", url, "--model", str(model)]
        words += ["--ledger", str(work / "ledger"), "--modality", "MR", "--outside-domain"]
        words += ["--dicom-objects", "seg,pm,sr,capture", "--fpr", "0.05", "--device", "cpu"]
        words += ["--interval", "1", "--settle", "0", "--timeout", "10"]
        watch.words = words
        began = time.monotonic()
        broken(watch)
        watch.until(lambda: watch.states()["sent"] == studies)
        seconds = time.monotonic() - began
        watch.look()
        assert watch.process is not None
        watch.process.send_signal(signal.SIGTERM)
        status = watch.process.wait(60)
        # Once more, from a fresh process: there is nothing left to do.
        before = server.count()
        command(*words, "--once")
        watch.look()
        compared = compare(watch, work / "source")
        compared |= {"stored_by_another_run": server.count() - before, "exit_status": status}
    finally:
        watch.kill()
        server.stop()
    return {"protocol": protocol, "s": round(seconds, 1), "killed": watch.events, **compared}


def broken(watch: Run) -> None:
    """Kill the server and the watch at the moments that matter."""
    server = watch.server

    def server_killed(what: str) -> None:
        server.kill()
        time.sleep(3)
        server.start()
        watch.note(what)

    watch.start()
    watch.until_sent(5)
    watch.until_storing()
    server_killed("server, while results were being stored")
    watch.until_sent(5)
    watch.until_storing()
    watch.kill()
    watch.note("watch, while results were being stored")
    watch.start()
    watch.until_sent(5)
    watch.until(lambda: watch.states()["scored"] == 0, 0.001)
    server_killed("server, between two studies")
    watch.until_sent(5)
    watch.until(lambda: any((watch.ledger / "series").glob("[0-9a-f]*")), 0.001)
    watch.kill()
    watch.note("watch, while a study was being scored")
    watch.start()
    watch.until_sent(5)
    watch.until_storing()
    server_killed("server, while results were being stored")


def compare(watch: Run, source: Path) -> dict[str, Any]:
    """Fetch everything from the server, and compare it with the files of the watch."""
    stored: dict[str, Counter[str]] = {}
    different = 0
    ours = {}
    for path in (*source.rglob("*.dcm"), *(watch.ledger / "results").rglob("*.dcm")):
        one = pydicom.dcmread(path)
        ours[str(one.SOPInstanceUID)] = one
    reports: Counter[str] = Counter()
    ids = requests.get(f"{SERVER}/instances", timeout=60).json()
    for name in ids:
        data = requests.get(f"{SERVER}/instances/{name}/file", timeout=60).content
        one = pydicom.dcmread(BytesIO(data))
        uid = str(one.SOPInstanceUID)
        stored.setdefault(str(one.SeriesInstanceUID), Counter())[uid] += 1
        different += uid not in ours or ours[uid] != one
        reports[str(one.StudyInstanceUID)] += one.Modality == "SR"
    expected: dict[str, set[str]] = {}
    for uid, one in ours.items():
        expected.setdefault(str(one.SeriesInstanceUID), set()).add(uid)
    times_scored = Counter(len(versions) for versions in watch.records.values())
    return {
        "studies": watch.studies,
        "studies_scored": len(watch.records),
        "times_scored": {str(times): many for times, many in sorted(times_scored.items())},
        "ledger": dict(watch.states()),
        "objects_of_results": len(ours) - watch.studies * SLICES,
        "instances_in_archive": len(ids),
        "series_in_archive": len(stored),
        "series_with_all_their_instances_once": sum(
            counted == Counter(expected.get(uid, ())) for uid, counted in stored.items()
        ),
        "series_missing": len(expected.keys() - stored.keys()),
        "instances_that_differ": different,
        "studies_with_one_report": sum(many == 1 for many in reports.values()),
    }


def is_right(result: dict[str, Any]) -> bool:
    """Whether each study was scored once, and all results are stored once."""
    n = result["studies"]
    return (
        result["times_scored"] == {"1": n}
        and result["ledger"] == {"sent": n}
        and result["instances_in_archive"] == result["objects_of_results"] + n * SLICES
        and result["series_with_all_their_instances_once"] == result["series_in_archive"]
        and not result["series_missing"]
        and not result["instances_that_differ"]
        and result["studies_with_one_report"] == n
        and result["stored_by_another_run"] == result["exit_status"] == 0
    )


def main() -> None:
    """Read the arguments and run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", type=int, default=50)
    parser.add_argument("--protocol", choices=list(URLS), action="append")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        # Nothing of the user's is read or written, but the backbone comes with the package.
        os.environ["NAPARI_SPATIAL_AR_HOME"] = str(Path(work, "home"))
        model = fitted(Path(work))
        runs = []
        for protocol in args.protocol or list(URLS):
            Path(work, protocol).mkdir()
            runs.append(run(protocol, args.studies, model, Path(work, protocol)))
    for one in runs:
        one["each_scored_and_stored_once"] = is_right(one)
    result = {
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "each_study": f"{SLICES} generated slices of {SIDE} x {SIDE}",
        "model": "spatial-ar on dinov2_vits14_focus, 112 x 112",
        "runs": runs,
    }
    text = json.dumps(result, indent=2) + "\n"
    sys.stdout.write(text)
    if args.json is not None:
        args.json.write_text(text)
    if not all(one["each_scored_and_stored_once"] for one in runs):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
