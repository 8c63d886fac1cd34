"""Where devices are found: one module a source."""
