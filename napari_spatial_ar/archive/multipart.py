"""``multipart/related`` bodies (RFC 2387), as DICOMweb sends and takes them, piece by piece."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from email.message import Message
from pathlib import Path
from typing import BinaryIO, Protocol

__all__ = ["FileBody", "boundary_of", "media_type", "receive_parts"]

# Longest head of a part; that of DICOMweb is three lines.
_LONGEST_HEAD = 1 << 16
_PIECE = 1 << 20


class _Open(Protocol):
    def __call__(self) -> AbstractContextManager[BinaryIO]: ...


def media_type(content_type: str) -> str:
    """Media type of a Content-Type, without parameters and in lower case."""
    return content_type.partition(";")[0].strip().lower()


def boundary_of(content_type: str) -> bytes:
    """Boundary of a multipart Content-Type (ValueError if there is none)."""
    message = Message()
    message["Content-Type"] = content_type
    boundary = message.get_param("boundary")
    if not isinstance(boundary, str) or not boundary:
        raise ValueError("there is no boundary")
    return boundary.encode("latin-1", "replace")


def receive_parts(pieces: Iterable[bytes], boundary: bytes, opened: _Open) -> Iterator[int]:
    """Write each part of a body to a file of its own, in constant memory.

    Parameters
    ----------
    pieces : iterable of bytes
        The body.
    boundary : bytes
        See `boundary_of`.
    opened : callable
        Opens the file of the next part; its block is left when the part is complete, and is left
        with an error otherwise.

    Yields
    ------
    int
        Bytes of the part just written.

    Raises
    ------
    ValueError
        If it is no such body, or ends before its last boundary.
    """
    delimiter = b"\r\n--" + boundary
    # The first boundary may stand at the very beginning.
    buffer = bytearray(b"\r\n")
    source = iter(pieces)

    def more() -> None:
        piece = next(source, None)
        if piece is None:
            raise ValueError("the body ends before its last boundary")
        buffer.extend(piece)

    # Anything before the first boundary is a preamble.
    while (at := buffer.find(delimiter)) < 0:
        del buffer[: -len(delimiter)]
        more()
    del buffer[: at + len(delimiter)]
    while True:
        while len(buffer) < 2:
            more()
        if buffer.startswith(b"--"):
            return
        # The line of the boundary, which may end in blanks, then the part's head.
        while (end := buffer.find(b"\r\n\r\n")) < 0:
            if len(buffer) > _LONGEST_HEAD:
                raise ValueError("a part has no head")
            more()
        del buffer[: end + 4]
        size = 0
        with opened() as file:
            while (at := buffer.find(delimiter)) < 0:
                # What may be the beginning of a boundary stays.
                ready = len(buffer) - len(delimiter)
                if ready > 0:
                    file.write(memoryview(buffer)[:ready].tobytes())
                    size += ready
                    del buffer[:ready]
                more()
            file.write(bytes(buffer[:at]))
            size += at
        del buffer[: at + len(delimiter)]
        yield size


class FileBody:
    """The body of a STOW-RS request with one file, read as it is sent.

    Parameters
    ----------
    path : Path
        A DICOM file.
    size : int
        Its bytes.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.boundary = uuid.uuid4().hex
        self._file = open(path, "rb")  # noqa: SIM115 - closed by close
        self._head = f"--{self.boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        self._tail = f"\r\n--{self.boundary}--\r\n".encode()
        self._size = len(self._head) + size + len(self._tail)

    @property
    def content_type(self) -> str:
        """The request's Content-Type (PS3.18 10.5)."""
        return f'multipart/related; type="application/dicom"; boundary={self.boundary}'

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        yield self._head
        while piece := self._file.read(_PIECE):
            yield piece
        yield self._tail

    def close(self) -> None:
        """Close the file."""
        self._file.close()
