"""Score several slices together, or one as a CUDA graph, to keep a GPU busy."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, groupby, islice
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_spatial_ar.normative.backbones.fair_lock import FairLock
from napari_spatial_ar.normative.backbones.kept_tokens import KeptTokens
from napari_spatial_ar.normative.memory import is_shortage, release
from napari_spatial_ar.normative.scores import SliceScore
from napari_spatial_ar.normative.tiling import check_finite

__all__ = ["BatchScorer", "BatchSizes", "CudaGraphs", "Prepared", "ahead", "scores_in_order"]

K = TypeVar("K")
T = TypeVar("T")

Unit = npt.NDArray[np.float32]
Maps = Callable[..., tuple[Tensor, ...]]

# Larger batches were not faster on current GPUs.
_LARGEST = 32
# Number of slice shapes whose graphs are cached: a scan has one, or three if it is viewed in all
# three planes; if air is skipped, one for each number of tokens kept, which its slices share.
_GRAPHS = 12
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


@dataclass(frozen=True)
class Prepared:
    """A slice ready for the backbone.

    Parameters
    ----------
    unit : (rows, columns) float32
        Intensities in 0..1.
    kept : KeptTokens or None
        What of it goes through the backbone; None for all.
    filled : bool
        Whether there is something in it.
    body : (Hp, Wp) float32 or None
        Share of each patch that is body, if it is compared with the training slices.
    """

    unit: Unit
    kept: KeptTokens | None = None
    filled: bool = True
    body: Tensor | None = None

    @property
    def kind(self) -> tuple[int, ...]:
        """What slices of a batch share."""
        return (
            self.unit.shape if self.kept is None else (*self.unit.shape, self.kept.index.shape[1])
        )


class CudaGraphs:
    """Replays a function of tensors as a CUDA graph, one for each of the latest shapes.

    A graph saves the CPU time of launching kernels, which for a single slice is longer than the
    computation on the GPU.

    Parameters
    ----------
    work : callable
        Takes and returns tensors on the GPU. It must not branch on values.
    """

    def __init__(self, work: Callable[..., tuple[Tensor, ...]]) -> None:
        self._work = work
        self._kept: OrderedDict[
            tuple[torch.Size, ...], tuple[Any, tuple[Tensor, ...], tuple[Tensor, ...]]
        ] = OrderedDict()

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Run the function; the result is valid until the next call."""
        shapes = tuple(tensor.shape for tensor in tensors)
        if shapes not in self._kept:
            self._kept[shapes] = self._capture(tensors)
            if len(self._kept) > _GRAPHS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(shapes)
        graph, given, results = self._kept[shapes]
        for place, tensor in zip(given, tensors, strict=True):
            place.copy_(tensor, non_blocking=True)
        graph.replay()
        return results

    def _capture(
        self, tensors: Sequence[Tensor]
    ) -> tuple[Any, tuple[Tensor, ...], tuple[Tensor, ...]]:
        given = tuple(tensor.to("cuda").clone() for tensor in tensors)
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                self._work(*given)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = self._work(*given)
        return graph, given, results


@dataclass(frozen=True)
class _Batch:
    """Slices being scored: their scores are on the host once ``ready`` is set."""

    pairs: Sequence[tuple[Any, Prepared]]
    maps: tuple[Tensor, ...]
    ready: Any


