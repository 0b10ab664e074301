"""Scans waiting to be read: their order, their scores, and what is kept of them. No Qt."""
