"""What is measured over what: images, networks and contenders of each table, for a whole run and for a quick one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.cold import Course
from bench.contender import Contender, Site
from bench.contenders import erofs, overlayfs, soci, stargz
from bench.contenders.imagecache import ImageCache
from bench.images import IMAGES, BenchImage
from bench.link import Link
from testkit.images import pause_image
from testkit.peers.registry import Registry

BIG = IMAGES["big"]
GIGABIT = 1_000_000_000
OURS = ImageCache()
NATIVE = ImageCache("native")
EVERY = (
    overlayfs.AS_INSTALLED, overlayfs.TUNED, erofs.TUNED, stargz.STARGZ, soci.LAZY, soci.PARALLEL, OURS,
)  # fmt: skip
_WHOLE = (overlayfs.TUNED, erofs.TUNED, OURS)
"""Those that bring whole layers. Lazy ones have no zstd: eStargz and SOCI's index are of gzip."""
_EACH_KIND = (overlayfs.TUNED, erofs.TUNED, stargz.STARGZ, soci.LAZY, OURS)


@dataclass(frozen=True, slots=True)
class Network:
    """Between a node and the registry."""

    rate: int | None = None
    """Bits per second; None is what loopback gives."""
    rtt: float = 0.0
    """Seconds."""


LOOPBACK = Network()
NEAR = Network(GIGABIT, 0.001)
FAR = Network(GIGABIT, 0.005)


@dataclass(frozen=True, slots=True)
class Plan:
    """A table to measure."""

    key: str
    title: str
    image: BenchImage
    network: Network
    contenders: Sequence[Contender]
    rounds: int
    tree_rounds: int = 0
    few: Mapping[str, int] = field(default_factory=dict)
    """Rounds of contenders that take much time, by key."""
    read_ahead: int | None = None
    """KiB, of the disk; None leaves it as it was found."""

    def course(self, site: Site) -> Course:
        return Course(self.key, self.title, site, self.image, self.rounds, self.tree_rounds, self.few)


SMALL = IMAGES["small"]
_FOR_SMALL = tuple(stargz.Stargz(workload=SMALL.hello) if one is stargz.STARGZ else one for one in EVERY)

# fmt: off
COLD: Sequence[Plan] = (
    Plan("cold", "Cold node, 1,000 MB in 5 layers, loopback", BIG, LOOPBACK,
         (*EVERY, ImageCache(durable=False)), 5, tree_rounds=3),
    Plan("cold-small", "Cold node, a service of ten layers, loopback", SMALL, LOOPBACK, _FOR_SMALL, 3, tree_rounds=3),
    Plan("cold-1ms", "Cold node, 1,000 MB, 1 Gbit/s and 1 ms", BIG, NEAR, (*EVERY, soci.PREFETCH), 3),
    Plan("cold-5ms", "Cold node, 1,000 MB, 1 Gbit/s and 5 ms", BIG, FAR, _EACH_KIND, 3),
    Plan("cold-zstd", "Cold node, 1,000 MB in zstd layers, loopback", IMAGES["big-zstd"], LOOPBACK, _WHOLE, 3),
    Plan("cold-127", "Cold node, 127 layers, loopback", IMAGES["layers127"], LOOPBACK,
         [soci.SMALL_LAYERS if one is soci.LAZY else one for one in _EACH_KIND], 3),
    Plan("cold-huge", "Cold node, 5,200 MB in 40 layers, loopback", IMAGES["huge"], LOOPBACK, _EACH_KIND, 3,
         few={soci.LAZY.key: 2}),
)
WARM: Sequence[Plan] = (
    Plan("warm", "Warm node, 1,000 MB in 5 layers", BIG, LOOPBACK,
         (overlayfs.TUNED, erofs.PREBUILT, erofs.PREBUILT_LZ4, stargz.STARGZ, soci.LAZY, OURS, NATIVE), 5,
         few={"erofs-prebuilt": 3, "erofs-prebuilt-lz4": 2, "imagecache-native": 3, "stargz": 1, "soci": 1}),
    Plan("warm-128", "Warm node, read-ahead 128 KiB", BIG, LOOPBACK, (overlayfs.TUNED, OURS), 3, read_ahead=128),
)
QUICK: Sequence[Plan] = (
    replace(COLD[0], contenders=(overlayfs.TUNED, OURS), rounds=3, tree_rounds=3),
    replace(WARM[0], contenders=(overlayfs.TUNED, OURS), rounds=3),
)
# fmt: on


@contextmanager
def site(directory: Path, network: Network) -> Iterator[Site]:
    """A registry, and the network in front of it."""
    with Registry(directory / "registry") as registry:
        pause = registry.push("pause:1", pause_image(directory / "pause"))
        if network == LOOPBACK:
            yield Site(directory, registry, registry.address, pause)
        else:
            with Link((registry.host, registry.port), network.rate, network.rtt) as link:
                yield Site(directory, registry, link.address, pause, link)
