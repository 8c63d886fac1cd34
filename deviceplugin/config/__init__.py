"""The configuration of a node, accepted as the NVIDIA device plugin writes it."""
