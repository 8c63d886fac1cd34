"""What admission adds to a pod, one mutation a file: plain functions from a pod and a scene to a change."""
