"""Tells the stock scheduler where accelerators have room, and which node is near a pod's neighbours and its data."""
