"""The hot path: one process a core that answers requests."""
