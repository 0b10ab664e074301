"""Compressed data: whole or named, never more than there may be."""

from __future__ import annotations

import gzip
import io
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.inflate import InflatedFile, Inflater, Packing, read_to_the_end

DATA = np.random.default_rng(3).integers(0, 40, 3_000_000).astype(np.uint8).tobytes()
PATH = Path("scan")


def bare(data: bytes) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


PACKERS: dict[Packing, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zlib": zlib.compress,
    "deflate": bare,
}


def stream(packed: bytes, packing: Packing, most: int = 2**30) -> Inflater:
    return Inflater(io.BytesIO(packed), packing, most_bytes=most, path=PATH)


def inflated(packed: bytes, packing: Packing, count: int, most: int = 2**30) -> bytes:
    """Read ``count`` bytes and go on to the checksum, as readers of scans do."""
    inflater = stream(packed, packing, most)
    part = inflater.read(count)
    inflater.finish()
    return part


@pytest.mark.parametrize("packing", PACKERS)
def test_a_part_of_it(packing: Packing) -> None:
    packed = PACKERS[packing](DATA)
    inflater = stream(packed, packing)
    inflater.skip(352)
    assert inflater.read(2_000_000) == DATA[352:2_000_352]
    assert stream(packed, packing).read(2**30) == DATA


def test_members_of_gzip_follow_each_other_and_padding_the_last() -> None:
    packed = gzip.compress(DATA[:1000]) + gzip.compress(DATA[1000:]) + b"\0" * 512
    assert inflated(packed, "gzip", len(DATA)) == DATA


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
def test_cut_short(packing: Packing, share: float) -> None:
    packed = PACKERS[packing](DATA)
    with pytest.raises(InputError, match="cut short") as caught:
        inflated(packed[: int(share * len(packed))], packing, len(DATA))
    assert caught.value.path == PATH


@pytest.mark.parametrize("packing", ["gzip", "zlib"])
def test_any_flipped_bit_is_noticed(packing: Packing) -> None:
    packed = PACKERS[packing](DATA[:20_000])
    # gzip's head holds a time and the system that packed it, which no checksum covers.
    places = np.random.default_rng(1).integers(10, len(packed), 60)
    for place in places:
        damaged = bytearray(packed)
        damaged[place] ^= 1 << int(place) % 8
        # Only a part is asked for: the damage may lie behind it.
        with pytest.raises(InputError, match=r"damaged|cut short"):
            inflated(bytes(damaged), packing, 100)


def test_less_than_the_header_claims(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(gzip.compress(DATA))
    read_to_the_end(stream(path.read_bytes(), "gzip"), path, least=len(DATA))
    path.write_bytes(gzip.compress(DATA[1:]))
    with pytest.raises(InputError, match="hold 2999999 bytes, and its header claims 3000000"):
        read_to_the_end(stream(path.read_bytes(), "gzip"), path, least=len(DATA))


@pytest.mark.parametrize("packing", PACKERS)
def test_a_bomb_takes_no_memory(packing: Packing) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, {"gzip": 31, "zlib": 15, "deflate": -15}[packing])
    zeros = b"\0" * 2**22
    bomb = b"".join(packer.compress(zeros) for _ in range(64)) + packer.flush()
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="inflates to more than the 67108864 bytes"):
            inflated(bomb, packing, 100, most=2**26)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_a_file_to_seek_in_is_inflated_as_far_as_asked_for() -> None:
    inflater = stream(bare(DATA), "deflate", most=2_000_000)
    file = InflatedFile(inflater, b"head")
    assert file.read(6) == b"head" + DATA[:2]
    assert file.seek(1_000_004) == 1_000_004
    assert file.read(3) == DATA[1_000_000:1_000_003]
    assert file.seek(-3, io.SEEK_CUR) == file.tell() == 1_000_004
    inflater.most_bytes = len(DATA)
    assert file.seek(-1, io.SEEK_END) == len(DATA) + 3
    assert file.read() == DATA[-1:]
    file = InflatedFile(stream(bare(DATA), "deflate", most=2_000_000))
    with pytest.raises(InputError, match="more than the 2000000 bytes"):
        file.seek(0, io.SEEK_END)
