"""What stands for something else in these tests, and in the docks, has what that has."""

from __future__ import annotations

import inspect
from typing import Any, get_type_hints

from napari_spatial_ar.gui import model_access
from napari_spatial_ar.gui.review.context import ReviewContext
from napari_spatial_ar.normative.library import ModelEntry


def members(protocol: type) -> set[str]:
    """Names of what a protocol asks for."""
    own = {name for name in vars(protocol) if not name.startswith("_")}
    return own | set(protocol.__annotations__)


def test_the_review_dock_is_what_its_worklist_asks_for(dock: Any) -> None:
    made = dock(window=True)
    types = get_type_hints(ReviewContext)
    assert {"viewer", "scorer", "session", "running"} <= members(ReviewContext)
    for name in members(ReviewContext):
        value = getattr(made, name)
        if name in types:
            assert isinstance(value, types[name]), name


def test_entries_of_the_library_are_stood_for_by_what_they_have(models: Any) -> None:
    (fake,) = model_access.list_models()
    assert type(fake) is not ModelEntry
    shown = {name for name in dir(fake) if not name.startswith("_")}
    assert shown <= set(dir(ModelEntry)) | set(inspect.get_annotations(ModelEntry))
