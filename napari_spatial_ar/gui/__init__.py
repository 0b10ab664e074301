"""napari's side: readers, writers and docks. A thin layer over the packages below it."""
