"""Too many connections in an event loop: the one that has been idle for longest goes."""

from __future__ import annotations

from imagecache.connection_limit import LoopConnections, OpenConnection


class Client:
    def __init__(self) -> None:
        self.aborted = False
        self.busy = False
        self.entry = OpenConnection(self._abort, lambda: not self.busy)

    def _abort(self) -> None:
        self.aborted = True


def test_the_one_that_was_used_least_recently_goes() -> None:
    limit, clients = LoopConnections(2), [Client() for _ in range(4)]
    assert limit.add(clients[0].entry)
    assert limit.add(clients[1].entry)
    limit.used(clients[0].entry)
    assert limit.add(clients[2].entry)
    assert [each.aborted for each in clients] == [False, True, False, False]
    limit.remove(clients[2].entry)
    limit.remove(clients[2].entry)
    assert limit.add(clients[3].entry)
    assert [each.aborted for each in clients] == [False, True, False, False]


def test_a_busy_one_stays_and_the_new_one_is_refused() -> None:
    limit, clients = LoopConnections(2), [Client() for _ in range(4)]
    for each in clients[:2]:
        each.busy = True
        assert limit.add(each.entry)
    assert not limit.add(clients[2].entry)
    limit.used(clients[2].entry)
    clients[1].busy = False
    assert limit.add(clients[3].entry)
    assert [each.aborted for each in clients] == [False, True, False, False]
