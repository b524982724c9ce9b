"""Which connection makes room, and that counts are right whatever happens."""

from hypothesis import given
from hypothesis import strategies as st

from tokfilter.runtime.service.connections import Connections


class One:
    def __init__(self):
        self.dropped = False

    def drop(self):
        self.dropped = True


def entered(connections, count, address="a"):
    found = [One() for _ in range(count)]
    for one in found:
        assert connections.enter(one, address) is None
    return found


def test_the_oldest_stranger_makes_room_before_the_oldest_known_client():
    reasons = []
    connections = Connections(4, 10, reasons.append)
    known, first, second, busy = entered(connections, 4)
    for one in (known, busy):
        connections.works(one)
    connections.waits(known)
    all_four, order = (known, first, second, busy), []
    for _ in range(4):
        before, new = [one for one in all_four if one.dropped], One()
        refused = connections.enter(new, "b")
        connections.works(new)  # it has a request and stays
        order.append((refused is None, [one for one in all_four if one.dropped and one not in before]))
    assert order == [(True, [first]), (True, [second]), (True, [known]), (False, [])]
    assert reasons == ["displaced"] * 3 + ["connections"]


def test_without_descriptors_the_limit_counts_as_reached():
    reasons = []
    connections = Connections(100, 100, reasons.append)
    (first,) = entered(connections, 1)
    second = One()
    assert connections.enter(second, "a", descriptors_left=False) is None and first.dropped
    connections.works(second)
    assert "1 connections are open" in connections.enter(One(), "a", descriptors_left=False)
    assert reasons == ["displaced", "descriptors"]


@given(
    st.lists(st.tuples(st.sampled_from(["enter", "works", "waits", "leave"]), st.integers(0, 7), st.sampled_from("ab")))
)
def test_limits_hold_and_counts_return_to_zero(events):
    connections, ones, inside = Connections(4, 3), [One() for _ in range(8)], {}
    for event, number, address in events:
        one = ones[number]
        if event == "enter" and one not in inside:
            one.dropped = False
            if connections.enter(one, address) is None:
                inside[one] = address
            inside = {one: address for one, address in inside.items() if not one.dropped}
        elif event == "leave":
            connections.leave(one)
            inside.pop(one, None)
        elif event == "works" and one in inside:
            connections.works(one)
        elif event == "waits":
            connections.waits(one)
        assert len(connections) == len(inside) <= 4
        assert all(list(inside.values()).count(address) <= 3 for address in "ab")
    for one in ones:
        connections.leave(one)
    assert len(connections) == 0 and not connections._count and not connections._strangers and not connections._idle
