"""Scoring and embedding on more than one process or machine, with results anywhere.

The work on one scan is one function; `napari_spatial_ar.distributed.cluster` only says where it
runs.
"""
