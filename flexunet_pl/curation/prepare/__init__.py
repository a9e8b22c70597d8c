"""Turn folders of images and masks into a data set."""
