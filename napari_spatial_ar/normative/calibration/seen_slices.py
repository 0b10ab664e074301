"""Which slices of a scan resemble those a model was trained on, judged as whole slices.

A slice is described by what it is made of: each patch embedding of its body is assigned softly to
a few kinds of patches, and the mean over patches is the share of each kind. Shares are compared by
the squared Euclidean distance of their square roots (twice the squared Hellinger distance), to the
nearest of the training slices. A lesion cannot move the shares by more than the part of the body
that it covers, so it does not make a slice look like another part of the body; a neck, or the
noise above the vertex, does.

The limit follows from normal slices, each compared with those of other patients only.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from napari_spatial_ar.datasets.folders import SliceRef, iter_slices
from napari_spatial_ar.imaging.tissue import tissue_mask
from napari_spatial_ar.imaging.windows import apply_window
from napari_spatial_ar.normative.calibration.domain_shift import SeenSlices
from napari_spatial_ar.normative.fitting.feature_store import FeatureStore, load_batch
from napari_spatial_ar.normative.tiling import Tiling

__all__ = ["SliceComparison", "body_of_patches", "channels_used", "learn_seen_slices"]

_DIMENSIONS, _KINDS, _ROUNDS = 16, 32, 15
# Softness of the assignment, as a part of the mean squared distance of a patch from its kind.
_SOFTNESS = 0.2
# Channels of an embedding that are used at most, spread evenly over all of them.
_MOST_CHANNELS = 512
# Slices and patches of each from which the kinds are learned, slices compared, and slices stored.
_LEARNED_FROM, _PATCHES, _COMPARED, _STORED = 300, 64, 1000, 256
# The limit is this many times the distance that 5 % of a normal patient's slices exceed. Fewer
# patients than `_ENOUGH` do not show how far the next one may be.
_QUANTILE, _TIMES, _ENOUGH = 0.95, 1.5, 5
# A slice with less body than this part of the least in a normal slice was not seen either.
_LEAST_BODY = 0.5


def body_of_patches(unit: npt.NDArray[np.float32], grid: tuple[int, int]) -> Tensor:
    """Share of each patch of a windowed slice that is body, (Hp, Wp) float32."""
    body = torch.from_numpy(tissue_mask(unit).astype(np.float32))
    return functional.interpolate(body[None, None], size=grid, mode="area")[0, 0]


class _Kinds:
    """Soft assignment of patch embeddings to kinds."""

    def __init__(self, centre: Tensor, axes: Tensor, kinds: Tensor, softness: float) -> None:
        self.centre, self.axes, self.kinds, self.softness = centre, axes, kinds, softness

    def __call__(self, patches: Tensor, body: Tensor) -> Tensor:
        """Square roots of the shares of kinds in slices.

        Parameters
        ----------
        patches : (B, N, D) float
            Embeddings; NaN where a patch was skipped.
        body : (B, N) float
            Share of each patch that is body.

        Returns
        -------
        (B, K) float32
        """
        # Without a patch that is mostly body, those with the most of it.
        most = body.amax(dim=1, keepdim=True).clamp(1e-6, 0.5)
        used = (body >= most) & ~patches[..., 0].isnan()
        likely = torch.softmax(-_squared(self.along(patches), self.kinds) / self.softness, dim=-1)
        shares = (likely * used[..., None]).sum(dim=1)
        return (shares / used.sum(dim=1, keepdim=True).clamp_min(1)).sqrt()

    def along(self, patches: Tensor) -> Tensor:
        """Coordinates along the axes, (..., D) to (..., d)."""
        chosen = patches[..., :: _step(patches.shape[-1])].float().nan_to_num(0.0)
        return (chosen - self.centre) @ self.axes.T


class SliceComparison:
    """Compares whole slices with those that a model was trained on.

    Parameters
    ----------
    seen : SeenSlices
        That of the model.
    device : torch.device
        Where the embeddings are.
    """

    def __init__(self, seen: SeenSlices, device: torch.device) -> None:
        def tensor(values: Sequence[object]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device)

        self._kinds = _Kinds(
            tensor(seen.centre), tensor(seen.axes), tensor(seen.kinds), seen.softness
        )
        self._slices = tensor(seen.slices)
        self._seen = seen

    def of_tiles(self, grids: Tensor, body: Tensor, tiling: Tiling) -> float:
        """Unfamiliarity of a slice, from the embeddings of its tiles (T, D, h, w)."""
        patches = grids.flatten(2).movedim(1, 2).flatten(0, 1)
        return float(self(patches[None], tiling.cut(body.to(grids.device)).flatten()[None]))

    def of_grids(self, grids: Tensor, body: Tensor) -> Tensor:
        """Unfamiliarity of slices (B, D, Hp, Wp) with ``body`` (B, Hp, Wp); (B,) float32."""
        return self(grids.flatten(2).movedim(1, 2), body.flatten(1))

    def __call__(self, patches: Tensor, body: Tensor) -> Tensor:
        """Unfamiliarity of slices, see `SliceScore`; parameters as for the assignment to kinds."""
        far = _squared(self._kinds(patches, body), self._slices).amin(dim=1) / self._seen.limit
        small = self._seen.least_body / body.mean(dim=1).clamp_min(1e-6)
        return torch.maximum(far, small)


def learn_seen_slices(
    store: FeatureStore, refs: Sequence[SliceRef]
) -> Generator[tuple[int, int], None, SeenSlices | None]:
    """Learn what normal slices are made of, from their stored embeddings.

    Parameters
    ----------
    store : FeatureStore
        Contains the embeddings.
    refs : sequence of SliceRef
        Slices that the model has seen, or of other normal patients.

    Yields
    ------
    (int, int)
        Slices done, slices in all; stop iterating to cancel.

    Returns
    -------
    SeenSlices or None
        None with fewer than five patients.
    """
    if len({ref.group for ref in refs}) < _ENOUGH:
        return None
    some, compared = _evenly(refs, _LEARNED_FROM), _evenly(refs, _COMPARED)
    done, total = 0, len(some) + len(compared)
    rows: list[Tensor] = []
    for _, patches, body in _stored(store, some):
        used = patches[(body > 0.5) & ~patches[:, 0].isnan()]
        rows.append(used[:: max(1, len(used) // _PATCHES)])
        done += 1
        yield done, total
    pooled = torch.cat(rows)[:, :: _step(rows[0].shape[1])].float()
    if len(pooled) < 2:
        return None
    kinds = _learn_kinds(pooled)
    found: list[Tensor] = []
    groups: list[str] = []
    bodies: list[float] = []
    for ref, patches, body in _stored(store, compared):
        if bool((body > 0).any()):
            found.append(kinds(patches[None], body[None])[0])
            groups.append(ref.group)
            bodies.append(float(body.mean()))
        done += 1
        yield done, total
    patients = sorted(set(groups))
    if len(patients) < _ENOUGH:
        return None
    slices, number = torch.stack(found), torch.tensor([patients.index(g) for g in groups])
    stored = _spread_out(slices, _STORED)
    far = _squared(slices, slices[stored])
    far[number[:, None] == number[stored][None]] = torch.inf
    nearest = far.amin(dim=1)
    there = nearest.isfinite()  # one patient may have all that is stored
    weights = 1.0 / torch.bincount(number)[number].double()
    distances, shares = nearest[there].double().numpy(), weights[there].numpy()
    limit = _TIMES * float(np.quantile(distances, _QUANTILE, weights=shares, method="inverted_cdf"))
    return SeenSlices(
        centre=_rounded(kinds.centre),
        axes=tuple(map(_rounded, kinds.axes)),
        kinds=tuple(map(_rounded, kinds.kinds)),
        softness=float(f"{kinds.softness:.5g}"),
        slices=tuple(map(_rounded, slices[stored])),
        limit=float(f"{max(limit, 1e-4):.5g}"),
        least_body=float(f"{_LEAST_BODY * min(bodies):.5g}"),
    )


def _stored(
    store: FeatureStore, refs: Sequence[SliceRef]
) -> Generator[tuple[SliceRef, Tensor, Tensor], None, None]:
    """Yield slices with their patch embeddings (N, D) and the share of each that is body (N,)."""
    tiling = store.tiling
    for ref, image, window in iter_slices(refs, store.preprocessing.window):
        grids = load_batch(store.paths([ref])).cpu()
        body = body_of_patches(apply_window(image, *window), tiling.grid)
        yield ref, grids.flatten(2).movedim(1, 2).flatten(0, 1), tiling.cut(body).flatten()


def _learn_kinds(pooled: Tensor) -> _Kinds:
    """Kinds of patches (n, C): k-means along their principal axes."""
    centre = pooled.mean(dim=0)
    _, _, axes = torch.linalg.svd(pooled - centre, full_matrices=False)
    axes = axes[:_DIMENSIONS]
    # The sign of an axis is arbitrary.
    axes = axes * axes.gather(1, axes.abs().argmax(dim=1, keepdim=True)).sign()
    rows = (pooled - centre) @ axes.T
    means = rows[_spread_by_chance(rows, _KINDS)]
    for _ in range(_ROUNDS):
        nearest = _squared(rows, means).argmin(dim=1)
        counts = torch.bincount(nearest, minlength=len(means))[:, None]
        sums = torch.zeros_like(means).index_add_(0, nearest, rows)
        means = torch.where(counts > 0, sums / counts.clamp_min(1), means)
    mean_squared = float(_squared(rows, means).amin(dim=1).mean())
    return _Kinds(centre, axes, means, max(_SOFTNESS * mean_squared, 1e-6))


def _spread_by_chance(rows: Tensor, count: int) -> Tensor:
    """First means of k-means++ (Arthur and Vassilvitskii, 2007): indices of rows."""
    generator = torch.Generator().manual_seed(0)
    chosen = [int(torch.randint(len(rows), (1,), generator=generator))]
    far = _squared(rows, rows[chosen])[:, 0]
    while len(chosen) < min(count, len(rows)) and bool((far > 0).any()):
        chosen.append(int(torch.multinomial(far, 1, generator=generator)))
        far = torch.minimum(far, _squared(rows, rows[chosen[-1:]])[:, 0])
    return torch.tensor(chosen)


def _spread_out(rows: Tensor, count: int) -> Tensor:
    """Choose rows so that every other one is near one of them: farthest point first."""
    chosen = [0]
    far = _squared(rows, rows[:1])[:, 0]
    while len(chosen) < min(count, len(rows)):
        chosen.append(int(far.argmax()))
        far = torch.minimum(far, _squared(rows, rows[chosen[-1:]])[:, 0])
    return torch.tensor(chosen)


def _squared(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances of rows, (..., n, d) and (m, d) to (..., n, m)."""
    product = a @ b.T
    squares = a.square().sum(dim=-1, keepdim=True) + b.square().sum(dim=-1)
    return (squares - 2 * product).clamp_min(0.0)


def _evenly(refs: Sequence[SliceRef], count: int) -> list[SliceRef]:
    return list(refs[:: max(1, -(-len(refs) // count))])


def channels_used(channels: int) -> int:
    """Return how many channels of an embedding are compared."""
    return len(range(0, channels, _step(channels)))


def _step(channels: int) -> int:
    return -(-channels // _MOST_CHANNELS)


def _rounded(values: Tensor) -> tuple[float, ...]:
    return tuple(float(f"{value:.4g}") for value in values.tolist())
