"""Folders of scans as slices, patients and splits. No torch, no Qt."""
