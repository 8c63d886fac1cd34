"""`tasuki registry`: a read-through mirror of container registries in front of the cache."""
