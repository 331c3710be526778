"""An object store as a storage: keys as names, ranges of objects in threads."""
