"""Measurements, side by side with a floor or a peer in one run; each prints a table."""
