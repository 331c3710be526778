"""One daemon of several workers: the master's resources, merged from those of the workers."""
