"""Scans in and out: reading, geometry, windows, masks. No torch, no Qt."""
