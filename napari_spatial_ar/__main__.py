"""``python -m napari_spatial_ar`` is the command line."""

from napari_spatial_ar.cli import main

if __name__ == "__main__":
    main()
