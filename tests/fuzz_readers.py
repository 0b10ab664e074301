"""Damaged files of every format, for as long as asked: no crash, no hang, no silent change.

    python -m tests.fuzz_readers --minutes 60 --json fuzz.json
    python -m tests.fuzz_readers --only 123456      # one case again, with its traceback

A case is a number: the same number damages the same sample in the same way. Each is read in a
process of its own kind, which may die, hang or run out of memory without taking the run along.
Where a file carries a checksum, damage has to be refused; a slice that is lost has to be named.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import io
import json
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import tifffile
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from napari_spatial_ar.errors import SpatialARError

SECONDS = 20
MEMORY_BYTES = 6 * 2**30
BATCH = 400
# Where what a checksum covers begins, in files that carry one.
CHECKED_FROM = {
    "nifti.gz": b"",
    "grey.png": b"",
    "colour.png": b"",
    "nrrd": b"\n\n",
    "mha": b"LOCAL\n",
}


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


@dataclass(frozen=True)
class Sample:
    """A whole file or folder, as names and contents, and the name that is opened ("" for all)."""

    name: str
    files: dict[str, bytes]
    opened: str = ""
    kind: str = "scan"


def _pixels(depth: int = 5) -> np.ndarray:
    noise = np.random.default_rng(1).integers(0, 60, (depth, 48, 40))
    ramp = 100 * np.arange(depth)[:, None, None] + 10 * np.arange(48)[None, :, None]
    return (noise + ramp).astype(np.int16)


def _dicom(pixels: np.ndarray, k: int, syntax: str | None = None, **tags: Any) -> bytes:
    from tests.scans import build_image

    dataset: Dataset = build_image(
        pixels,
        ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
        ImagePositionPatient=[1, 2, 3 + 2 * k],
        PixelSpacing=[1, 2],
        SliceThickness=2,
        InstanceNumber=k + 1,
        WindowCenter=40,
        WindowWidth=80,
        **tags,
    )
    if syntax == DeflatedExplicitVRLittleEndian:
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    elif syntax:
        dataset.compress(syntax, generate_instance_uid=False)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def _codecs() -> dict[str, bytes]:
    """A slice in each compression that other libraries have to write."""
    from tests.imaging.dicom import test_codecs as codecs
    from tests.scans import build_image

    files = {}
    for name, syntax in {**codecs.SYNTAXES, "jpeg-extended": codecs.JPEGExtended12Bit}.items():
        twin = codecs.pixels(12, 0)
        if name == "jpeg-extended":
            twin = np.zeros((16, 24), np.uint16)
        frame = base64.b64decode(codecs.FRAMES[f"{name} 12 0"])
        dataset = codecs.packed(codecs.image(build_image, twin, 12, 0), [frame], syntax)
        buffer = io.BytesIO()
        pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
        files[name] = buffer.getvalue()
    return files


def _saved(write: Callable[[Path], Any], name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder, name))
        return Path(folder, name).read_bytes()


def _itk(name: str, packed: bool) -> bytes:
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(_pixels())
    return _saved(lambda p: sitk.WriteImage(image, str(p), useCompression=packed), name)


def _model() -> bytes:
    import napari_spatial_ar

    released = Path(napari_spatial_ar.__file__).parents[1] / "models"
    # The smaller part of a file of megabytes is its header: most damage goes there.
    return (released / "brain-flair-change" / "model.safetensors").read_bytes()


def make_samples() -> list[Sample]:
    """One of each kind of file that the product opens."""
    from tests.imaging.test_oct_formats import e2e, topcon, vol

    pixels = _pixels()
    nifti = nib.Nifti1Image(pixels.T, np.diag([-2.0, 1.0, 2.0, 1.0])).to_bytes()
    colour = np.repeat((pixels[0] % 256).astype(np.uint8)[..., None], 3, axis=2)
    series = {f"{k}.dcm": _dicom(p, k) for k, p in enumerate(pixels)}
    packed = {
        f"{k}.dcm": _dicom(p, k, RLELossless if k % 2 else JPEG2000Lossless)
        for k, p in enumerate(pixels)
    }
    deflated = {
        f"{k}.dcm": _dicom(p, k, DeflatedExplicitVRLittleEndian) for k, p in enumerate(pixels)
    }
    archive = io.BytesIO()
    model = _model()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("mine/model.safetensors", model)
        file.writestr("mine/README.md", "# A model")
    tiff = {
        f"{name}.tif": _saved(lambda p, o=options: tifffile.imwrite(p, pixels, **o), "a.tif")
        for name, options in {
            "plain": {"photometric": "minisblack"},
            "zlib": {"photometric": "minisblack", "compression": "zlib"},
            "imagej": {"imagej": True},
        }.items()
    }
    pictures = {
        name: _saved(lambda p, i=image: Image.fromarray(i).save(p), name)
        for name, image in {
            "grey.png": pixels[0].astype(np.uint16),
            "colour.png": colour,
            "grey.jpg": colour[..., 0],
            "grey.bmp": colour[..., 0],
        }.items()
    }
    return [
        Sample("series", series),
        Sample("packed series", packed),
        Sample("deflated series", deflated),
        Sample("frames", {"a.dcm": _dicom(pixels, 0)}, "a.dcm"),
        Sample("nifti", {"a.nii": nifti}, "a.nii"),
        Sample("nifti.gz", {"a.nii.gz": gzip.compress(nifti, mtime=0)}, "a.nii.gz"),
        Sample("nrrd", {"a.nrrd": _itk("a.nrrd", packed=True)}, "a.nrrd"),
        Sample("raw nrrd", {"a.nrrd": _itk("a.nrrd", packed=False)}, "a.nrrd"),
        Sample("mha", {"a.mha": _itk("a.mha", packed=True)}, "a.mha"),
        Sample("vol", {"a.vol": vol()}, "a.vol"),
        Sample("e2e", {"a.e2e": e2e()}, "a.e2e"),
        Sample("topcon", {"a.fda": topcon()()}, "a.fda"),
        *(Sample(name, {"a.dcm": content}, "a.dcm") for name, content in _codecs().items()),
        Sample("model", {"model.safetensors": model}, "model.safetensors", "model"),
        Sample("archive", {"a.zip": archive.getvalue()}, "a.zip", "archive"),
        *(Sample(name, {name: content}, name) for name, content in {**tiff, **pictures}.items()),
    ]


def damage(content: bytes, chance: random.Random) -> bytes:
    """Flip, overwrite, cut, insert, repeat or take out; the head is hit as often as the rest."""
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        head = min(len(data), 700)
        at = chance.randrange(max(1, head if chance.random() < 0.5 else len(data)))
        length = chance.choice((1, 2, 4, 8, 64))
        match chance.choice(
            ("bit", "bit", "bit", "byte", "number", "cut", "insert", "copy", "drop")
        ):
            case "bit" if data:
                data[at] ^= 1 << chance.randrange(8)
            case "byte" if data:
                data[at] = chance.randrange(256)
            case "number":
                value = chance.choice((0, 1, 2**15 - 1, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**20))
                data[at : at + 4] = struct.pack("<I", value)
            case "cut" if chance.random() < 0.4:
                del data[at:]
            case "insert":
                data[at:at] = chance.randbytes(length)
            case "copy":
                data[at:at] = data[max(0, at - length) : at]
            case "drop":
                del data[at : at + length]
    return bytes(data)


def read_state(path: Path) -> list[tuple[Any, ...]]:
    """What a reader hands on of each scan: voxels, place, unit, and what it warns of."""
    import napari_spatial_ar as nsar
    from napari_spatial_ar.imaging.reading import find_scans

    found = find_scans(path)
    for scan in found.scans:
        scan.read()
    return [
        (
            np.asarray(volume.data).tobytes(),
            volume.data.shape,
            volume.geometry.affine.tobytes(),
            (volume.unit, volume.modality, volume.intensity),
            volume.warnings,
        )
        for volume in nsar.read(path)
    ] + [("left out", *map(str, found.errors))]


def open_model(path: Path) -> list[tuple[Any, ...]]:
    from napari_spatial_ar.normative.model_file import read

    header, tensors, _ = read(path)
    return [(repr(header), *(t.numpy().tobytes() for t in tensors.values()))]


def unpack_archive(path: Path) -> list[tuple[Any, ...]]:
    from napari_spatial_ar.normative.archive import unpack_model

    model = unpack_model(path)
    try:
        return open_model(model)
    finally:
        shutil.rmtree(model.parent)


OPEN = {"scan": read_state, "model": open_model, "archive": unpack_archive}


def told_by_checksum(sample: Sample, damaged: bytes) -> bool:
    """Whether nothing but what a checksum covers was damaged."""
    if sample.name not in CHECKED_FROM:
        return False
    (whole,) = sample.files.values()
    mark = CHECKED_FROM[sample.name]
    start = whole.index(mark) + len(mark)
    return damaged[:start] == whole[:start]


def verdict(sample: Sample, checked: bool, before: list[Any], after: list[Any]) -> str:
    """Name what became of the damage; `checked` as of `told_by_checksum`."""
    if after == before:
        return "same"
    if sample.kind != "scan":
        return "changed"
    old, new = before[:-1], after[:-1]
    if after[-1] != before[-1] or [v[4] for v in new] != [v[4] for v in old]:
        return "warned"
    if [v[:1] for v in new] != [v[:1] for v in old]:
        if checked:
            return "SILENT: voxels differ though the file has a checksum"
        if len(sample.files) > 1 and sum(v[1][0] for v in new) < sum(v[1][0] for v in old):
            return "SILENT: a slice is gone"
    return "changed"


def run_case(number: int, samples: list[Sample], wholes: dict[str, list[Any]], root: Path) -> str:
    """Damage a sample as the number says, open it, and say what came out."""
    chance = random.Random(number)
    sample = samples[number % len(samples)]
    folder = root / "case"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    hit = chance.choice(sorted(sample.files))
    for name, content in sample.files.items():
        (folder / name).write_bytes(damage(content, chance) if name == hit else content)
    signal.alarm(SECONDS)
    try:
        after = OPEN[sample.kind](folder / sample.opened)
    except SpatialARError:
        return "refused"
    finally:
        signal.alarm(0)
    checked = told_by_checksum(sample, (folder / hit).read_bytes())
    return verdict(sample, checked, wholes[sample.name], after)


def work(first: int, count: int) -> None:
    """Run cases in this process, a line for each before and after."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    warnings.simplefilter("ignore")
    root = Path(tempfile.mkdtemp(prefix="fuzz"))
    os.environ["NAPARI_SPATIAL_AR_HOME"] = str(root / "home")
    samples = make_samples()
    wholes: dict[str, list[Any]] = {}
    try:
        for sample in samples:
            folder = root / "whole"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            for name, content in sample.files.items():
                (folder / name).write_bytes(content)
            wholes[sample.name] = OPEN[sample.kind](folder / sample.opened)
        for number in range(first, first + count):
            say(json.dumps({"case": number, "sample": samples[number % len(samples)].name}))
            started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            try:
                outcome = run_case(number, samples, wholes, root)
            except Exception as error:  # noqa: BLE001 - what must not come out is what is looked for
                outcome = f"EXCEPTION: {type(error).__name__}"
                traceback.print_exc()
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - started) // 1024
            if grown > 500:
                outcome = f"MEMORY: {grown} MB more, then {outcome}"
            say(json.dumps({"case": number, "outcome": outcome}))
    finally:
        shutil.rmtree(root, ignore_errors=True)


