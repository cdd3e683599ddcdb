"""``imagecache controller``: the cluster's controller."""

from __future__ import annotations

from contextlib import suppress

from imagecache.cli.options import settings_flags
from imagecache.cli.session import Session, run
from imagecache.errors import Interrupted


@settings_flags(
    "kubeconfig",
    "lease_namespace",
    "controller_builds",
    "max_caches",
    "max_store_size",
    "tag_check_interval",
    "serve_address",
    "serve_certificate",
    "serve_key",
    "serve_agents",
    "metrics_address",
    "hosts",
    "registry_ca",
    "registry_retries",
    "registry_connect_timeout",
    "registry_read_timeout",
    "jobs",
    service=True,
)
def controller(session: Session) -> None:
    """Run the controller of a Kubernetes cluster.

    Builds the ImageCaches of the cluster into the store, and serves the store to the agents of its nodes.

    Several may run: one leads, the others wait. Stops on SIGTERM; the next leader continues the builds.
    """
    from imagecache.apps.controller import ClusterController
    from imagecache.store.store import Store

    store = Store.open(session.settings.store, session.clock)
    with suppress(Interrupted):
        run(ClusterController(store, session.settings, session.clock).run())
