"""What an ImageCache may ask for follows from what its author may do otherwise (Kubernetes 1.30).

The controller reads pull secrets that its author could not read, and fills every node's disk: without this policy
whoever may create ImageCaches uses both. Only what a request changes is asked, so the owner of an annotation need not
read the Secrets of another one's spec.
"""

from __future__ import annotations

from imagecache.api import annotations as known
from imagecache.api import nodes, types
from tools.install.admission import matched, policy, validation
from tools.install.template import Document, Expression, Node, When, equals, given, join
from tools.install.values import FENCED, number_as_text

NAME = "imagecache-authors"
SECRETS = 20
"""Of one ImageCache. A question to the authorizer costs 350,000, an expression may cost a million and a policy ten."""
PRIORITIZE, EXCEED = "prioritize", "exceed"
"""Verbs on ImageCaches that nothing but this policy asks for."""
_READABLE = equals("authors.pullSecrets", "readable")
_LIMITED = given("authors.maxSizeGiB")
_SECRET = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?:[a-z0-9]([-.a-z0-9]*[a-z0-9])?$"  # noqa: S105 - how one is named
_PLAIN = "^[!-~]*$"
"""What is plain and no name is the controller's to refuse, in the status; what is not, it may read in another way."""
_ALLOWED = f"authorizer.group('{types.GROUP}').resource('imagecaches').check('{{}}').allowed()"


def authors() -> list[Document]:
    return policy(NAME, _spec(), FENCED)


def _spec() -> dict[str, Node]:
    return {
        "failurePolicy": "Fail",
        "matchConstraints": {"resourceRules": [matched(types.GROUP, "v1", ["CREATE", "UPDATE"], "imagecaches")]},
        # ``dyn``: fields may be null, which the API server's type checker does not expect
        "variables": [
            {"name": "after", "expression": "dyn(object)"},
            {"name": "before", "expression": "dyn(oldObject)"},
            _variable("changed", "variables.before == null || variables.before.spec != variables.after.spec"),
            _variable("named", _or("variables.after.spec.?imagePullSecrets", "[]")),
            _variable("secrets", "variables.changed ? variables.named.map(each, each.trim()) : []"),
            *_both("priority", _annotation(nodes.PRIORITY, "{}")),
            *_both("size", _size("{}")),
        ],
        "validations": [
            When(
                _READABLE,
                validation(
                    f"variables.secrets.all(each, each.matches('{_PLAIN}'))",
                    "spec.imagePullSecrets: write each one as namespace:name, without blanks and other characters",
                ),
            ),
            When(
                _READABLE,
                validation(
                    f"variables.secrets.size() <= {SECRETS}",
                    f"spec.imagePullSecrets: at most {SECRETS} are asked for; create a second ImageCache",
                ),
            ),
            *(When(_READABLE, _readable(first)) for first in range(0, SECRETS, 2)),
            validation(
                "variables.priorityAfter in ['', '0', variables.priorityBefore] || " + _ALLOWED.format(PRIORITIZE),
                f"{nodes.PRIORITY}: it decides for all ImageCaches which one goes first, so it takes the verb "
                f"{PRIORITIZE} on imagecaches.{types.GROUP}",
            ),
            When(_LIMITED, validation(_within_limit(), _TOO_LARGE)),
        ],
    }


_TOO_LARGE = (
    f"spec.imageCacheSize: more GiB than authors.maxSizeGiB of the release take the verb {EXCEED} on "
    f"imagecaches.{types.GROUP}"
)


def _variable(name: str, expression: str) -> Node:
    return {"name": name, "expression": expression}


def _both(name: str, of: str) -> list[Node]:
    """Of the object as it is to be, and as it was; before there was one, as if it said nothing."""
    return [
        _variable(f"{name}After", of.replace("{}", "variables.after")),
        _variable(f"{name}Before", of.replace("{}", "(variables.before == null ? {'spec': {}} : variables.before)")),
    ]


def _or(optional: str, default: str) -> str:
    """The default also for ``null``."""
    return f"({optional}.orValue(null) == null ? {default} : {optional}.orValue(null))"


def _annotation(key: str, place: str) -> str:
    return f"{place}.?metadata.?annotations[?'{key}'].orValue('').trim()"


def _size(place: str) -> str:
    """GiB; of a text that is no number, more than any limit: the controller has another reading, or refuses it."""
    text = _annotation(known.SIZE, place)
    annotated = f"({text} == '' ? 0 : {text}.matches('^[0-9]{{1,9}}$') ? int({text}) : 1000000000)"
    return _or(f"{place}.spec.?imageCacheSize", annotated)


def _readable(first: int) -> Node:
    """Two of them: more questions cost too much for one expression."""
    asked = f"variables.secrets.size() <= {first} || ({_may_get(first)} && (variables.secrets.size() <= {first + 1} || "
    return validation(
        f"{asked}{_may_get(first + 1)}))",
        "spec.imagePullSecrets: an ImageCache names only Secrets that its author may get; the verb get on secrets in "
        "their namespaces is missing",
    )


def _may_get(index: int) -> str:
    secret = f"variables.secrets[{index}]"
    place = f"namespace({secret}.split(':')[0]).name({secret}.split(':')[1])"
    return (
        f"(!{secret}.matches('{_SECRET}') || authorizer.group('').resource('secrets').{place}.check('get').allowed())"
    )


def _within_limit() -> Expression:
    limit = number_as_text("authors.maxSizeGiB")
    return join(
        "variables.sizeAfter <= ", limit, " || variables.sizeAfter <= variables.sizeBefore || ", _ALLOWED.format(EXCEED)
    )