def batches(start: int, minutes: float) -> Iterator[tuple[int, list[dict[str, Any]], str, int]]:
    """Run processes one after the other; each goes on behind the case that ended the last."""
    end, number = time.monotonic() + 60 * minutes, start
    while time.monotonic() < end:
        process = subprocess.run(
            [sys.executable, "-m", "tests.fuzz_readers", "--work", str(number), str(BATCH)],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        lines = [json.loads(line) for line in process.stdout.splitlines() if line.startswith("{")]
        yield number, lines, process.stderr, process.returncode
        last = max((line["case"] for line in lines), default=number)
        number = last + 1


def main() -> int:
    """Run for a while, or one case; exit status 1 where something came out that must not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--start", type=int, default=0, help="number of the first case")
    parser.add_argument("--json", type=Path, help="write counts and failures here")
    parser.add_argument("--only", type=int, help="run one case, with its traceback")
    parser.add_argument("--work", type=int, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(*arguments.work)
        return 0
    if arguments.only is not None:
        work(arguments.only, 1)
        return 0
    counts: dict[str, Counter[str]] = {}
    failures: list[dict[str, Any]] = []
    cases, first = 0, arguments.start
    for _, lines, stderr, code in batches(first, arguments.minutes):
        names = {line["case"]: line["sample"] for line in lines if "sample" in line}
        outcomes = {line["case"]: line["outcome"] for line in lines if "outcome" in line}
        for case in names.keys() - outcomes.keys():
            hung = code == -signal.SIGALRM
            outcomes[case] = "HANG" if hung else f"CRASH: ended with {code}: {stderr[-300:]}"
        if not names:
            raise SystemExit(f"no case could be run: {stderr[-2000:]}")
        for case, outcome in outcomes.items():
            kind = outcome.split(":")[0]
            counts.setdefault(names[case], Counter())[kind] += 1
            if kind.isupper():
                failures.append({"case": case, "sample": names[case], "outcome": outcome})
                say(f"{case} {names[case]}: {outcome}")
        cases += len(outcomes)
    result = {
        "first_case": first,
        "cases": cases,
        "minutes": arguments.minutes,
        "outcomes": {name: dict(sorted(count.items())) for name, count in sorted(counts.items())},
        "failures": failures,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    say(f"{cases} cases, {len(failures)} failures")
    for name, count in sorted(counts.items()):
        say(f"  {name}: {dict(sorted(count.items()))}")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
