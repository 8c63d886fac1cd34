"""What the command line and the environment say to the webhooks, read once at start."""

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, get_args

import msgspec

from tasuki.process.logging import LogFormat
from tasuki.process.options import (
    EVERY_ADDRESS,
    LOG_OPTIONS,
    Option,
    address,
    one_of,
    path,
    settled,
    words,
)

KubeApi = Literal["auto", "off"]

_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*")
_SERVICE: Final = "tasuki-webhooks"
DEFAULT_NAMESPACE: Final = "tasuki-system"
_LONGEST_DRAIN_SECONDS: Final = 300


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that stays as it is while the webhooks run.

    Attributes:
        modules_catalogue: Where a list of modules may lie; absent is as good as none.
        tls_dir: A folder with tls.crt and tls.key; None to issue our own certificate.
        tls_secret: Where our own is kept.
        webhook_configuration: The name of the MutatingWebhookConfiguration and the ValidatingWebhookConfiguration
            whose caBundle is kept.
        server_names: DNS names and IP addresses that our own certificate is for; empty for those of our Service.
        namespace: Ours; empty for that of the service account or the kubeconfig.
        client_ca: Whose certificates clients must show; None to ask for none.
        drain_seconds: How long new reviews are still answered after SIGTERM.
        trial: A file of pods to try the policy on, in place of serving.
        trial_namespace: Where they would be created if they do not say.
    """

    policy: Path = Path("/etc/tasuki/webhooks/policy.yaml")
    modules_catalogue: Path = Path("/etc/tasuki/modules/catalogue.txt")
    listen: tuple[str, int] = (EVERY_ADDRESS, 9443)
    metrics_address: tuple[str, int] | None = (EVERY_ADDRESS, 9424)
    tls_dir: Path | None = None
    tls_secret: str = "tasuki-webhooks-tls"  # noqa: S105 - a Secret's name
    webhook_configuration: str = _SERVICE
    server_names: tuple[str, ...] = ()
    namespace: str = ""
    client_ca: Path | None = None
    drain_seconds: float = 5.0
    kube_api: KubeApi = "auto"
    log_level: str = "info"
    log_format: LogFormat = "text"
    trial: Path | None = None
    trial_namespace: str = "default"

    def names(self, namespace: str) -> tuple[str, ...]:
        """What our own certificate is for."""
        service = f"{_SERVICE}.{namespace}.svc"
        return self.server_names or (service, f"{service}.cluster.local")


def _name(text: str) -> str:
    if len(text) > 253 or _NAME.fullmatch(text) is None:
        raise ValueError("a Kubernetes name: lower-case letters, digits, '-' and '.'")
    return text


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]+)?", text) or float(text) > _LONGEST_DRAIN_SECONDS:
        raise ValueError(f"a number of seconds from 0 to {_LONGEST_DRAIN_SECONDS}")
    return float(text)


_OPTIONS: Final = (
    Option(
        "policy", "policy", "TASUKI_POLICY", path,
        "what admission does, read again when it changes (/etc/tasuki/webhooks/policy.yaml)",
    ),
    Option(
        "modules_catalogue", "modules-catalogue", "TASUKI_MODULES_CATALOGUE", path,
        "the environment modules that there are, as `module -t spider` lists them; it need not be there "
        "(/etc/tasuki/modules/catalogue.txt)",
    ),
    Option(
        "listen", "listen", "TASUKI_LISTEN", address("9443", "", EVERY_ADDRESS),
        "where reviews are served over HTTPS, at /mutate and /validate (every address, port 9443)",
    ),
    Option(
        "metrics_address", "metrics-address", "TASUKI_METRICS_ADDRESS",
        address("9424", ", or empty for no metrics", EVERY_ADDRESS),
        "where /metrics, /readyz and /healthz are served over HTTP; empty: nowhere (every address, port 9424)",
        empty=(None,),
    ),
    Option(
        "tls_dir", "tls-dir", "TASUKI_TLS_DIR", path,
        "a folder with tls.crt and tls.key, read again when they change; empty: our own certificate (empty)",
        empty=(None,),
    ),
    Option(
        "tls_secret", "tls-secret", "TASUKI_TLS_SECRET", _name,
        "the Secret that holds our own certificate and its authority (tasuki-webhooks-tls)",
    ),
    Option(
        "webhook_configuration", "webhook-configuration", "TASUKI_WEBHOOK_CONFIGURATION", _name,
        "the name of the MutatingWebhookConfiguration and the ValidatingWebhookConfiguration whose caBundle is kept "
        "(tasuki-webhooks)",
    ),
    Option(
        "server_names", "server-names", "TASUKI_SERVER_NAMES", words,
        "DNS names and IP addresses that our own certificate is for "
        "(tasuki-webhooks.<namespace>.svc, also with .cluster.local)",
        is_list=True,
    ),
    Option(
        "namespace", "namespace", "TASUKI_NAMESPACE", _name,
        "the namespace that the webhooks run in, whose pods they leave alone (the service account's)",
    ),
    Option(
        "client_ca", "client-ca", "TASUKI_CLIENT_CA", path,
        "certificates of authorities, of which a client must show one's; empty: clients show none (empty)",
        empty=(None,),
    ),
    Option(
        "drain_seconds", "drain-seconds", "TASUKI_DRAIN_SECONDS", _seconds,
        "how long new reviews are still answered after SIGTERM, until every API server knows (5)",
    ),
    Option(
        "kube_api", "kube-api", "TASUKI_KUBE_API", one_of(get_args(KubeApi)),
        "auto: watch nodes, namespaces and priority classes if an API server is configured; off (auto)",
    ),
    *LOG_OPTIONS,
    Option(
        "trial", "try", "TASUKI_TRY", path,
        "do not serve: print what would become of the pods in this YAML file, then end; `-` is standard input (none)",
    ),
    Option(
        "trial_namespace", "in-namespace", "TASUKI_TRY_NAMESPACE", _name,
        "with --try: where pods that do not say would be created (default)",
    ),
)  # fmt: skip


def read(argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Settings from arguments (without the program's name) and variables; a flag goes before its variable.

    Raises:
        SystemExit: With 2 and a sentence on standard error if something is wrong, with 0 after `--help`.
    """
    parser = argparse.ArgumentParser(
        prog="tasuki webhooks",
        usage="%(prog)s [options]",
        description="Admit pods: give them what sharing, chaining and feeding accelerators takes.",
        epilog="A flag goes before its environment variable [in brackets]. docs/admission.md says how to run them, "
        "docs/admission-policy.md what the policy may say.",
        allow_abbrev=False,
    )
    return settled(parser, _OPTIONS, argv, environ, lambda found: Settings(**found))
