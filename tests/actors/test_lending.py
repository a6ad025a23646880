"""Threads that run the actors which they have told something: one at a time, and none is forgotten."""

from __future__ import annotations

import threading
from collections import deque

import pytest

from helpers import DEADLINE, Gate
from karbor_actors.actors import Lender, LightActor, ThreadDispatcher, current_dispatcher
from karbor_actors.actors.lending import give_up_owed


class Noting(LightActor):
    """Notes on which thread it handled what, and that no other did so at the same time."""

    def __init__(self) -> None:
        super().__init__()
        self.handled = []
        self.is_busy = threading.Lock()

    def on_receive(self, message):
        if message == "look":
            return list(self.handled)
        assert self.is_busy.acquire(blocking=False), "two threads ran it at once"
        try:
            assert current_dispatcher() is self.actor_inbox.dispatcher
            self.handled.append((message, threading.current_thread().name))
            if callable(message):
                message()
        finally:
            self.is_busy.release()
        return None


@pytest.fixture
def dispatcher():
    made = ThreadDispatcher(name="own", lends=True)
    yield made
    made.close(timeout=DEADLINE)


def lent(do, *, may_owe=lambda: True, may_run=lambda _: True) -> None:
    """Call *do* with a lender, on a thread that is lent."""
    errors = []

    def body():
        try:
            do(Lender(may_owe, may_run))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=body, name="lent")
    thread.start()
    thread.join(DEADLINE)
    assert not thread.is_alive()
    assert not errors, errors


def look(ref):
    return ref.ask("look", timeout=DEADLINE)


def begun(ref):
    """Return *ref* once it runs, and its dispatcher's own threads sleep."""
    look(ref)
    dispatcher, poll = ref.dispatcher, threading.Event()
    for _ in range(int(DEADLINE * 1000)):
        if len(dispatcher._waiters) == len(dispatcher._threads):
            break
        poll.wait(0.001)
    return ref


def test_a_lent_thread_runs_what_it_has_told(dispatcher):
    ref = begun(Noting.start_on(dispatcher))

    def do(lender):
        ref.tell("one")
        ref.tell("two")
        assert lender.owed == deque([dispatcher])
        lender.pay()
        assert not lender.owed
        assert current_dispatcher() is None

    lent(do)
    assert look(ref) == [("one", "lent"), ("two", "lent")]


@pytest.mark.parametrize("how", ["not now", "is about to wait", "has something else to do", "ends"])
def test_what_a_thread_does_not_run_is_run_where_it_lives(dispatcher, how):
    ref = begun(Noting.start_on(dispatcher))

    def do(lender):
        ref.tell("one")
        if how == "is about to wait":
            give_up_owed()
        elif how == "ends":
            lender.give_up()
        elif how == "has something else to do":
            lender.pay()
        assert not lender.owed

    busy = how == "has something else to do"
    lent(do, may_owe=lambda: how != "not now", may_run=lambda _: not busy)
    (handled,) = look(ref)
    assert handled[0] == "one"
    assert handled[1].startswith("own")


def test_a_dispatcher_that_is_busy_does_it_itself(dispatcher):
    ref, gate = Noting.start_on(dispatcher), Gate()
    ref.tell(gate.pass_through)
    gate.wait_entered()

    def do(lender):
        ref.tell("one")
        lender.pay()

    lent(do)
    gate.open()
    assert [name[:3] for _, name in look(ref)] == ["own", "own"]


def test_a_dispatcher_with_several_threads_is_lent_none():
    dispatcher = ThreadDispatcher(threads=2, name="own")
    ref = begun(Noting.start_on(dispatcher))

    def do(lender):
        ref.tell("one")
        assert not lender.owed

    lent(do)
    assert look(ref)[0][1].startswith("own")
    dispatcher.close(timeout=DEADLINE)


