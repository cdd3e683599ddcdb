"""``imagecache match``: which cache the pods of a manifest would start from."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from imagecache.cli import files, verdicts
from imagecache.cli.manifests import Files
from imagecache.cli.options import settings_flags
from imagecache.cli.sections import line
from imagecache.cli.session import Session, note, run, say
from imagecache.cli.verdicts import NamespaceOption, Output, OutputOption
from imagecache.errors import InvalidInput, InvalidManifest, MalformedDocument

if TYPE_CHECKING:
    from imagecache.api.yamltext import JSON
    from imagecache.apps.cluster_documents import Read
    from imagecache.match.pod import Pod
    from imagecache.match.views import PodView, Verdict

    Object = dict[str, JSON]


@dataclass(slots=True)
class _Found:
    """What the files have."""

    pods: list[tuple[str, Pod]] = field(default_factory=list)
    """Each with the kind that it is of, or that makes it."""
    around: list[Object] = field(default_factory=list)
    """Documents that a match depends on."""
    others: dict[str, None] = field(default_factory=dict)
    """Kinds of the rest, in order."""


@dataclass(frozen=True, slots=True)
class _Matched:
    kind: str
    pod: PodView
    verdict: Verdict


@settings_flags("kubeconfig", "pods_auto_create")
def match(
    session: Session,
    file: Files,
    of_namespace: NamespaceOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show which ImageCache the pods of a manifest would start from, and why.

    The manifest has Pods, Deployments, StatefulSets, DaemonSets, ReplicaSets, Jobs or CronJobs.

    Caches, Namespaces and eci-profile are the cluster's. When the files have ImageCaches, all of that is taken from the
    files and the cluster is not asked; an ImageCache without a status is taken as one that is Ready.
    """
    from imagecache.match.pod import view
    from imagecache.match.surroundings import surroundings
    from imagecache.match.verdict import match as decide

    found = _read(file)
    if not found.pods:
        raise InvalidInput("the files have no Pod, and nothing that makes pods", hint="imagecache match --help")
    home, read = _around(session, found, of_namespace)
    around = surroundings([*read.documents, *found.around], verdicts.cluster_defaults(session.settings))
    ignored = [f"ignored: {', '.join(found.others)}"] if found.others else []
    for text in (*ignored, *read.notes, *around.notes):
        note(text)
    matched = []
    for kind, pod in found.pods:
        seen = view(_at_home(pod, home))
        matched.append(_Matched(kind, seen, decide(seen, around.defaults(seen.namespace), around.index)))
    _show(session, matched, output)


def _read(paths: Sequence[Path]) -> _Found:
    """Raises InvalidInput."""
    from imagecache.api import yamltext
    from imagecache.match.surroundings import items

    found = _Found()
    for path in paths:
        source = "stdin" if path == files.STANDARD else str(path)
        for document in yamltext.load(files.text(path), source):
            for item in items(document.value):
                _take(item, source, found)
    return found


def _take(item: Object, source: str, found: _Found) -> None:
    from imagecache.match import selectors
    from imagecache.match.pod import read_workload
    from imagecache.match.surroundings import CONFIG_MAP, KINDS, kind_of

    group, kind = kind_of(item)
    try:
        pod = read_workload(group, kind, item)
    except MalformedDocument as error:
        raise InvalidManifest(f"{source}: {kind}: {error}", hint="kubectl apply --dry-run=server says more") from error
    if pod is not None:
        found.pods.append((kind, pod))
    elif (group, kind) in KINDS and ((group, kind) != CONFIG_MAP or selectors.is_profile(item)):
        found.around.append(item)
    else:
        found.others[kind or "a document without a kind"] = None


def _around(session: Session, found: _Found, of_namespace: str | None) -> tuple[str, Read]:
    """The namespace of pods that name none, and what the cluster has, if it is to be asked."""
    from imagecache.apps.cluster_documents import Read
    from imagecache.match.pod import DEFAULT_NAMESPACE
    from imagecache.match.surroundings import IMAGE_CACHE, kind_of

    if any(kind_of(item) == IMAGE_CACHE for item in found.around):
        return of_namespace or DEFAULT_NAMESPACE, Read()
    return run(_ask_cluster(session, found, of_namespace))


async def _ask_cluster(session: Session, found: _Found, of_namespace: str | None) -> tuple[str, Read]:
    from imagecache.apps import cluster_documents

    async with session.cluster() as cluster:
        home = of_namespace or cluster.namespace
        namespaces = [pod.metadata.namespace or home for _, pod in found.pods]
        return home, await cluster_documents.around(cluster.kube, namespaces)


def _at_home(pod: Pod, namespace: str) -> Pod:
    """In that namespace, unless it names one."""
    import msgspec

    metadata = msgspec.structs.replace(pod.metadata, namespace=pod.metadata.namespace or namespace)
    return msgspec.structs.replace(pod, metadata=metadata)


def _show(session: Session, matched: Sequence[_Matched], output: Output) -> None:
    from imagecache.api import dump

    if output is Output.JSON:
        sys.stdout.write(dump.to_json({"pods": [_document(each) for each in matched]}))
        return
    now = session.clock.now()
    for number, each in enumerate(matched):
        if number:
            say("")
        for text in [line(each.kind, f"{each.pod.namespace}/{each.pod.name}"), *verdicts.lines(each.verdict, now)]:
            say(text)


def _document(each: _Matched) -> dict[str, JSON]:
    own: Object = {"kind": each.kind, "namespace": each.pod.namespace, "name": each.pod.name}
    return own | verdicts.document(each.verdict)
