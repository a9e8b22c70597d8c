"""Quantize an exported graph to int8."""