def test_what_comes_while_a_thread_is_lent_is_not_left_behind(dispatcher):
    """The dispatcher's own thread sleeps, and nobody wakes it while another one has the turn."""
    ref, gate = begun(Noting.start_on(dispatcher)), Gate()

    def do(lender):
        ref.tell(gate.pass_through)
        lender.pay()

    thread = threading.Thread(target=lent, args=(do,))
    thread.start()
    gate.wait_entered()
    for number in range(100):
        ref.tell(number)
    gate.open()
    thread.join(DEADLINE)
    assert [message for message, _ in look(ref)][1:] == list(range(100))


def test_a_timer_is_kept_while_a_thread_is_lent(dispatcher):
    ref, rung = begun(Noting.start_on(dispatcher)), threading.Event()

    def do(lender):
        ref.tell(lambda: dispatcher.call_later(0.01, rung.set))
        lender.pay()
        assert rung.wait(DEADLINE)

    lent(do)


def test_a_dispatchers_own_thread_is_lent_and_another_one_goes_on(dispatcher):
    """What it is lent to may wait for a disk that hangs."""
    bank = ThreadDispatcher(name="bank", blocks=True)
    ref, slow = begun(Noting.start_on(dispatcher)), begun(Noting.start_on(bank))
    gate = Gate()
    ref.tell(lambda: slow.tell(gate.pass_through))
    gate.wait_entered()
    ref.tell("meanwhile")
    assert look(ref)[-1][0] == "meanwhile"
    gate.open()
    assert look(slow)[0][1].startswith("own")
    bank.close(timeout=DEADLINE)


def test_a_dispatchers_last_thread_waits_for_no_disk(dispatcher):
    """Two banks on one disk hang: what has nothing to do with them goes on all the same."""
    banks = [ThreadDispatcher(name=f"bank-{number}", blocks=True) for number in range(3)]
    ref, gates = Noting.start_on(dispatcher), [Gate() for _ in banks]
    rung = threading.Event()
    look(ref)
    for bank, gate in zip(banks, gates, strict=True):
        slow = Noting.start_on(bank)
        look(slow)
        ref.tell(lambda slow=slow, gate=gate: slow.tell(gate.pass_through))
        gate.wait_entered()
    ref.tell("meanwhile")
    assert look(ref)[-1][0] == "meanwhile"
    dispatcher.call_later(0.01, rung.set)
    assert rung.wait(DEADLINE)
    for bank, gate in zip(banks, gates, strict=True):
        gate.open()
        bank.close(timeout=DEADLINE)


def test_a_timer_is_kept_that_is_added_while_the_keeper_is_lent(dispatcher):
    """When it was to wake by itself says nothing any more."""
    bank = ThreadDispatcher(name="bank", blocks=True)
    ref, slow = begun(Noting.start_on(dispatcher)), begun(Noting.start_on(bank))
    gate, rung = Gate(), threading.Event()
    dispatcher.call_later(0.02, lambda: ref.tell(lambda: slow.tell(gate.pass_through)))
    gate.wait_entered()

    def do(lender):
        ref.tell(lambda: dispatcher.call_later(0.01, rung.set))
        lender.pay()
        assert rung.wait(DEADLINE)

    lent(do)
    gate.open()
    bank.close(timeout=DEADLINE)


def test_many_lent_threads_lose_nothing_and_never_run_an_actor_twice_at_once(dispatcher):
    other = ThreadDispatcher(name="bank", lends=True, blocks=True)
    heard = []
    back = Noting.start_on(dispatcher)

    def answer(number):
        back.tell(lambda: heard.append(number))

    there = Noting.start_on(other)

    def do(lender, first):
        for number in range(first, first + 200):
            there.tell(lambda number=number: answer(number))
            lender.pay()
        lender.give_up()

    threads = [
        threading.Thread(target=lent, args=(lambda lender, n=n: do(lender, 200 * n),))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    look(there)
    look(back)
    assert sorted(heard) == list(range(1600))
    other.close(timeout=DEADLINE)
