"""Convert a TensorFlowFlexUNet project."""
