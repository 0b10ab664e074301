"""Slices scored several at once, or one as a CUDA graph: what keeps a graphics card busy."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_spatial_ar.normative.backbones.fair_lock import FairLock
from napari_spatial_ar.normative.memory import is_shortage, release
from napari_spatial_ar.normative.scores import SliceScore

__all__ = ["BatchScorer", "BatchSizes", "CudaGraphs", "ahead", "scores_in_order"]

K = TypeVar("K")
T = TypeVar("T")

Unit = npt.NDArray[np.float32]
Maps = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]

# More at once make a slice no faster on the cards there are.
_LARGEST = 32
# Shapes of slices whose graphs are kept: a scan has one, or three where it is looked at from all
# sides.
_GRAPHS = 3
_WARM_UPS = 3


class BatchSizes:
    """How many slices are scored at once: 1, so that something is seen soon, then twice as many.

    Parameters
    ----------
    largest : int
        Never more than these.
    """

    def __init__(self, largest: int = _LARGEST) -> None:
        self._largest = largest
        self.next = 1

    def grow(self) -> None:
        """Take more at once from now on, where that is allowed."""
        self.next = min(2 * self.next, self._largest)

    def at_most(self, count: int) -> None:
        """Take ``count`` from now on: memory ran short."""
        self.next = self._largest = count


class CudaGraphs:
    """Replays a function of one tensor as a CUDA graph, one for each of the last shapes.

    A graph spares the time in which the processor tells the card what to do, which for a single
    slice is longer than the card needs to do it.

    Parameters
    ----------
    work : callable
        Gets a tensor on the card; gives tensors there. It must never look at a value.
    """

    def __init__(self, work: Callable[[Tensor], tuple[Tensor, ...]]) -> None:
        self._work = work
        self._kept: OrderedDict[tuple[int, ...], tuple[Any, Tensor, tuple[Tensor, ...]]] = (
            OrderedDict()
        )

    def __call__(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """Give what the function gives; good until the next call."""
        shape = tuple(tensor.shape)
        if shape not in self._kept:
            self._kept[shape] = self._capture(tensor)
            if len(self._kept) > _GRAPHS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(shape)
        graph, given, results = self._kept[shape]
        given.copy_(tensor, non_blocking=True)
        graph.replay()
        return results

    def _capture(self, tensor: Tensor) -> tuple[Any, Tensor, tuple[Tensor, ...]]:
        given = tensor.to("cuda").clone()
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                self._work(given)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = self._work(given)
        return graph, given, results


@dataclass(frozen=True)
class _Batch:
    """Slices under way: their scores are on the host once ``ready`` is."""

    keys: list[Any]
    maps: tuple[Tensor, Tensor, Tensor]
    ready: Any


class BatchScorer:
    """Scores windowed slices of one shape, several at once.

    Parameters
    ----------
    maps : callable
        (B, rows, columns) float32 on the device -> heatmaps (B, rows, columns), patch scores
        (B, Hp, Wp) and image scores (B,), float32 there.
    alone : callable
        Scores one slice where there is no room for it on the device.
    device : torch.device
        Where.
    graphs : bool
        Whether a single slice may be replayed as a CUDA graph.
    turns : FairLock, optional
        Held while a batch is handed to the device, and while it is waited for.
    """

    def __init__(
        self,
        maps: Maps,
        alone: Callable[[Unit], SliceScore],
        device: torch.device,
        *,
        graphs: bool = False,
        turns: FairLock | None = None,
    ) -> None:
        self._maps = maps
        self._alone = alone
        self._device = device
        self._turns = turns or FairLock()
        self._single: Any = CudaGraphs(maps) if graphs and device.type == "cuda" else maps

    def one(self, unit: Unit) -> SliceScore:
        """Score one slice; errors of memory are raised as they come."""
        ((_, score),) = self._collect(self._launch([(None, unit)]))
        return score

    def __call__(
        self, units: Iterable[tuple[K, Unit]], sizes: BatchSizes
    ) -> Iterator[tuple[K, SliceScore]]:
        """Score slices; while the device computes a batch, the last one's scores are given out.

        Where memory runs short, less is computed at once; from where there is no room for a
        single slice, each goes to ``alone``.

        Parameters
        ----------
        units : iterable of (key, (rows, columns) float32)
            Grey values in 0..1, and what to call them.
        sizes : BatchSizes
            How many at once.

        Yields
        ------
        (key, SliceScore)
            In the order of ``units``.
        """
        under_way: _Batch | None = None
        todo, rest = iter(units), list[tuple[K, Unit]]()
        while pairs := [*rest[: sizes.next], *islice(todo, max(0, sizes.next - len(rest)))]:
            rest = rest[sizes.next :]
            launched = self._launch_or_none(pairs)
            if under_way is not None:
                yield from self._collect(under_way)
                under_way = None
            if launched is None and len(pairs) == 1:
                for key, unit in chain(pairs, rest, todo):
                    yield key, self._alone(unit)
                return
            if launched is None:
                sizes.at_most(len(pairs) // 2)
                rest = [*pairs, *rest]
                continue
            sizes.grow()
            if len(pairs) == 1:
                # Whoever looks at a slice waits for this one.
                yield from self._collect(launched)
            else:
                under_way = launched
        if under_way is not None:
            yield from self._collect(under_way)

    def _launch_or_none(self, pairs: Sequence[tuple[Any, Unit]]) -> _Batch | None:
        try:
            return self._launch(pairs)
        except (RuntimeError, MemoryError) as error:
            if not is_shortage(error):
                raise
        # Not in the handler: the error holds on to what the failed try has made.
        release()
        return None

    def _launch(self, pairs: Sequence[tuple[Any, Unit]]) -> _Batch:
        # From the input to the copies of the results: a graph has one place for each.
        with self._turns.taken(), torch.inference_mode():
            return self._launch_now(pairs)

    def _launch_now(self, pairs: Sequence[tuple[Any, Unit]]) -> _Batch:
        tensors = [torch.from_numpy(np.ascontiguousarray(unit)) for _, unit in pairs]
        # One by one: put together on the host first, they would be copied twice.
        given = torch.empty((len(tensors), *tensors[0].shape), device=self._device)
        # Elsewhere nothing would say when a copy is done.
        on_card = self._device.type == "cuda"
        for place, tensor in zip(given, tensors, strict=True):
            place.copy_(tensor, non_blocking=on_card)
        found = (self._single if len(pairs) == 1 else self._maps)(given)
        heat, patches, images = (t.to("cpu", non_blocking=on_card) for t in found)
        ready = None
        if on_card:
            ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
            ready.record()
        return _Batch([key for key, _ in pairs], (heat, patches, images), ready)

    def _collect(self, batch: _Batch) -> Iterator[tuple[Any, SliceScore]]:
        if batch.ready is not None:
            with self._turns.taken():
                batch.ready.synchronize()
        heat, patches, images = (t.numpy() for t in batch.maps)
        for key, nll, grid, image in zip(batch.keys, heat, patches, images, strict=True):
            yield key, SliceScore(nll=nll, grid=grid, image_score=float(image))


def scores_in_order(
    scorer: BatchScorer, prepared: Iterable[tuple[K, Unit, bool]], sizes: BatchSizes
) -> Iterator[tuple[K, SliceScore]]:
    """Score those slices that show something, and give the others in their place.

    Parameters
    ----------
    scorer, sizes
        See `BatchScorer`.
    prepared : iterable of (key, (rows, columns) float32, bool)
        Slices, and whether there is something in them.

    Yields
    ------
    (key, SliceScore)
        In the order of ``prepared``; `SliceScore.empty` for a slice with nothing in it.
    """
    kept: deque[tuple[K, SliceScore | None]] = deque()

    def filled_ones() -> Iterator[tuple[K, Unit]]:
        for key, unit, filled in prepared:
            kept.append((key, None if filled else SliceScore.empty(unit.shape)))
            if filled:
                yield key, unit

    for key, score in scorer(filled_ones(), sizes):
        while (first := kept.popleft())[1] is not None:
            yield first[0], first[1]
        yield key, score
    yield from ((key, empty) for key, empty in kept if empty is not None)


def ahead(work: Callable[[K], T], items: Iterable[K], *, threads: int, most: int) -> Iterator[T]:
    """Do work on items in threads, at most ``most`` ahead of whoever takes the results.

    Parameters
    ----------
    work : callable
        Whatever it raises is raised where its result would be given.
    items : iterable
        What it is done on.
    threads : int
        How many threads.
    most : int
        Results in memory, at most.

    Yields
    ------
    What ``work`` gives, in the order of ``items``.
    """
    todo = iter(items)
    under_way: deque[Future[T]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="ahead") as pool:
        try:
            while True:
                while len(under_way) < most:
                    try:
                        under_way.append(pool.submit(work, next(todo)))
                    except StopIteration:
                        break
                if not under_way:
                    return
                yield under_way.popleft().result()
        finally:
            for future in under_way:
                future.cancel()
