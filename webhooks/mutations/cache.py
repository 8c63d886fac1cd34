"""`tasuki.dev/cache`: the object cache's address, a token for it, and the buckets that the scheduler extender reads."""

import re
from collections.abc import Iterator, Sequence
from typing import Final

from tasuki.kube.names import CACHE, CACHE_BUCKET_PATTERN, CACHE_BUCKETS
from tasuki.process.sentences import shown
from webhooks.editing import add_missing_env, add_mounts, add_volumes, set_annotations
from webhooks.mutations.injected import users_containers
from webhooks.patch import Operation, Operations, add
from webhooks.pod import EnvVar, Place, Pod, Volume, VolumeMount, annotation
from webhooks.policy.model import Cache
from webhooks.scene import NOTHING, Change, RefusedError, Scene

_VOLUME: Final = "tasuki-cache-token"
_FILE: Final = "token"
_DEFAULT_ACCOUNT: Final = "default"

_LONGEST_NAME: Final = 63
_BUCKET: Final = re.compile(CACHE_BUCKET_PATTERN)
_SEPARATORS: Final = re.compile(r"[,\s]+")


def cache(pod: Pod, scene: Scene) -> Change:
    written = annotation(pod, CACHE)
    if not written:
        if not annotation(pod, CACHE_BUCKETS):
            return NOTHING
        # Left, because placement alone may be what is wanted, by a pod that brings its own token.
        text = f"{CACHE_BUCKETS} alone only guides the scheduler; write {CACHE} to get the cache's address and a token"
        return Change(warnings=(text,))
    if scene.policy.cache is None:
        raise RefusedError(f"{CACHE}: this cluster offers no object cache; leave the annotation out")
    return _connected(pod, scene.policy.cache, _buckets(written))


def _connected(pod: Pod, offer: Cache, buckets: Sequence[str]) -> Change:
    env = _env(offer, buckets)
    mount = VolumeMount(name=_VOLUME, mount_path=offer.mount_path, read_only=True)
    summary = {CACHE_BUCKETS: ",".join(buckets)}
    operations: list[Operation] = [*_account(pod), *add_volumes(pod, [_token(offer)]), *set_annotations(pod, summary)]
    warnings: list[str] = []
    if pod.metadata.annotations.get(CACHE_BUCKETS, summary[CACHE_BUCKETS]) != summary[CACHE_BUCKETS]:
        warnings.append(f"{CACHE_BUCKETS} was replaced by what {CACHE} says; leave it out")
    for place in users_containers(pod):
        operations += add_mounts(place, [mount])
        operations += add_missing_env(place, env)
        warnings += _kept(place, env)
    return Change(operations=tuple(operations), warnings=tuple(warnings), notes={"cache": summary[CACHE_BUCKETS][:256]})


def _account(pod: Pod) -> Operations:
    """Whose the token is.

    The API server's own plugin ServiceAccount writes the same before we are asked. Where it is switched off, a pod that
    names no account and has a token is refused (kubernetes/kubernetes, pkg/apis/core/validation/validation.go).
    """
    return () if pod.spec.service_account_name else (add("/spec/serviceAccountName", _DEFAULT_ACCOUNT),)


def _token(offer: Cache) -> Volume:
    """The kubelet makes the file readable for every container that mounts it, whatever its user.

    The mode is 0644 where users differ or are unknown, 0600 and the user's own where all containers name the same
    user, and 0640 and fsGroup's where the pod has one (kubernetes/kubernetes, pkg/volume/projected/projected.go and
    FsUserFrom in pkg/volume/util/util.go). So no mode is set here, which could only make that worse. The file ends
    without a newline, and pfio sends what it finds.
    """
    token = {"audience": offer.audience, "expirationSeconds": offer.expiration_seconds, "path": _FILE}
    return Volume(name=_VOLUME, projected={"sources": [{"serviceAccountToken": token}]})


def _env(offer: Cache, buckets: Sequence[str]) -> list[EnvVar]:
    env = [
        EnvVar(name="PFIO_HTTP_BEARER_TOKEN_PATH", value=f"{offer.mount_path.rstrip('/')}/{_FILE}"),
        EnvVar(name="TASUKI_CACHE_URL", value=offer.url.rstrip("/")),
    ]
    if len(buckets) == 1:
        env.append(EnvVar(name="TASUKI_CACHE_BUCKET", value=buckets[0]))
    return env


def _kept(place: Place, wanted: Sequence[EnvVar]) -> Iterator[str]:
    """A variable that the pod sets itself goes before ours."""
    there = {variable.name: variable for variable in place.container.env}
    for variable in wanted:
        found = there.get(variable.name)
        if found is not None and (found.value, found.value_from) != (variable.value, None):
            yield f"container {shown(place.container.name)} keeps its own {variable.name}, not the one of {CACHE}"


def _buckets(text: str) -> list[str]:
    buckets = sorted({name for name in _SEPARATORS.split(text) if name})
    if not buckets:
        raise RefusedError(f"{CACHE} names no bucket; write one or more, separated by commas")
    for name in buckets:
        if _BUCKET.fullmatch(name) is None:
            raise RefusedError(
                f"{CACHE}: {shown(name)} is no bucket's name; {_instead(name)}names have lower-case letters, digits, "
                f"'-' and '.', begin and end with a letter or digit, and are at most {_LONGEST_NAME} long"
            )
    return buckets


def _instead(name: str) -> str:
    likely = re.sub(r"[^a-z0-9.-]+", "-", name[:_LONGEST_NAME].lower()).strip("-.")
    return f"is it {likely!r}? " if likely else ""
