"""Batches -> logits -> loss and scores: plain torch, no Lightning."""
