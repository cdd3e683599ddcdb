"""``imagecache explain``: why a pod started as it did, or why it waits."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from imagecache.cli import verdicts
from imagecache.cli.options import settings_flags
from imagecache.cli.sections import line, section
from imagecache.cli.session import Session, note, run, say
from imagecache.cli.verdicts import NamespaceOption, Output, OutputOption
from imagecache.errors import InvalidInput

if TYPE_CHECKING:
    import datetime as dt

    from imagecache.api.nodes import NodeCache
    from imagecache.api.yamltext import JSON
    from imagecache.match.explanation import Explanation, PodEvent

_ABSENT = "the node reports nothing of it"
_KINDS = frozenset({"", "pod", "pods", "po"})


@settings_flags("kubeconfig", "pods_auto_create")
def explain(
    session: Session,
    pod: Annotated[str, typer.Argument(metavar="pod/NAME", help="A pod of the cluster.")],
    of_namespace: NamespaceOption = None,
    node: Annotated[
        str, typer.Option("--node", metavar="NODE", help="As if the pod were on this node. [default: its own]")
    ] = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Show which ImageCache a pod of the cluster starts from, and why.

    The match is computed again, as of now: what the pod and the defaults around it ask for, and every cache that has
    something of the pod with its score and why it was not taken. Besides: whether the pod is or was held, what its node
    has, what the node's agent has told, and the events.

    With --node it says whether the pod would hit there, and what that node has of each cache.
    """
    kind, _, name = pod.rpartition("/")
    if kind.lower() not in _KINDS or not name:
        raise InvalidInput(
            f"{pod[:200]!r} is not pod/NAME", hint="only pods are explained; their names: kubectl get pods"
        )
    explanation, notes = run(_explain(session, of_namespace, name, node.strip()))
    for text in notes:
        note(text)
    if output is Output.JSON:
        from imagecache.api import dump

        sys.stdout.write(dump.to_json(_document(explanation)))
        return
    now = session.clock.now()
    for text in [*_head(explanation), *verdicts.lines(explanation.verdict, now), *_rest(explanation, now)]:
        say(text)


async def _explain(
    session: Session, of_namespace: str | None, name: str, node: str
) -> tuple[Explanation, tuple[str, ...]]:
    from imagecache.apps import cluster_documents
    from imagecache.concurrency import run_all
    from imagecache.match import explanation
    from imagecache.match.pod import read
    from imagecache.match.surroundings import surroundings

    async with session.cluster() as cluster:
        namespace = of_namespace or cluster.namespace
        item = await cluster_documents.pod(cluster.kube, namespace, name)
        found, told = await run_all(
            cluster_documents.around(cluster.kube, [namespace]), cluster_documents.events(cluster.kube, item)
        )
    around = surroundings(found.documents, verdicts.cluster_defaults(session.settings))
    notes = (*found.notes, *told.notes, *around.notes)
    return explanation.explain(read(item), around, told.documents, node=node), notes


def _head(found: Explanation) -> list[str]:
    where = f" on {found.pod.node}" if found.pod.node else ", without a node yet"
    return [
        line("Pod", f"{found.pod.namespace}/{found.pod.name}{where}"),
        line("Matched", _matched(found)),
        line("Held", _held(found)),
        *[line("Served", text) for text in found.served or ("<nothing told>",)],
        *([line("As if on", found.node)] if found.node != found.pod.node else []),
    ]


def _matched(found: Explanation) -> str:
    if not found.matched:
        return "<none>"
    return f"{found.matched} ({found.matched_name or 'of a cache that is gone'})"


def _held(found: Explanation) -> str:
    held = found.held
    word = "yes" if held.now else "it was" if held.before else "no"
    return f"{word}: {held.why}" if held.why else word


def _rest(found: Explanation, now: dt.datetime) -> list[str]:
    events = [(each.type, each.reason, _age(each, now), each.message) for each in found.events]
    return [*_node(found), *section("Events", ("TYPE", "REASON", "AGE", "MESSAGE"), events)]


def _node(found: Explanation) -> list[str]:
    from imagecache.api import columns

    if not found.node:
        return []
    if found.report is None:
        return [line("Node", f"{found.node}: no agent reports about its caches")]
    rows = [
        (
            each.name,
            each.id,
            each.state.value,
            f"{columns.size(each.bytes_done)} of {columns.size(each.bytes_total)}",
            _reason(each),
        )
        for each in found.on_node
    ]
    there = {each.name for each in found.on_node}
    if found.node != found.pod.node:  # what it lacks is the answer too
        rows += [(each.name, each.id, "", "", _ABSENT) for each in found.verdict.candidates if each.name not in there]
    mode = found.report.mode or "no mode"
    return section(f"Of these on {found.node} ({mode}) now", ("NAME", "ID", "STATE", "BYTES", "REASON"), rows)


def _reason(each: NodeCache) -> str:
    return f"{each.reason}: {each.message}" if each.message else each.reason


def _age(event: PodEvent, now: dt.datetime) -> str:
    from imagecache.api import columns, times

    try:
        age = columns.age((now - times.parse(event.last)).total_seconds())
    except ValueError:
        age = "<unknown>"
    return f"{age} (x{event.count})" if event.count > 1 else age


def _document(found: Explanation) -> dict[str, JSON]:
    """Keys are never removed."""
    own: dict[str, JSON] = {
        "kind": "Pod",
        "namespace": found.pod.namespace,
        "name": found.pod.name,
        "node": found.pod.node,
        "explainedNode": found.node,
        "matched": {"id": found.matched, "imageCache": found.matched_name},
        "held": {"now": found.held.now, "before": found.held.before, "why": found.held.why},
        "served": list(found.served),
        "onNode": _on_node(found.on_node) if found.report else None,
        "podEvents": [
            {"reason": each.reason, "type": each.type, "message": each.message, "count": each.count, "last": each.last}
            for each in found.events
        ],
    }
    return own | verdicts.document(found.verdict)


def _on_node(caches: Sequence[NodeCache]) -> list[JSON]:
    return [
        {
            "name": each.name,
            "id": each.id,
            "state": each.state.value,
            "bytesDone": each.bytes_done,
            "bytesTotal": each.bytes_total,
            "reason": each.reason,
            "message": each.message,
        }
        for each in caches
    ]
