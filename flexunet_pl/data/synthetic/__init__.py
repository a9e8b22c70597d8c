"""Synthetic surfaces with defects: the demo data set."""
