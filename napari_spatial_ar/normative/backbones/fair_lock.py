"""A fair lock on a backbone: threads that share it compute one slice or batch each in turn."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from napari_spatial_ar.normative.cancellation import check_cancelled

__all__ = ["FairLock"]

_CHECK_SECONDS = 0.05


class FairLock:
    """A re-entrant lock that threads acquire in the order in which they requested it.

    With Python's own locks, a thread that scores slice after slice could reacquire the lock before
    a waiting thread wakes up. A waiting thread still checks whether it has been cancelled.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()
        self._owner: int | None = None
        self._depth = 0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock within a block, which should compute a slice or a batch.

        Raises
        ------
        Cancelled
            If this thread is cancelled while it waits.
        """
        self._acquire()
        try:
            yield
        finally:
            self._release()

    def _acquire(self) -> None:
        me, ticket = threading.get_ident(), object()
        with self._changed:
            if self._owner != me:
                self._waiting.append(ticket)
                try:
                    while self._owner is not None or self._waiting[0] is not ticket:
                        self._changed.wait(_CHECK_SECONDS)
                        check_cancelled()
                    self._owner = me
                finally:
                    self._waiting.remove(ticket)
                    self._changed.notify_all()
            self._depth += 1

    def _release(self) -> None:
        with self._changed:
            self._depth -= 1
            if not self._depth:
                self._owner = None
                self._changed.notify_all()
