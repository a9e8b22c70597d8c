"""Folders as people have them -> a data set one can trust."""
