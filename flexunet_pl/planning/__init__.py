"""Choose a whole config from the facts of a data set and a machine."""
