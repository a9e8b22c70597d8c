"""Prepare data sets from folders of images and masks, and audit them."""
