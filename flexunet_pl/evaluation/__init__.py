"""Score a model on images."""
