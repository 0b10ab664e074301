"""Archives of DICOM objects (PACS): find, get, send and receive, by DICOMweb and by DIMSE.

Nothing here knows Qt or torch. `napari_spatial_ar.archive.opening.open_archive` opens an archive by
its URL; transfers are generators (see `napari_spatial_ar.steps`).
"""
