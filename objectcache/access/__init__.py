"""Who may read and write which buckets."""
