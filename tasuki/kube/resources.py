"""Names of resources, as Kubernetes tells them apart."""


def is_extended(resource: str) -> bool:
    """As kubernetes, pkg/apis/core/v1/helper, IsExtendedResourceName."""
    return "/" in resource and "kubernetes.io/" not in resource and not resource.startswith("requests.")
