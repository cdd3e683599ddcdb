"""Who owns a name on a node, and what becomes of the others."""

from __future__ import annotations

import itertools

import pytest

from imagecache.agent.names import Claim, Rank, names_taken, rank, taken
from imagecache.agent.state import NodeState
from imagecache.containerd.image_records import tag_name
from imagecache.store.bundle_document import ImageRecord
from testkit.attachable import MemoryDocuments, bundle
from testkit.images import tar_of
from tests.unit.agent.bench import Bench, cache

_DOCUMENTS = MemoryDocuments()
OLD, NEW, SAME = (_DOCUMENTS.image("nginx:1.25", [layer]) for layer in ("old", "new", "old"))
PINNED = _DOCUMENTS.image(f"nginx:1.25@{NEW.target.digest}", ["new"])
NAME = "docker.io/library/nginx:1.25"
A, B = (f"imc-{letter * 20}" for letter in "ab")
ONE, OTHER = (tar_of({"etc": None, "etc/name": name}) for name in (b"one", b"other"))


def claim(number: int, image: ImageRecord, order: Rank, *, cache: str = "", shown: bool = True) -> Claim:
    names = {tag_name(image)} if shown else set()
    return Claim(bundle(image, number=number), cache or f"cache-{number}", order, names)


def owners(*claims: Claim) -> dict[str, str]:
    """For each cache, the one that owns the name instead of it."""
    return {each.cache: lost[NAME] for each in claims if (lost := taken(each.document.id, claims))}


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_highest_priority_then_the_oldest_owns_a_name(order: tuple[int, ...]) -> None:
    claims = [claim(0, OLD, (-5, 9.0, "a")), claim(1, NEW, (0, 1.0, "b")), claim(2, NEW, (0, 2.0, "c"))]

    assert owners(*(claims[each] for each in order)) == {"cache-1": "cache-0", "cache-2": "cache-0"}


def test_the_same_image_has_its_name_together() -> None:
    claims = claim(0, OLD, (0, 1.0, "a")), claim(1, NEW, (0, 2.0, "b")), claim(2, SAME, (0, 3.0, "c"))

    assert owners(*claims) == {"cache-1": "cache-0"}


def test_who_has_never_shown_that_it_records_a_name_owns_none() -> None:
    """A private image, or one that nobody has verified, takes no name from another one."""
    first, second = claim(0, OLD, (0, 1.0, "a"), shown=False), claim(1, NEW, (0, 2.0, "b"))

    assert owners(first, second) == {}
    assert owners(claim(0, OLD, (0, 1.0, "a")), second) == {"cache-1": "cache-0"}


def test_an_earlier_bundle_of_the_same_cache_owns_nothing() -> None:
    assert owners(claim(0, OLD, (0, 1.0, "a"), cache="a"), claim(1, NEW, (0, 1.0, "a"), cache="a")) == {}


def test_a_name_with_a_digest_means_one_image() -> None:
    assert owners(claim(0, OLD, (0, 1.0, "a")), claim(1, PINNED, (0, 2.0, "b"))) == {}


def test_a_bundle_that_claims_nothing_loses_nothing() -> None:
    assert taken(A, [claim(0, OLD, (0, 1.0, "a"))]) == {}


def test_rank() -> None:
    annotations = {"imagecache.dev/priority": "7"}

    assert rank("a", annotations, "1970-01-01T00:00:05Z") == (-7, 5.0, "a")
    assert rank("a", {}, "yesterday") == (0, 0.0, "a")


def test_words() -> None:
    assert names_taken({"nginx:1.25": "e\x1bvil"}).endswith(r"owns them: nginx:1.25 (ImageCache e\x1bvil)")


# on a node


async def both(bench: Bench) -> dict[str, str]:
    """Two caches of one name, the older one first; the digests that their bundles have for it."""
    documents = {
        bundle_id: await bench.origin.build(bundle_id, content) for bundle_id, content in ((A, ONE), (B, OTHER))
    }
    bench.caches.put(cache("a", A, created=1.0))
    bench.caches.put(cache("b", B, created=2.0))
    return {name: str(each.images[0].target.digest) for name, each in documents.items()}


def recorded(bench: Bench) -> str:
    return str(bench.attacher.records.get("docker.io/library/app:1", ""))


async def test_one_cache_owns_a_name_and_the_other_says_so(bench: Bench) -> None:
    digests = await both(bench)
    bench.start()
    await bench.ready("a", "b")
    await bench.until(lambda: bench.reason("b") == "NameTaken")

    assert recorded(bench) == digests[A]
    assert bench.reason("a") == ""
    entry = bench.entry("b")
    assert entry is not None
    assert "docker.io/library/app:1 (ImageCache a)" in entry.message
    assert bench.condition("NameTaken") == ("True", "NameOwned")
    attaches = len(bench.attacher.attaches)
    await bench.rounds()
    assert len(bench.attacher.attaches) == attaches, "nobody takes the name again and again"


async def test_the_next_one_takes_over_when_the_owner_goes(bench: Bench) -> None:
    digests = await both(bench)
    bench.start()
    await bench.until(lambda: bench.reason("b") == "NameTaken")

    bench.caches.delete("a")
    await bench.until(lambda: bench.entry("a") is None and bench.entry("b") is not None and bench.reason("b") == "")
    await bench.until(lambda: recorded(bench) == digests[B])
    assert bench.condition("NameTaken") == ("False", "AsExpected")


async def test_a_priority_that_is_raised_moves_the_name(bench: Bench) -> None:
    digests = await both(bench)
    bench.start()
    await bench.until(lambda: bench.reason("b") == "NameTaken")

    bench.caches.put(cache("b", B, created=2.0, priority=1))
    await bench.until(lambda: bench.reason("a") == "NameTaken" and bench.reason("b") == "")
    assert recorded(bench) == digests[B]


async def test_a_name_that_somebody_has_moved_is_moved_back(bench: Bench) -> None:
    digests = await both(bench)
    bench.start()
    await bench.until(lambda: bench.reason("b") == "NameTaken")

    bench.attacher.records["docker.io/library/app:1"] = OLD.target.digest
    bench.advance(31)
    await bench.until(lambda: recorded(bench) == digests[A])


async def test_a_restarted_agent_knows_the_owner(bench: Bench) -> None:
    digests = await both(bench)
    bench.start()
    await bench.until(lambda: bench.reason("b") == "NameTaken")
    await bench.kill()
    state = NodeState(bench.store.paths.nodes / "worker")
    state.load()
    assert taken(B, state.claims()) == {"docker.io/library/app:1": "a"}

    bench.start()
    await bench.ready("a", "b")
    await bench.until(lambda: bench.reason("b") == "NameTaken")
    assert recorded(bench) == digests[A]
