"""Exported files -> masks, without torch."""
