"""The annotations that a pod is matched by, the one that it gets, and the gate that holds it. Source: eci-api §3."""

from __future__ import annotations

from typing import Final

from imagecache.api import nodes
from imagecache.api.annotations import PREFIX

OURS: Final = "imagecache.dev/"
AUTO: Final = PREFIX + "eci-auto-imc"
AUTO_OLD: Final = PREFIX + "eci-image-cache"
PIN: Final = PREFIX + "eci-imc-id"
PIN_OLD: Final = PREFIX + "eci-image-snapshot-id"
PERFECT: Final = PREFIX + "imc-perfect-match"
COUNT: Final = PREFIX + "imc-match-count-request"
EXTRA_STORAGE: Final = PREFIX + "eci-extra-ephemeral-storage"
CREATE: Final = OURS + "auto-create"
"""Ours: upstream creates a cache whenever it matches automatically and misses; here it is asked for."""
REQUIRE_NODE: Final = OURS + "require-node"
"""Ours: a pinned pod starts on nodes that have the cache and on no others."""
KEYS: Final = (AUTO, AUTO_OLD, PIN, PIN_OLD, PERFECT, COUNT, CREATE, REQUIRE_NODE)

MATCHED: Final = PREFIX + "eci-matched-image-cache"
"""Written on the pod: the id of the cache that serves it."""
GATE: Final = OURS + "pinned"
"""Scheduling gate of a pod whose pinned cache is not usable yet. Part of the API: never renamed."""
AUTO_CREATED: Final = OURS + "auto-created"
"""Label of a cache that a miss has made."""
CREATED_FOR: Final = nodes.CREATED_FOR
"""Annotation of such a cache: ``namespace/uid`` of the pod that it was made for first."""
