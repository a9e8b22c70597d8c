"""Annotations of labelling tools <-> class masks: one module for each format, all listed in ``registry``."""
