"""What an API server answers instead of an object, as an error of ours. Pure.

Source: metav1.Status. The text is the API server's own: it names user, verb and resource.
"""

from __future__ import annotations

import msgspec

from imagecache.api.yamltext import JSON
from imagecache.errors import (
    KubernetesDenied,
    KubernetesError,
    KubernetesUnavailable,
    ObjectConflict,
    ObjectExists,
    ObjectNotFound,
    ObjectRefused,
    WatchExpired,
)
from imagecache.kube.objects import at, text

_LONGEST = 1000
"""Characters of the text."""
_object = msgspec.json.Decoder(dict)


def error_of(code: int, body: bytes, what: str) -> KubernetesError:
    """The error for a status of 400 and more. ``what`` is said when the answer has no text: ``GET /api/v1/nodes``."""
    answer: JSON
    try:
        answer = _object.decode(body)
    except (msgspec.DecodeError, RecursionError):
        answer = None
    words = text(answer, "message")[:_LONGEST] or f"{what}: HTTP status {code}"
    if code in {401, 403}:
        return KubernetesDenied(words, hint="check the roles of our service account")
    if code == 404 or (code == 422 and _is_of_another(answer)):
        return ObjectNotFound(words)
    if code == 409:
        return (ObjectExists if at(answer, "reason") == "AlreadyExists" else ObjectConflict)(words)
    if code == 410:
        return WatchExpired(words)
    if code == 429 or code >= 500:
        return KubernetesUnavailable(words)
    return ObjectRefused(words)


def _is_of_another(answer: JSON) -> bool:
    """Whether a patch named the uid of an object that is gone, and there is another one of its name."""
    causes = at(answer, "details", "causes")
    return isinstance(causes, list) and any(text(each, "field") == "metadata.uid" for each in causes)
