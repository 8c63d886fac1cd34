"""Mutating and validating admission: makes sharing, chaining and feeding accelerators transparent to pods."""
