"""The plan, one situation a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pytest

from imagecache.agent.budget import Disk, Policy
from imagecache.agent.dependencies import Inventory
from imagecache.agent.plan import Bounds, JobKind, Plan, View, make_plan
from imagecache.agent.state import Known
from imagecache.api import selector
from imagecache.api.assignment import Cache
from imagecache.containerd.handlers import Handlers
from imagecache.store.bundle_document import Bundle
from imagecache.store.layer_name import LayerName
from testkit.attachable import MemoryDocuments, bundle
from tests.unit.agent.bench import cache

UNIT = 4096
"""Bytes of each layer image."""
POLICY = Policy(reserve=0.1, headroom=0.0)
_DOCUMENTS = MemoryDocuments()


def document(number: int, *names: str) -> Bundle:
    return bundle(_DOCUMENTS.image(f"app:{number}", names or ("base", f"own-{number}")), number=number)


ONE, TWO, THREE = (document(number) for number in (1, 2, 3))
BIG = document(4, *(f"big-{index}" for index in range(20)))


def sizes(*documents: Bundle) -> dict[LayerName, int]:
    return {layer.name: layer.size for each in documents for image in each.images for layer in image.layers}


def here(*whole: Bundle, described: tuple[Bundle, ...] = ()) -> Inventory:
    return Inventory(
        documents={each.id: each for each in (*whole, *described)},
        whole=frozenset(each.id for each in whole),
        present=sizes(*whole),
    )


def known(
    *documents: Bundle, name: str = "a", used: float = 0.0, unpacked: tuple[str, ...] = ()
) -> Mapping[str, Known]:
    return {each.id: Known(frozenset({name}), used, frozenset(unpacked)) for each in documents}


CPU = selector.parse("pool=cpu", "")
KATA = Handlers({"kata": "devmapper"}, frozenset({"devmapper", "overlayfs"}))
"""Each tar has a quarter of a UNIT."""
A, B = cache("a", ONE.id), cache("b", TWO.id, created=2.0)


def view(*caches: Cache, **parts: object) -> View:
    return replace(View(caches=caches, labels={"pool": "gpu"}, disk=Disk(100 * UNIT, 90 * UNIT)), **parts)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Case:
    view: View
    assigned: tuple[str, ...] = ()
    expected: Plan = field(default_factory=Plan)
    refused: tuple[str, ...] = ()


BUILDING = replace(A, ready=False, building=ONE.id)

CASES = {
    "a-build-is-prefetched": Case(view(BUILDING), expected=Plan(prefetch=(ONE.id,))),
    "and-goes-on-to-be": Case(view(BUILDING, prefetching=(ONE.id,)), expected=Plan(prefetch=(ONE.id,))),
    "one-for-other-nodes-is-not-prefetched": Case(view(replace(BUILDING, selector=CPU))),
    "one-that-is-deleted-is-not": Case(view(replace(BUILDING, deleting=True), prefetching=(ONE.id,))),
    "one-that-failed-is-not": Case(view(replace(BUILDING, building=""), prefetching=(ONE.id,))),
    "one-whose-prefetch-failed-waits": Case(view(BUILDING, prefetch_waiting={ONE.id})),
    "no-build-is-prefetched-onto-a-full-disk": Case(view(BUILDING, disk=Disk(100 * UNIT, 10 * UNIT))),
    "nor-into-a-shared-store": Case(view(BUILDING, disk=None)),
    "few-builds-at-a-time": Case(
        view(
            *(
                replace(BUILDING, name=each.id, building=each.id, created=9.0 - number)
                for number, each in enumerate((ONE, TWO, THREE))
            ),
        ),
        expected=Plan(prefetch=(THREE.id, TWO.id)),
    ),
    "a-newer-bundle-is-prefetched-while-the-older-serves": Case(
        view(replace(A, building=TWO.id), inventory=here(ONE), known=known(ONE), attached={ONE.id}),
        (ONE.id,),
        Plan(prefetch=(TWO.id,)),
    ),
    "what-is-fetched-is-prefetched-until-it-is-whole": Case(
        view(A, inventory=here(described=(ONE,)), busy={ONE.id: JobKind.FETCH}, prefetching=(ONE.id,)),
        (ONE.id,),
        Plan(prefetch=(ONE.id,)),
    ),
    "prefetched-layers-give-way-before-a-bundle": Case(
        view(
            replace(BUILDING, name="c", id=THREE.id, building=THREE.id),
            A,
            B,
            inventory=replace(here(ONE, described=(TWO,)), prefetched=sizes(THREE)),
            known=known(ONE),
            attached={ONE.id},
            prefetching=(THREE.id,),
            disk=Disk(100 * UNIT, 10 * UNIT),
        ),
        (ONE.id, TWO.id),
    ),
    "but-not-for-one-that-has-no-space-without-it-either": Case(
        view(
            replace(BUILDING, name="c", id=THREE.id, building=THREE.id),
            replace(B, id=BIG.id),
            inventory=replace(here(described=(BIG,)), prefetched=sizes(THREE)),
            prefetching=(THREE.id,),
            disk=Disk(100 * UNIT, 10 * UNIT),
        ),
        (BIG.id,),
        Plan(prefetch=(THREE.id,)),
        refused=(BIG.id,),
    ),
    "what-is-fetched-does-not-give-way-to-itself": Case(
        view(
            A,
            B,
            inventory=replace(here(described=(ONE, TWO)), prefetched=sizes(ONE)),
            busy={ONE.id: JobKind.FETCH},
            prefetching=(ONE.id,),
            disk=Disk(100 * UNIT, 11 * UNIT),
        ),
        (ONE.id, TWO.id),
        Plan(prefetch=(ONE.id,)),
        refused=(TWO.id,),
    ),
    "whole-is-no-longer-prefetched": Case(
        view(A, inventory=here(ONE), known=known(ONE), attached={ONE.id}, prefetching=(ONE.id,)), (ONE.id,)
    ),
    "nothing": Case(view()),
    "a-new-cache-is-described": Case(view(A), (ONE.id,), Plan(describe=(ONE.id,))),
    "one-without-bundle-is-not": Case(view(cache("a", "", ready=False))),
    "one-that-is-not-ready-is-not": Case(view(replace(A, ready=False))),
    "a-deleted-one-is-not": Case(view(replace(A, deleting=True))),
    "one-for-other-nodes-is-not": Case(view(replace(A, selector=CPU))),
    "one-with-a-mistyped-selector-is-not": Case(view(replace(A, selector=None))),
    "described-is-fetched": Case(view(A, inventory=here(described=(ONE,))), (ONE.id,), Plan(fetch=(ONE.id,))),
    "busy-is-left-alone": Case(
        view(A, inventory=here(described=(ONE,)), busy={ONE.id: JobKind.FETCH}), (ONE.id,), Plan()
    ),
    "failed-waits": Case(view(A, inventory=here(described=(ONE,)), waiting={ONE.id}), (ONE.id,), Plan()),
    "whole-is-attached": Case(view(A, inventory=here(ONE)), (ONE.id,), Plan(attach=(ONE.id,))),
    "attached-is-left-alone": Case(view(A, inventory=here(ONE), known=known(ONE), attached={ONE.id}), (ONE.id,)),
    "attached-and-no-longer-whole-is-fetched": Case(
        view(A, inventory=here(described=(ONE,)), known=known(ONE), attached={ONE.id}),
        (ONE.id,),
        Plan(fetch=(ONE.id,)),
    ),
    "of-no-cache-is-removed": Case(
        view(inventory=here(ONE), known=known(ONE), attached={ONE.id}), (), Plan(remove=(ONE.id,))
    ),
    "only-remembered-is-removed-too": Case(view(known=known(ONE)), (), Plan(remove=(ONE.id,))),
    "removal-that-failed-waits": Case(view(inventory=here(ONE), waiting={ONE.id})),
    "a-job-without-a-cache-is-stopped": Case(
        view(inventory=here(described=(ONE,)), busy={ONE.id: JobKind.FETCH, TWO.id: JobKind.REMOVE}),
        (),
        Plan(stop=(ONE.id,)),
    ),
    "resident-stays-while-its-cache-is-built-again": Case(
        view(replace(A, ready=False), inventory=here(ONE), known=known(ONE), attached={ONE.id}), (ONE.id,)
    ),
    "resident-stays-when-its-selector-is-mistyped": Case(
        view(replace(A, selector=None), inventory=here(ONE), known=known(ONE), attached={ONE.id}), (ONE.id,)
    ),
    "resident-is-removed-when-it-is-for-other-nodes": Case(
        view(replace(A, selector=CPU), inventory=here(ONE), known=known(ONE), attached={ONE.id}),
        (),
        Plan(remove=(ONE.id,)),
    ),
    "replaced-serves-until-the-new-is-attached": Case(
        view(cache("a", TWO.id), inventory=here(ONE, TWO), known=known(ONE), attached={ONE.id}),
        (TWO.id,),
        Plan(attach=(TWO.id,)),
    ),
    "replaced-is-removed-then": Case(
        view(cache("a", TWO.id), inventory=here(ONE, TWO), known=known(ONE, TWO), attached={ONE.id, TWO.id}),
        (TWO.id,),
        Plan(remove=(ONE.id,)),
    ),
    "few-at-a-time": Case(
        view(
            A,
            B,
            cache("c", THREE.id, created=3.0),
            inventory=here(described=(ONE, TWO, THREE)),
            busy={THREE.id: JobKind.FETCH},
        ),
        (ONE.id, TWO.id, THREE.id),
        Plan(fetch=(ONE.id,)),
    ),
    "the-important-first": Case(
        view(
            A,
            B,
            cache("c", THREE.id, created=3.0, priority=1),
            inventory=here(described=(ONE, TWO, THREE)),
        ),
        (ONE.id, TWO.id, THREE.id),
        Plan(fetch=(THREE.id, ONE.id)),
    ),
    "no-space": Case(
        view(A, inventory=here(described=(ONE,)), disk=Disk(100 * UNIT, 11 * UNIT)),
        (ONE.id,),
        refused=(ONE.id,),
    ),
    "no-disk-no-budget": Case(view(A, inventory=here(described=(ONE,)), disk=None), (ONE.id,), Plan(fetch=(ONE.id,))),
    "evicted-for-another": Case(
        view(
            A,
            replace(B, priority=1),
            inventory=here(ONE, described=(TWO,)),
            known=known(ONE),
            attached={ONE.id},
            disk=Disk(100 * UNIT, 10 * UNIT),
        ),
        (ONE.id, TWO.id),
        Plan(evict=(ONE.id,)),  # both have the base: one layer comes free, and one is needed
    ),
    "others-filled-the-disk": Case(
        view(
            A,
            inventory=here(ONE),
            known=known(ONE),
            attached={ONE.id},
            disk=Disk(100 * UNIT, 9 * UNIT),
        ),
        (ONE.id,),
        Plan(evict=(ONE.id,)),
    ),
    "but-not-while-the-last-eviction-settles": Case(
        view(
            A,
            inventory=here(ONE),
            known=known(ONE),
            attached={ONE.id},
            disk=Disk(100 * UNIT, 9 * UNIT),
            settling=True,
        ),
        (ONE.id,),
    ),
    "what-is-evicted-is-not-attached": Case(
        view(A, inventory=here(ONE), disk=Disk(100 * UNIT, 9 * UNIT)), (ONE.id,), Plan(evict=(ONE.id,))
    ),
    "what-a-collection-will-free-is-waited-for": Case(
        view(
            replace(B, priority=1),
            inventory=replace(here(described=(TWO,)), present=sizes(BIG)),
            disk=Disk(100 * UNIT, 10 * UNIT),
        ),
        (TWO.id,),
    ),
    "no-build-is-prefetched-while-a-bundle-waits-for-a-collection": Case(
        view(
            replace(BUILDING, name="c", id=THREE.id, building=THREE.id),
            replace(B, priority=1),
            inventory=replace(here(described=(TWO,)), present=sizes(BIG)),
            disk=Disk(100 * UNIT, 11 * UNIT),
        ),
        (TWO.id,),
    ),
    "what-is-unpacked-too-needs-space": Case(  # two layers, their tars, and one of the tars a second time
        view(A, inventory=here(described=(ONE,)), handlers=KATA, disk=Disk(100 * UNIT, 12 * UNIT + UNIT // 2)),
        (ONE.id,),
        refused=(ONE.id,),
    ),
    "and-is-fetched-when-it-has-it": Case(
        view(A, inventory=here(described=(ONE,)), handlers=KATA, disk=Disk(100 * UNIT, 13 * UNIT)),
        (ONE.id,),
        Plan(fetch=(ONE.id,)),
    ),
    "a-cache-that-is-not-unpacked-needs-no-more": Case(
        view(
            replace(A, also_unpack=("off",)),
            inventory=here(described=(ONE,)),
            handlers=KATA,
            disk=Disk(100 * UNIT, 12 * UNIT),
        ),
        (ONE.id,),
        Plan(fetch=(ONE.id,)),
    ),
    "whole-is-not-attached-where-it-has-no-space-to-be-unpacked": Case(
        view(A, inventory=here(ONE), known=known(ONE), handlers=KATA, disk=Disk(100 * UNIT, 10 * UNIT)),
        (ONE.id,),
        refused=(ONE.id,),
    ),
    "whole-is-attached-where-it-has-the-space": Case(
        view(A, inventory=here(ONE), known=known(ONE), handlers=KATA, disk=Disk(100 * UNIT, 11 * UNIT)),
        (ONE.id,),
        Plan(attach=(ONE.id,)),
    ),
    "what-was-unpacked-before-needs-no-space": Case(
        view(
            A,
            inventory=here(ONE),
            known=known(ONE, unpacked=("devmapper",)),
            handlers=KATA,
            disk=Disk(100 * UNIT, 10 * UNIT),
        ),
        (ONE.id,),
        Plan(attach=(ONE.id,)),
    ),
    "no-disk-no-budget-for-unpacking": Case(
        view(A, inventory=here(ONE), handlers=KATA, disk=None), (ONE.id,), Plan(attach=(ONE.id,))
    ),
    "what-is-leased-will-not-be-free": Case(
        view(
            replace(B, priority=1),
            inventory=replace(here(described=(TWO,)), present=sizes(BIG), leased=frozenset(sizes(BIG))),
            disk=Disk(100 * UNIT, 10 * UNIT),
        ),
        (TWO.id,),
        refused=(TWO.id,),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_plan(name: str) -> None:
    case = CASES[name]

    found = make_plan(case.view, POLICY, Bounds(fetch=2))

    assert tuple(found.assigned) == case.assigned
    assert tuple(found.refused) == case.refused
    assert replace(found, assigned={}, refused={}, spare=0) == case.expected
