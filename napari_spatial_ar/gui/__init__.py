"""napari's side: readers, writers and docks. Thin; what they know stands elsewhere."""
