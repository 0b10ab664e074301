"""Files are written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_spatial_ar.errors import InputError, InUseError, StorageError, UnguardedWarning
from napari_spatial_ar.imaging import files
from napari_spatial_ar.imaging.files import (
    atomic_path,
    atomic_write_bytes,
    atomic_write_json,
    atomic_write_text,
    check_room,
    locked,
    remove_partial,
    work_folder,
)

LEFT = f".partial-{'1' * 32}"
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


@contextmanager
def another_process(within: Callable[[], AbstractContextManager[Any]]) -> Iterator[None]:
    """Run the block while another process is within a context; it is then killed there."""
    ready, told = os.pipe()
    child = os.fork()
    if not child:
        try:
            with within():
                os.write(told, b"!")
                signal.pause()
        finally:
            os._exit(1)
    os.close(told)
    try:
        assert os.read(ready, 1) == b"!"
        yield
    finally:
        os.close(ready)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_the_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "mask.nii.gz"
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent
        assert temporary.name.endswith(".nii.gz")
        temporary.write_bytes(b"whole")
        assert not target.exists()
    assert target.read_bytes() == b"whole"
    assert list(target.parent.iterdir()) == [target]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "findings.csv"
    target.write_text("old")

    def write_half() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise KeyError("unrelated")

    with pytest.raises(KeyError):
        write_half()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EACCES, "not permitted"),
        (errno.EROFS, "not permitted"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_a_failing_disk_is_one_sentence_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, sentence: str
) -> None:
    target = tmp_path / "nll.nii.gz"
    target.write_bytes(b"old")

    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match=sentence) as caught:
        atomic_write_bytes(target, b"new")
    assert str(target) in str(caught.value)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_that_is_a_file_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="could not be written"):
        atomic_write_text(tmp_path / "file" / "inside.txt", "text")


def test_json_is_readable_text(tmp_path: Path) -> None:
    atomic_write_json(tmp_path / "a.json", {"name": "Größe", "mm": 1.5})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert "Größe" in text
    assert json.loads(text) == {"name": "Größe", "mm": 1.5}


def test_json_is_strict_and_holds_any_name(tmp_path: Path) -> None:
    name = os.fsdecode(b"scan\xff\x1b[31m\n.nii")
    value = {name: [name, float("nan"), float("inf"), -3.2], "more": ({"x": -float("inf")},)}
    atomic_write_json(tmp_path / "a.json", value)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    found = json.loads((tmp_path / "a.json").read_bytes().decode(), parse_constant=refuse)
    assert found == {name: [name, None, None, -3.2], "more": [{"x": None}]}


def test_text_holds_any_name(tmp_path: Path) -> None:
    atomic_write_text(tmp_path / "a.html", os.fsdecode(b"<p>scan\xff</p>"))
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == "<p>scan\\udcff</p>"


def test_long_names_and_endings(tmp_path: Path) -> None:
    name = "a." + "x" * 240 + ".json"
    atomic_write_text(tmp_path / name, "text")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with pytest.raises(StorageError, match="name is too long"):
        atomic_write_text(tmp_path / ("x" * 300), "text")


# ---------------------------------------------------------------------- killed processes


@forks
@pytest.mark.parametrize("within", [atomic_path, work_folder])
def test_what_a_killed_process_left_goes_with_the_next_write(
    tmp_path: Path, within: Callable[[Path], AbstractContextManager[Path]]
) -> None:
    def half_written() -> AbstractContextManager[Path]:
        stack = ExitStack()
        made = stack.enter_context(
            within(tmp_path / "b.txt" if within is atomic_path else tmp_path)
        )
        (made / "inside" if made.is_dir() else made).write_text("half")
        return stack

    with another_process(half_written):
        (partial_,) = tmp_path.iterdir()
        atomic_write_text(tmp_path / "a.txt", "whole")
        with work_folder(tmp_path):
            pass
        assert partial_.exists()  # somebody is at it
    atomic_write_text(tmp_path / "a.txt", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@forks
def test_one_process_at_a_time_writes_to_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "out"
    with another_process(partial(locked, folder)):
        with pytest.raises(InUseError, match="another process is writing to this folder"):
            locked(folder).__enter__()
        with locked(tmp_path / "other"):
            pass
    with locked(folder):  # the kernel let go of it
        (folder / "a.txt").write_text("whole")
        (folder / f"{LEFT}.txt").write_text("half")
        (folder / ".hidden").write_text("the user's")
        with pytest.raises(InUseError):
            locked(folder).__enter__()  # in this process too
    assert sorted(path.name for path in folder.iterdir()) == [".hidden", f"{LEFT}.txt", "a.txt"]
    with locked(folder):
        assert sorted(path.name for path in folder.glob("[!.]*")) == ["a.txt"]
    assert sorted(path.name for path in folder.iterdir()) == [".hidden", "a.txt"]


def test_a_claim_leaves_no_empty_folder(tmp_path: Path) -> None:
    with locked(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
    assert not list(tmp_path.iterdir())
    (tmp_path / "empty").mkdir()
    with locked(tmp_path / "empty"):
        pass
    assert (tmp_path / "empty").is_dir()


def test_a_folder_that_cannot_be_claimed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="a file, not a folder"):
        locked(tmp_path / "file").__enter__()
    with pytest.raises(StorageError, match="could not be written"):
        locked(tmp_path / "file" / "inside").__enter__()
    with pytest.raises(StorageError, match="name is too long"):
        locked(tmp_path / ("x" * 300)).__enter__()


def test_many_threads_never_hold_a_folder_together(tmp_path: Path) -> None:
    """Claims that come and go, with the folder and the file in it removed each time."""
    inside, most, taken = [0], [0], [0]

    def work() -> None:
        for _ in range(100):
            try:
                with locked(tmp_path / "out"):
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    taken[0] += 1
                    inside[0] -= 1
            except InUseError:
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 1
    assert taken[0] > 4


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(descriptor: int, *, blocking: bool) -> bool:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(files, "lock_descriptor", no_locks)
    old, new = tmp_path / LEFT, tmp_path / LEFT.replace("1", "2")
    for path in (old, new):
        path.write_text("half")
    os.utime(old, (0, 0))
    with ExitStack() as stack:
        with pytest.warns(UnguardedWarning, match="without locks"):
            stack.enter_context(locked(tmp_path))
        atomic_write_text(tmp_path / "a.txt", "whole")
        assert stack.enter_context(work_folder(tmp_path)).is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == [LEFT.replace("1", "2"), "a.txt"]
    remove_partial(tmp_path / "absent")


# ---------------------------------------------------------------------- full disks


def test_a_writer_that_does_not_say_why_it_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OfAnotherLanguage(Exception):
        pass

    def write(error: Exception) -> None:
        with atomic_path(tmp_path / "a.npy") as temporary:
            temporary.write_bytes(b"half")
            raise error

    short = OSError("1000 requested and 400 written")  # as numpy says it
    with pytest.raises(StorageError, match="requested"):
        write(short)
    with pytest.raises(OfAnotherLanguage):
        write(OfAnotherLanguage("I/O error"))
    monkeypatch.setattr(files, "_FULL_BYTES", 1 << 60)
    for error in (short, OfAnotherLanguage("I/O error")):
        with pytest.raises(StorageError, match="disk is full"):
            write(error)
    assert not list(tmp_path.iterdir())


def test_room_is_looked_at_where_the_folder_will_be(tmp_path: Path) -> None:
    check_room(1, tmp_path / "new" / "folder", "three maps")
    with pytest.raises(StorageError, match=r"three maps need 1000000000\.0 GB and .* are free"):
        check_room(10**18, tmp_path / "new" / "folder", "three maps")


def test_arrays_are_written_to_the_path_that_is_given(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a.npz") as temporary:
        np.savez(temporary, a=np.arange(3))
    with np.load(tmp_path / "a.npz") as found:
        assert found["a"].tolist() == [0, 1, 2]
