"""DICOM in and out: series as volumes, masks and heatmaps as DICOM objects."""
