"""The table of locks, held against what it promises."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from karbor_actors.operations.admission.conflicts import LockRequest, LockTable

KEYS = "abcd"
KEY_SETS = st.frozensets(st.sampled_from(KEYS), max_size=3)
REQUESTS = st.builds(LockRequest, exclusive=KEY_SETS, shared=KEY_SETS)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("request"), st.integers(0, 5), REQUESTS),
        st.tuples(st.just("release"), st.integers(0, 5), st.none()),
        st.tuples(st.just("share"), st.integers(0, 5), st.sampled_from(KEYS)),
    ),
    max_size=30,
)


@given(STEPS)
def test_what_is_granted_never_conflicts_and_what_waits_has_a_reason(steps):
    table = LockTable()
    granted: dict[str, LockRequest] = {}
    waiting: dict[str, LockRequest] = {}
    for action, number, what in steps:
        owner = str(number)
        if action == "request" and owner not in (*granted, *waiting):
            is_granted = table.request(owner, what)
            (granted if is_granted else waiting)[owner] = what
        elif action == "release":
            granted.pop(owner, None)
            waiting.pop(owner, None)
            for name in table.release(owner):
                granted[name] = waiting.pop(name)
        elif action == "share" and owner in granted:
            wanted = LockRequest(shared=frozenset({what}))
            others = [request for name, request in granted.items() if name != owner]
            is_free = not any(map(wanted.conflicts_with, others))
            assert table.add_shared(owner, what) is is_free
            if is_free:
                has = granted[owner]
                granted[owner] = LockRequest(has.exclusive, has.shared | {what})

        for one, other in combinations(granted.values(), 2):
            assert not one.conflicts_with(other)
        ahead: list[LockRequest] = []
        for name, request in waiting.items():
            assert not table.covers(name, request)
            assert any(map(request.conflicts_with, [*granted.values(), *ahead]))
            ahead.append(request)
        for name, request in granted.items():
            assert table.covers(name, request)


def test_a_request_is_not_held_against_each_that_was_granted():
    class Counting(frozenset):
        """Keys that count how often they are compared with others."""

        compared = 0

        def isdisjoint(self, other):
            Counting.compared += 1
            return super().isdisjoint(other)

    table = LockTable()
    for number in range(500):
        assert table.request(str(number), LockRequest(exclusive=Counting({number})))

    assert Counting.compared == 0
