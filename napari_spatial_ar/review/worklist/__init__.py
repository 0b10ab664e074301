"""Scans waiting to be read: their order, their scores, and what is stored of them. No Qt."""
