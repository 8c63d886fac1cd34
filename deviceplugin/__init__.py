"""The device plugins of one node: every accelerator that it has, as Kubernetes resources."""
