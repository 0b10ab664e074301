"""Scoring and embedding in several processes or on several machines, with results anywhere.

The work on one scan is one function; `napari_spatial_ar.distributed.cluster` only decides where it
runs.
"""
