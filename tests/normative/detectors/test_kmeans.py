"""Spherical k-means against scikit-learn's on rows of unit length."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch.nn import functional

from napari_spatial_ar.normative.detectors.kmeans import spherical_kmeans
from napari_spatial_ar.steps import finish

CPU = torch.device("cpu")


def test_groups_are_those_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    middle = functional.normalize(torch.randn(5, 16, generator=generator))
    group = torch.arange(200) % 5
    rows = functional.normalize(middle[group] + 0.1 * torch.randn(200, 16, generator=generator))
    found = finish(spherical_kmeans(rows, rows[:5], device=CPU))
    theirs = KMeans(5, init=rows[:5].numpy(), n_init=1, max_iter=6).fit(rows.numpy())
    ours = (rows @ found.T).argmax(dim=1)
    np.testing.assert_array_equal(ours, theirs.labels_)
    centres = functional.normalize(torch.from_numpy(theirs.cluster_centers_).float())
    torch.testing.assert_close(found, centres, atol=1e-5, rtol=0)


def test_a_mean_that_no_row_is_nearest_to_stays() -> None:
    rows = functional.normalize(torch.tensor([[1.0, 0.1], [1.0, -0.1]])).half()
    start = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    found = finish(spherical_kmeans(rows, start, rounds=2, device=CPU))
    torch.testing.assert_close(found, start, atol=1e-3, rtol=0)
