"""What a container gets for the slices that it was given: one module a kind of device."""
