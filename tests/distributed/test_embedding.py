"""Grids that were embedded on a cluster are those embedded here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from napari_spatial_ar.datasets.folders import find_slices
from napari_spatial_ar.distributed.cluster import Cluster, here
from napari_spatial_ar.distributed.embedding import _tasks, extract_on
from napari_spatial_ar.errors import InputError
from napari_spatial_ar.imaging.windows import Window
from napari_spatial_ar.normative.fitting.feature_store import FeatureStore
from napari_spatial_ar.normative.preprocessing import Preprocessing
from tests.distributed.conftest import NAMES
from tests.tiny import make_backbone, make_spec

pytest.importorskip("distributed")


def test_grids_are_the_same_and_what_is_there_is_not_embedded_again(
    home: Path, scans: list[Path], tmp_path: Path, cluster: Cluster
) -> None:
    preprocessing = Preprocessing(Window("percentile", 0.5, 99.5), (64, 64))
    backbone = make_backbone(make_spec())
    alone, store = (FeatureStore(backbone, preprocessing, tmp_path / name) for name in "ab")
    refs = find_slices([home / "scans", home / "normal"], modality="mri").train
    *_, last = alone.extract(refs)
    some = extract_on(cluster.run, store, refs, device="cpu")
    for _ in range(5):
        next(some)
    some.close()
    assert 0 < len(store.missing(refs)) < len(refs)
    counts = list(extract_on(cluster.run, store, refs, device="cpu"))
    assert counts[0] >= 4
    assert counts[-1] == last == len(refs)
    for one, other in zip(alone.paths(refs), store.paths(refs), strict=True):
        np.testing.assert_allclose(np.load(one), np.load(other), rtol=2e-3, atol=2e-3)
    assert list(extract_on(cluster.run, store, refs)) == [len(refs)]
    assert not any(name in repr(list(_tasks(refs))) for name in NAMES)


def test_a_slice_that_cannot_be_embedded_is_one_sentence(
    home: Path, scans: list[Path], tmp_path: Path
) -> None:
    preprocessing = Preprocessing(Window("percentile", 0.5, 99.5), (64, 64))
    store = FeatureStore(make_backbone(make_spec()), preprocessing, tmp_path)
    copy = tmp_path / "DOE.nii.gz"
    copy.write_bytes(scans[0].read_bytes())
    refs = find_slices(copy, modality="mri").train
    steps = extract_on(here, store, refs, device="cpu")
    assert next(steps) == 0
    copy.write_bytes(b"no scan")
    with pytest.raises(InputError, match=r"DOE\.nii\.gz"):
        list(steps)
