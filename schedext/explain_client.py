"""`tasuki explain pod namespace/name`: asks the extender why a pod goes where it goes; read `main` first."""

import argparse
import asyncio
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn
from urllib.parse import quote, urlencode, urlsplit

from schedext.explain_page import DEFAULT_LIMIT, FORMATS, PATH, QuestionError, pod_name
from tasuki.kube.client import connect
from tasuki.kube.errors import ForbiddenError, KubeConfigError, KubeError, NotFoundError

URL_VARIABLE: Final = "TASUKI_SCHEDEXT_URL"

_NAMESPACE: Final = "tasuki-system"
# The Service and its port, as manifests/schedext names them.
_PROXY: Final = "/api/v1/namespaces/{}/services/http:tasuki-schedext:explain/proxy"
_SECONDS: Final = 30.0
_KINDS: Final = frozenset({"text/plain", "application/json"})
_MOST_ERROR_BYTES: Final = 4096


class ClientError(Exception):
    """The explanation cannot be had; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line asks.

    Attributes:
        query: For the page, encoded.
        server: The URL of an extender; empty to go through the API server.
        namespace: The extender's.
    """

    query: str
    server: str
    namespace: str


def main(argv: Sequence[str]) -> int:
    """Print an explanation; 1 if there is none to be had, 2 if the question is wrong."""
    asked = read(argv, os.environ)
    try:
        explanation = _from_server(asked) if asked.server else asyncio.run(_from_cluster(asked))
    except ClientError as error:
        print(f"tasuki explain: {error}", file=sys.stderr)  # noqa: T201 - what a person asked for
        return 1
    sys.stdout.write(explanation.decode(errors="replace"))
    return 0


def read(argv: Sequence[str], environ: Mapping[str, str]) -> Asked:
    """What is asked, by arguments (without the program's name) and variables.

    Raises:
        SystemExit: With 2 and a sentence on standard error if something is wrong, with 0 after `--help`.
    """
    parser = argparse.ArgumentParser(
        prog="tasuki explain",
        description="Say why a pod goes where it goes: what each node would cost it, or why it does not fit there.",
        epilog="Without --server the extender is asked through the API server that KUBECONFIG names, or that of the "
        "service account; this takes the verb get on services/proxy in the extender's namespace.",
        allow_abbrev=False,
    )
    parser.add_argument("kind", choices=["pod"], help="what is to be explained")
    parser.add_argument("name", help="namespace/name, or a name in the namespace default")
    parser.add_argument(
        "--server", metavar="URL", default=environ.get(URL_VARIABLE, ""),
        help=f"ask this extender, such as http://127.0.0.1:9445 (none) [{URL_VARIABLE}]",
    )  # fmt: skip
    parser.add_argument(
        "--namespace", default=_NAMESPACE, help=f"the namespace that the extender runs in ({_NAMESPACE})"
    )
    parser.add_argument("--format", choices=FORMATS, default=FORMATS[0], help=f"how it is written ({FORMATS[0]})")
    parser.add_argument(
        "--limit", metavar="COUNT", type=int, default=DEFAULT_LIMIT,
        help=f"of nodes and of reasons; 0 for all ({DEFAULT_LIMIT})",
    )  # fmt: skip
    given = parser.parse_args(argv)
    try:
        pod = "/".join(pod_name(given.name))
    except QuestionError as error:
        parser.error(str(error))
    if not 0 <= given.limit < 10**6:
        parser.error(f"--limit is {given.limit}; it must be a number of nodes, or 0 for all")
    if given.server and (urlsplit(given.server).scheme not in {"http", "https"} or not urlsplit(given.server).netloc):
        parser.error(f"--server is {given.server!r}; it must be a URL such as http://127.0.0.1:9445")
    query = urlencode({"pod": pod, "format": given.format, "limit": given.limit})
    return Asked(query, given.server.rstrip("/"), given.namespace)


def _from_server(asked: Asked) -> bytes:
    url = f"{asked.server}{PATH}?{asked.query}"
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS) as answer:  # noqa: S310 - http or https: see `read`
            kind, content = answer.headers.get_content_type(), bytes(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            said = _printable(error.read(_MOST_ERROR_BYTES).decode(errors="replace").strip())
        raise ClientError(said or f"{asked.server} answers {error.code}") from error
    except (OSError, ValueError) as error:
        raise ClientError(f"there is no answer from {asked.server}: {error}") from error
    if kind not in _KINDS:
        raise ClientError(f"{asked.server} answers with {kind}, so it is no extender; give the URL of its explain port")
    return content


async def _from_cluster(asked: Asked) -> bytes:
    try:
        kube = await connect(timeout_seconds=_SECONDS)
    except KubeConfigError as error:
        raise ClientError(str(error)) from error
    if kube is None:
        raise ClientError(
            f"no API server is configured; set KUBECONFIG, or name an extender with --server or {URL_VARIABLE}"
        )
    try:
        return await kube.content(f"{_PROXY.format(quote(asked.namespace, safe=''))}{PATH}?{asked.query}")
    except KubeError as error:
        _explain_failure(asked, error)
    finally:
        await kube.close()


def _explain_failure(asked: Asked, error: KubeError) -> NoReturn:
    """What the extender says has no reason in Kubernetes' words; what the API server says has one."""
    if error.status and not error.reason:
        raise ClientError(error.message.strip()) from error
    if isinstance(error, NotFoundError):
        text = f"there is no Service tasuki-schedext in the namespace {asked.namespace}; name another with --namespace"
        raise ClientError(text) from error
    if isinstance(error, ForbiddenError):
        raise ClientError(f"{error}; it takes the verb get on services/proxy in {asked.namespace}") from error
    raise ClientError(str(error)) from error


def _printable(text: str) -> str:
    """Without what would give a terminal orders."""
    return "".join(each for each in text if each.isprintable() or each == "\n")
