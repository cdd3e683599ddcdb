"""What every ``containerd.api.Containerd`` must do: the client of a real one, and the fake.

Subclass ``ContainerdSuite`` and give it a ``containerd`` fixture with a plain snapshotter named ``overlayfs``. Each
test uses a namespace of its own, so that they may share one.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import secrets
from collections.abc import AsyncIterator

import pytest

from imagecache.containerd.api import Containerd, Session, SnapshotKey
from imagecache.containerd.modes import default_snapshotter
from imagecache.digest import Digest
from imagecache.errors import ContainerdMisconfigured, NotFound, SnapshotNotFound, StoreCorrupt
from imagecache.oci.descriptor import Descriptor
from imagecache.oci.mediatypes import OCI_LAYER
from imagecache.settings.choices import Mode
from testkit.images import tar_of

_LABEL = {"containerd.io/gc.root": "2025-01-01T00:00:00Z"}
_TAR = tar_of({"srv": None, "srv/data": bytes(range(256)) * 20_000})


def _descriptor(data: bytes, media_type: str = "application/test") -> Descriptor:
    return Descriptor(media_type=media_type, digest=Digest.sha256(data), size=len(data))


async def _pieces(data: bytes, size: int = 1 << 20, *, damaged: bool = False) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]
    if damaged:
        raise StoreCorrupt("the file is not what it was")


async def _failed(session: Session, owner: str) -> None:
    """A block of the owner that has made the snapshot ``top``."""
    with contextlib.suppress(StoreCorrupt):
        async with session.leased(3600, owner=owner) as leased:
            await leased.snapshots.prepare(SnapshotKey("overlayfs", "key"))
            await leased.snapshots.commit(SnapshotKey("overlayfs", "key"), "top")
            raise StoreCorrupt("in the middle")


class ContainerdSuite:
    @pytest.fixture
    async def containerd(self) -> Containerd:
        raise NotImplementedError

    @pytest.fixture
    async def session(self, containerd: Containerd) -> Session:
        return containerd.session(f"test-{secrets.token_hex(4)}")

    # content

    async def test_content_is_written_once_and_labels_add_up(self, session: Session) -> None:
        digest = await session.content.write(b"document", {**_LABEL, "a": "1"})
        assert digest == Digest.sha256(b"document")
        assert await session.content.write(b"document", {"b": "2"}) == digest
        assert await session.content.labels(digest) == {**_LABEL, "a": "1", "b": "2"}
        assert await session.content.read(digest) == b"document"

    async def test_repositories_that_content_came_from_are_listed(self, session: Session) -> None:
        key = "containerd.io/distribution.source.docker.io"
        for repository in ("team/b", "team/a", "team/b"):
            digest = await session.content.write(b"document", {**_LABEL, key: repository})
        assert (await session.content.labels(digest) or {})[key] == "team/a,team/b"

    async def test_an_empty_label_of_content_is_taken_away(self, session: Session) -> None:
        digest = await session.content.write(b"document", {**_LABEL, "a": "1"})
        await session.content.write(b"document", {"a": ""})
        assert await session.content.labels(digest) == _LABEL

    async def test_content_that_is_not_there(self, session: Session) -> None:
        assert await session.content.labels(Digest.sha256(b"none")) is None
        assert await session.content.read(Digest.sha256(b"none")) is None

    async def test_content_in_pieces(self, session: Session) -> None:
        async with session.leased(60) as leased:
            await leased.content.write_from(_pieces(_TAR), _descriptor(_TAR))
            assert await session.content.read(Digest.sha256(_TAR)) == _TAR
            await leased.content.write_from(_pieces(_TAR), _descriptor(_TAR))

    async def test_content_whose_source_breaks_off_is_not_there(self, session: Session) -> None:
        async with session.leased(60) as leased:
            with pytest.raises(StoreCorrupt):
                await leased.content.write_from(_pieces(_TAR, damaged=True), _descriptor(_TAR))
            assert await session.content.labels(Digest.sha256(_TAR)) is None

    async def test_content_that_is_something_else_is_refused(self, session: Session) -> None:
        async with session.leased(60) as leased:
            with pytest.raises(ContainerdMisconfigured):
                await leased.content.write_from(_pieces(bytes(len(_TAR))), _descriptor(_TAR))
            assert await session.content.labels(Digest.sha256(_TAR)) is None

    async def test_content_that_exists_is_kept_by_the_lease_too(self, session: Session) -> None:
        async with session.leased(60) as later:
            async with session.leased(60, sync=True) as first:
                await first.content.write_from(_pieces(_TAR), _descriptor(_TAR))
                await later.content.write_from(_pieces(_TAR), _descriptor(_TAR))
            assert await session.content.labels(Digest.sha256(_TAR)) is not None

    async def test_a_lease_may_wait_for_the_collection(self, session: Session) -> None:
        async with session.leased(60, sync=True) as leased:
            await leased.content.write_from(_pieces(_TAR), _descriptor(_TAR))
        assert await session.content.labels(Digest.sha256(_TAR)) is None

    async def test_what_a_failed_block_has_made_stays_for_the_next_one(self, session: Session) -> None:
        owner = f"imc-{secrets.token_hex(4)}"
        await _failed(session, owner)
        async with session.leased(60, sync=True):
            pass  # everything that nobody keeps is collected
        assert await session.snapshots.stat("overlayfs", "top") is not None
        async with session.leased(3600, sync=True, owner=owner):
            assert await session.snapshots.stat("overlayfs", "top") is not None
        assert await session.snapshots.stat("overlayfs", "top") is None

    async def test_what_failed_blocks_have_made_is_given_up(self, session: Session) -> None:
        owner = f"imc-{secrets.token_hex(4)}"
        await _failed(session, owner)
        async with session.leased(60) as other:
            await other.content.write_from(_pieces(_TAR), _descriptor(_TAR))
            await session.end_leases(owner)
            assert await session.snapshots.stat("overlayfs", "top") is None
            await session.end_leases(owner)
            assert await session.content.labels(Digest.sha256(_TAR)) is not None
            await session.end_leases()
            assert await session.content.labels(Digest.sha256(_TAR)) is None

    async def test_what_a_block_within_has_left_ends_with_its_owner(self, session: Session) -> None:
        """As after a kill: its own end never came."""
        owner = f"imc-{secrets.token_hex(4)}"
        within = contextlib.AsyncExitStack()
        async with session.leased(3600, owner=owner) as leased:
            temporary = await within.enter_async_context(leased.leased(3600))
            await temporary.content.write_from(_pieces(_TAR), _descriptor(_TAR))
        assert await session.content.labels(Digest.sha256(_TAR)) is None
        await within.aclose()

    # images

    async def test_records_are_created_moved_and_left_alone(self, session: Session) -> None:
        first, second = _descriptor(b"first"), _descriptor(b"second")
        assert await session.images.put("x:1", first, {"a": "1"})
        assert not await session.images.put("x:1", first, {"a": "1"})
        assert await session.images.put("x:1", second, {"b": "2"})
        found = await session.images.get("x:1")
        assert found is not None
        assert (found.target, found.labels) == (second.digest, {"a": "1", "b": "2"})

    async def test_an_empty_label_is_taken_away(self, session: Session) -> None:
        await session.images.put("x:1", _descriptor(b"x"), {"a": "1"})
        assert await session.images.put("x:1", _descriptor(b"x"), {"a": ""})
        found = await session.images.get("x:1")
        assert found is not None
        assert not found.labels.get("a")
        assert not await session.images.put("x:1", _descriptor(b"x"), {"a": ""})

    async def test_labels_for_new_records_only(self, session: Session) -> None:
        assert await session.images.put("x:1", _descriptor(b"x"), {"a": "1"}, created={"b": "2"})
        found = await session.images.get("x:1")
        assert found is not None
        assert found.labels == {"a": "1", "b": "2"}
        assert await session.images.put("y:1", _descriptor(b"x"), {})
        assert await session.images.put("y:1", _descriptor(b"y"), {"a": "1"}, created={"b": "2"})
        found = await session.images.get("y:1")
        assert found is not None
        assert (found.target, found.labels) == (Digest.sha256(b"y"), {"a": "1"})

    async def test_a_touched_record_stays_as_it_is(self, session: Session) -> None:
        await session.images.put("x:1", _descriptor(b"x"), {"a": "1"})
        before = await session.images.get("x:1")
        await session.images.touch("x:1")
        assert await session.images.get("x:1") == before
        await session.images.touch("y:1")
        assert await session.images.get("y:1") is None

    async def test_records_by_target(self, session: Session) -> None:
        for name, data in (("b:1", b"x"), ("a:1", b"x"), ("c:1", b"y")):
            await session.images.put(name, _descriptor(data), {})
        assert [image.name for image in await session.images.with_target(Digest.sha256(b"x"))] == ["a:1", "b:1"]
        assert await session.images.with_target(Digest.sha256(b"z")) == []
        assert [image.name for image in await session.images.all()] == ["a:1", "b:1", "c:1"]

    async def test_a_record_is_deleted_only_for_its_target(self, session: Session) -> None:
        await session.images.put("x:1", _descriptor(b"x"), {})
        assert not await session.images.delete("x:1", Digest.sha256(b"other"))
        assert await session.images.delete("x:1", Digest.sha256(b"x"), sync=True)
        assert await session.images.get("x:1") is None
        assert not await session.images.delete("x:1", Digest.sha256(b"x"))

    # snapshots

    async def test_prepare_and_commit(self, session: Session) -> None:
        async with session.leased(60) as leased:
            key = SnapshotKey("overlayfs", "key", labels={"containerd.io/snapshot/x": "1"})
            mounts = await leased.snapshots.prepare(key)
            assert mounts
            assert "ro" not in mounts[-1].options
            assert await leased.snapshots.prepare(key) is None
            await leased.snapshots.commit(key, "base")
            found = await leased.snapshots.stat("overlayfs", "base")
            assert found is not None
            assert (found.name, found.parent, found.labels["containerd.io/snapshot/x"]) == ("base", "", "1")

            child = SnapshotKey("overlayfs", "child", parent="base")
            await leased.snapshots.prepare(child)
            assert not await leased.snapshots.commit(child, "base")
            active = [info async for info in leased.snapshots.list("overlayfs") if not info.committed]
            assert [(info.name, info.parent) for info in active] == [("child", "base")]
            await leased.snapshots.commit(child, "top")
            listed = {info.name: info.parent async for info in leased.snapshots.list("overlayfs")}
            assert listed == {"base": "", "top": "base"}

    async def test_a_snapshot_is_as_old_as_its_commit(self, session: Session) -> None:
        async with session.leased(60) as leased:
            await leased.snapshots.prepare(SnapshotKey("overlayfs", "key"))
            prepared = await leased.snapshots.stat("overlayfs", "key")
            assert prepared is not None
            assert not prepared.committed
            before = dt.datetime.now(dt.UTC)
            await leased.snapshots.commit(SnapshotKey("overlayfs", "key"), "base")
            found = await leased.snapshots.stat("overlayfs", "base")
            assert found is not None
            assert found.created is not None
            assert before <= found.created <= dt.datetime.now(dt.UTC)

    async def test_a_layer_that_is_there_is_not_prepared_again(self, session: Session) -> None:
        async with session.leased(60) as leased:
            await leased.snapshots.prepare(SnapshotKey("overlayfs", "key"))
            await leased.snapshots.commit(SnapshotKey("overlayfs", "key"), "sha256:chain")
            again = SnapshotKey("overlayfs", "new", labels={"containerd.io/snapshot.ref": "sha256:chain"})
            assert await leased.snapshots.prepare(again) is None
            assert await leased.snapshots.stat("overlayfs", "new") is None

    async def test_a_layer_is_unpacked_and_found(self, session: Session) -> None:
        tar = _descriptor(_TAR, OCI_LAYER)
        async with session.leased(60) as leased:
            key = SnapshotKey("overlayfs", "key")
            mounts = await leased.snapshots.prepare(key)
            assert mounts
            await leased.content.write_from(_pieces(_TAR), tar)
            assert await leased.apply(tar, mounts) == tar.digest
            assert await leased.snapshots.commit(key, "sha256:chain")
            assert await leased.snapshots.stat("overlayfs", "sha256:chain") is not None

    async def test_a_commit_that_comes_second_can_keep_the_first(self, session: Session) -> None:
        async with session.leased(60) as second:
            late = SnapshotKey("overlayfs", "late")
            await second.snapshots.prepare(late)
            async with session.leased(60, sync=True) as first:
                await first.snapshots.prepare(SnapshotKey("overlayfs", "early"))
                assert await first.snapshots.commit(SnapshotKey("overlayfs", "early"), "top")
                assert not await second.snapshots.commit(late, "top")
                await second.snapshots.keep("overlayfs", "top")
            await second.snapshots.remove("overlayfs", "late")
            assert await session.snapshots.stat("overlayfs", "top") is not None
            with pytest.raises(SnapshotNotFound):
                await second.snapshots.keep("overlayfs", "none")

    async def test_a_layer_without_content_is_not_unpacked(self, session: Session) -> None:
        async with session.leased(60) as leased:
            mounts = await leased.snapshots.prepare(SnapshotKey("overlayfs", "key"))
            assert mounts
            with pytest.raises(NotFound):
                await leased.apply(_descriptor(_TAR, OCI_LAYER), mounts)

    async def test_labels_of_a_snapshot(self, session: Session) -> None:
        """One of them keeps it, until it is taken away."""
        async with session.leased(60) as leased:
            await leased.snapshots.prepare(SnapshotKey("overlayfs", "key"))
            await leased.snapshots.commit(SnapshotKey("overlayfs", "key"), "top")
            await leased.snapshots.label("overlayfs", "top", {**_LABEL, "a": "1"})
        async with session.leased(60, sync=True):
            found = await session.snapshots.stat("overlayfs", "top")
            assert found is not None
            assert found.labels.items() >= {**_LABEL, "a": "1"}.items()
        assert await session.snapshots.stat("overlayfs", "top") is not None
        async with session.leased(60, sync=True):
            await session.snapshots.label("overlayfs", "top", dict.fromkeys(_LABEL, ""))
            found = await session.snapshots.stat("overlayfs", "top")
            assert found is not None
            assert (found.labels["a"], found.labels.keys() & _LABEL.keys()) == ("1", set())
        assert await session.snapshots.stat("overlayfs", "top") is None

    async def test_labels_of_a_snapshot_that_is_not_there(self, session: Session) -> None:
        with pytest.raises(SnapshotNotFound):
            await session.snapshots.label("overlayfs", "none", {"a": "1"})

    async def test_snapshots_that_are_not_there(self, session: Session) -> None:
        assert await session.snapshots.stat("overlayfs", "none") is None
        with pytest.raises(SnapshotNotFound):
            await session.snapshots.prepare(SnapshotKey("overlayfs", "key", parent="none"))
        await session.snapshots.remove("overlayfs", "none")

    async def test_a_snapshotter_that_is_not_there(self, session: Session) -> None:
        with pytest.raises(ContainerdMisconfigured, match="not loaded"):
            await session.snapshots.prepare(SnapshotKey("none", "key"))

    # collection

    async def test_an_image_keeps_what_its_labels_lead_to(self, session: Session) -> None:
        async with session.leased(60) as leased:
            await leased.snapshots.prepare(SnapshotKey("overlayfs", "key"))
            await leased.snapshots.commit(SnapshotKey("overlayfs", "key"), "top")
            config = await leased.content.write(b"config", {"containerd.io/gc.ref.snapshot.overlayfs": "top"})
            await leased.content.write(b"manifest", {"containerd.io/gc.ref.content.config": config})
            await leased.images.put("x:1", _descriptor(b"manifest"), {})
            await leased.images.put("other:1", _descriptor(b"other"), {})
        await session.images.delete("other:1", Digest.sha256(b"other"), sync=True)
        assert await session.content.labels(config) is not None
        assert await session.snapshots.stat("overlayfs", "top") is not None

        await session.images.delete("x:1", Digest.sha256(b"manifest"), sync=True)
        assert await session.content.labels(config) is None
        assert await session.snapshots.stat("overlayfs", "top") is None

    async def test_a_lease_keeps_what_is_written_under_it(self, session: Session) -> None:
        async with session.leased(60) as leased:
            digest = await leased.content.write(b"document", {})
            await leased.images.put("x:1", _descriptor(b"x"), {})
            await leased.images.delete("x:1", Digest.sha256(b"x"), sync=True)
            assert await leased.content.labels(digest) is not None
        await session.images.put("x:1", _descriptor(b"x"), {})
        await session.images.delete("x:1", Digest.sha256(b"x"), sync=True)
        assert await session.content.labels(digest) is None

    # the rest

    async def test_version_and_plugins(self, containerd: Containerd) -> None:
        assert (await containerd.version())[0].isdigit()
        found = {(plugin.kind, plugin.id): plugin for plugin in await containerd.snapshotter_plugins()}
        assert not found["io.containerd.snapshotter.v1", "overlayfs"].error

    async def test_runtime_handlers_without_a_snapshotter_of_their_own(self, containerd: Containerd) -> None:
        assert await containerd.handler_snapshotters() == {}

    async def test_where_cri_keeps_images(self, containerd: Containerd) -> None:
        choice = default_snapshotter(await containerd.image_filesystem(), await containerd.snapshotter_plugins())
        assert (choice.mode, choice.snapshotter) == (Mode.PREPULL, "overlayfs")

    async def test_images_that_cri_does_not_have(self, containerd: Containerd) -> None:
        assert await containerd.cri_images(["docker.io/library/nobody:1"]) == {}
        assert await containerd.cri_images([]) == {}

    async def test_namespaces(self, containerd: Containerd, session: Session) -> None:
        await session.images.put("x:1", _descriptor(b"x"), {})
        assert any(name.startswith("test-") for name in await containerd.namespaces())

    async def test_a_container_that_is_not_there(self, session: Session) -> None:
        assert await session.container("none") is None
