"""Descriptions of real machines, to be simulated by name."""
