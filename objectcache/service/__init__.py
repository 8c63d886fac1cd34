"""`tasuki cache`: the keeper, which owns the store and its workers."""
