"""Score several slices together, or one as a CUDA graph, to keep a GPU busy."""

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

# Larger batches were not faster on current GPUs.
_LARGEST = 32
# Number of slice shapes whose graphs are cached: a scan has one, or three if it is viewed in all
# three planes.
_GRAPHS = 3
_WARM_UPS = 3


class BatchSizes:
    """Batch sizes: 1 first, so that the first result appears soon, then doubling.

    Parameters
    ----------
    largest : int
        Maximum batch size.
    """

    def __init__(self, largest: int = _LARGEST) -> None:
        self._largest = largest
        self.next = 1

    def grow(self) -> None:
        """Double the batch size, up to the limit."""
        self.next = min(2 * self.next, self._largest)

    def at_most(self, count: int) -> None:
        """Limit batches to ``count`` from now on: memory ran short."""
        self.next = self._largest = count


class CudaGraphs:
    """Replays a function of one tensor as a CUDA graph, one for each of the latest shapes.

    A graph saves the CPU time of launching kernels, which for a single slice is longer than the
    computation on the GPU.

    Parameters
    ----------
    work : callable
        Takes and returns tensors on the GPU. It must not branch on values.
    """

    def __init__(self, work: Callable[[Tensor], tuple[Tensor, ...]]) -> None:
        self._work = work
        self._kept: OrderedDict[tuple[int, ...], tuple[Any, Tensor, tuple[Tensor, ...]]] = (
            OrderedDict()
        )

    def __call__(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """Run the function; the result is valid until the next call."""
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
    """Slices being scored: their scores are on the host once ``ready`` is set."""

    keys: list[Any]
    maps: tuple[Tensor, Tensor, Tensor]
    ready: Any


class BatchScorer:
    """Scores windowed slices of one shape in batches.

    Parameters
    ----------
    maps : callable
        (B, rows, columns) float32 on the device -> heatmaps (B, rows, columns), patch scores
        (B, Hp, Wp) and image scores (B,), float32 there.
    alone : callable
        Scores one slice for which the device does not have enough memory.
    device : torch.device
        Where to score.
    graphs : bool
        Whether a single slice may be replayed as a CUDA graph.
    turns : FairLock, optional
        Held while a batch is submitted to the device, and while its result is awaited.
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
        """Score one slice; memory errors are raised as they occur."""
        ((_, score),) = self._collect(self._launch([(None, unit)]))
        return score

    def __call__(
        self, units: Iterable[tuple[K, Unit]], sizes: BatchSizes
    ) -> Iterator[tuple[K, SliceScore]]:
        """Score slices; while the device computes a batch, the previous one's scores are yielded.

        If memory runs short, batches get smaller; slices that do not fit even alone are scored by
        ``alone``.

        Parameters
        ----------
        units : iterable of (key, (rows, columns) float32)
            Keys and slices with intensities in 0..1.
        sizes : BatchSizes
            Batch sizes.

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
                # Someone is waiting to see this slice.
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
        # Outside the handler: the error holds references to tensors of the failed attempt.
        release()
        return None

    def _launch(self, pairs: Sequence[tuple[Any, Unit]]) -> _Batch:
        # From input to the copies of the results: a graph has a single buffer for each.
        with self._turns.taken(), torch.inference_mode():
            return self._launch_now(pairs)

    def _launch_now(self, pairs: Sequence[tuple[Any, Unit]]) -> _Batch:
        tensors = [torch.from_numpy(np.ascontiguousarray(unit)) for _, unit in pairs]
        # One by one: stacking them on the host first would copy them twice.
        given = torch.empty((len(tensors), *tensors[0].shape), device=self._device)
        # Other devices do not signal when a copy is complete.
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
    """Score slices that show body, and return empty scores for the others, in order.

    Parameters
    ----------
    scorer, sizes
        See `BatchScorer`.
    prepared : iterable of (key, (rows, columns) float32, bool)
        Keys, slices, and whether there is body in them.

    Yields
    ------
    (key, SliceScore)
        In the order of ``prepared``; `SliceScore.empty` for a slice without body.
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
    """Process items in threads, at most ``most`` ahead of the consumer.

    Parameters
    ----------
    work : callable
        Called with each item. An exception is raised in place of its result.
    items : iterable
        The items.
    threads : int
        Number of threads.
    most : int
        Maximum number of results in memory.

    Yields
    ------
    The results of ``work``, in the order of ``items``.
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
