"""Describe a network of plain torch: its layers, costs, receptive field and drawing."""
