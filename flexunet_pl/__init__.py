"""FlexUNet for multiclass defect segmentation: train, judge, export, run anywhere."""

__version__ = "0.1.0"
