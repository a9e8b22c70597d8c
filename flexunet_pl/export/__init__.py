"""Checkpoint -> files that run elsewhere, and back."""
