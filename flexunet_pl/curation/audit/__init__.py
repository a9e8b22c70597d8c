"""Check a data set for faults, leaks and imbalance."""
