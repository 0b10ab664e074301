"""Widgets and helpers that every dock is built from."""
