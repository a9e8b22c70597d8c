"""Models behind HTTP: all of it on exported bundles, without torch."""
