"""What every sub-package may use: errors and atomic files."""
