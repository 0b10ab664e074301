"""``python -m napari_spatial_ar.cli`` is the command line."""

from napari_spatial_ar.cli import main

main()
