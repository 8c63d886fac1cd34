"""The parts of Kubernetes that we read and write."""