class BatchScorer:
    """Scores windowed slices of one shape in batches.

    Parameters
    ----------
    maps : callable
        (B, rows, columns) float32 on the device, and what is kept of them -> heatmaps (B, rows,
        columns), patch scores (B, 1 + parts, Hp, Wp), first those of the whole method, and image
        scores (B,), float32 there. Given `Prepared.body` (B, Hp, Wp) as well if slices have it, it
        returns also their unfamiliarity (B,).
    alone : callable
        Scores one slice for which the device does not have enough memory.
    device : torch.device
        Where to score.
    graphs : bool
        Whether a single slice may be replayed as a CUDA graph.
    lock : FairLock, optional
        Held while a batch is submitted to the device, and while its result is awaited.
    parts : sequence of str
        Names of the method's parts.
    """

    def __init__(
        self,
        maps: Maps,
        alone: Callable[[Prepared], SliceScore],
        device: torch.device,
        *,
        graphs: bool = False,
        lock: FairLock | None = None,
        parts: Sequence[str] = (),
    ) -> None:
        self._parts = parts
        self._maps = maps
        self._alone = alone
        self._device = device
        self._lock = lock or FairLock()
        self._single = CudaGraphs(self._work) if graphs and device.type == "cuda" else self._work

    def _work(self, units: Tensor, *more: Tensor) -> tuple[Tensor, ...]:
        kept, body = more[: len(more) // 2 * 2], more[len(more) // 2 * 2 :]
        return self._maps(units, KeptTokens(*kept) if kept else None, *body)

    def one(self, shown: Prepared) -> SliceScore:
        """Score one slice; memory errors are raised as they occur."""
        ((_, score),) = self._collect(self._launch([(None, shown)]))
        return score

    def __call__(
        self, slices: Iterable[tuple[K, Prepared]], sizes: BatchSizes
    ) -> Iterator[tuple[K, SliceScore]]:
        """Score slices; while the device computes a batch, the previous one's scores are yielded.

        If memory runs short, batches get smaller; slices that do not fit even alone are scored by
        ``alone``.

        Parameters
        ----------
        slices : iterable of (key, Prepared)
            Keys and slices.
        sizes : BatchSizes
            Batch sizes.

        Yields
        ------
        (key, SliceScore)
            In the order of ``slices``.
        """
        under_way: _Batch | None = None
        todo, rest = iter(slices), list[tuple[K, Prepared]]()
        while ready := [*rest, *islice(todo, max(0, sizes.next - len(rest)))]:
            _, alike = next(groupby(ready[: sizes.next], lambda pair: pair[1].kind))
            pairs = list(alike)
            rest = ready[len(pairs) :]
            launched = self._launch_or_none(pairs)
            if under_way is not None:
                yield from self._collect(under_way)
                under_way = None
            if launched is None and len(pairs) == 1:
                for key, shown in chain(pairs, rest, todo):
                    yield key, self._alone(shown)
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

    def _launch_or_none(self, pairs: Sequence[tuple[Any, Prepared]]) -> _Batch | None:
        try:
            return self._launch(pairs)
        except (RuntimeError, MemoryError) as error:
            if not is_shortage(error):
                raise
        # Outside the handler: the error holds references to tensors of the failed attempt.
        release()
        return None

    def _launch(self, pairs: Sequence[tuple[Any, Prepared]]) -> _Batch:
        # From input to the copies of the results: a graph has a single buffer for each.
        with self._lock.held(), torch.inference_mode():
            return self._launch_now(pairs)

    def _launch_now(self, pairs: Sequence[tuple[Any, Prepared]]) -> _Batch:
        tensors = [torch.from_numpy(np.ascontiguousarray(shown.unit)) for _, shown in pairs]
        # One by one: stacking them on the host first would copy them twice.
        given = torch.empty((len(tensors), *tensors[0].shape), device=self._device)
        # Other devices do not signal when a copy is complete.
        on_card = self._device.type == "cuda"
        for place, tensor in zip(given, tensors, strict=True):
            place.copy_(tensor, non_blocking=on_card)
        kept = _together([shown.kept for _, shown in pairs if shown.kept is not None])
        bodies = [shown.body for _, shown in pairs if shown.body is not None]
        kept += (torch.stack(bodies),) if bodies else ()
        found = (self._single if len(pairs) == 1 else self._work)(
            given, *(tensor.to(self._device, non_blocking=on_card) for tensor in kept)
        )
        maps = tuple(t.to("cpu", non_blocking=on_card) for t in found)
        ready = None
        if on_card:
            ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
            ready.record()
        return _Batch(pairs, maps, ready)

    def _collect(self, batch: _Batch) -> Iterator[tuple[Any, SliceScore]]:
        if batch.ready is not None:
            with self._lock.held():
                batch.ready.synchronize()
        arrays = (t.numpy() for t in batch.maps)
        for (key, shown), nll, grid, image, *strange in zip(batch.pairs, *arrays, strict=True):
            present = True if shown.kept is None else shown.kept.present[0].numpy()
            check_finite((np.isnan(grid) & present).any())
            parts = dict(zip(self._parts, grid[1:], strict=True))
            yield key, SliceScore(nll, grid[0], float(image), parts, *map(float, strange))


def _together(kept: Sequence[KeptTokens]) -> tuple[Tensor, ...]:
    """Concatenate the tensors of the kept tokens of slices to those of a batch; () if none."""
    if not kept:
        return ()
    return torch.cat([one.present for one in kept]), torch.cat([one.index for one in kept])


def scores_in_order(
    scorer: BatchScorer, prepared: Iterable[tuple[K, Prepared]], sizes: BatchSizes
) -> Iterator[tuple[K, SliceScore]]:
    """Score slices that show body, and return empty scores for the others, in order.

    Parameters
    ----------
    scorer, sizes
        See `BatchScorer`.
    prepared : iterable of (key, Prepared)
        Keys and slices, some of them without body.

    Yields
    ------
    (key, SliceScore)
        In the order of ``prepared``; `SliceScore.empty` for a slice without body.
    """
    kept: deque[tuple[K, SliceScore | None]] = deque()

    def filled_ones() -> Iterator[tuple[K, Prepared]]:
        for key, shown in prepared:
            kept.append((key, None if shown.filled else SliceScore.empty(shown.unit.shape)))
            if shown.filled:
                yield key, shown

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
