"""``imagecache controller``: the cluster's controller."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated

import typer

from imagecache.cli.options import settings_flags
from imagecache.cli.session import Session, run, say
from imagecache.errors import Interrupted


@settings_flags(
    "kubeconfig",
    "lease_namespace",
    "leases",
    "controller_builds",
    "pods",
    "pods_auto_create",
    "auto_caches",
    "auto_caches_per_namespace",
    "max_caches",
    "max_store_size",
    "tag_check_interval",
    "serve_address",
    "serve_certificate",
    "serve_key",
    "serve_agents",
    "serve_compressed_size",
    "metrics_address",
    "hosts",
    "registry_ca",
    "insecure_registries",
    "labelled_secrets",
    "registry_retries",
    "registry_connect_timeout",
    "registry_read_timeout",
    "jobs",
    "store_reserve",
    service=True,
)
def controller(
    session: Session,
    release: Annotated[
        bool,
        typer.Option("--release", help="Let every pod go that waits for a pinned cache, and end: before uninstalling."),
    ] = False,
) -> None:
    """Run the controller of a Kubernetes cluster.

    Builds the ImageCaches of the cluster into the store, serves the store to the agents of its nodes, and matches pods.

    Several may run: one leads, the others wait. Stops on SIGTERM; the next leader continues the builds.
    """
    if release:
        from imagecache.api import columns
        from imagecache.apps.pods import release_pods

        say(f"{columns.count(run(release_pods(session.settings)), 'pod')} let go")
        return
    from imagecache.apps.controller import ClusterController
    from imagecache.apps.store import open_store

    store = open_store(session.settings, session.clock)
    with suppress(Interrupted):
        run(ClusterController(store, session.settings, session.clock).run())
