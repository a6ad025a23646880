from __future__ import annotations

import threading

import pykka
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import DEADLINE
from karbor_actors.actors import LightActor, PooledActor, SimulatedDispatcher, current_dispatcher
from karbor_actors.errors import DispatcherClosedError

SEEDS = st.integers(0, 2**32)


class Node(LightActor):
    """Writes down what it handles, and passes it on while it has hops left."""

    def __init__(self, name, trace, peers):
        super().__init__()
        self.name = name
        self.trace = trace
        self.peers = peers

    def on_receive(self, message):
        sender, hops = message
        dispatcher = current_dispatcher()
        self.trace.append((dispatcher.now(), self.name, sender, hops))
        if hops:
            for step in (1, 2):
                self.peers[(self.name + step) % len(self.peers)].tell((self.name, hops - 1))
            target = self.peers[hops % len(self.peers)]
            dispatcher.call_later(hops, lambda: target.tell(("timer", 0)))


class Echo(LightActor):
    """Replies with the message, or calls it."""

    def on_receive(self, message):
        return message() if callable(message) else message


def run_nodes(seed):
    """Run a small crowd of nodes; return the trace."""
    dispatcher = SimulatedDispatcher(seed)
    trace, peers = [], []
    peers.extend(Node.start_on(dispatcher, name, trace, peers) for name in range(5))
    peers[0].tell(("test", 4))
    dispatcher.run_until_idle()
    dispatcher.close()
    return trace


@given(SEEDS)
def test_equal_seeds_replay_exactly(seed):
    assert run_nodes(seed) == run_nodes(seed)


def test_seeds_differ_in_the_order_and_agree_on_what_is_done():
    traces = [run_nodes(seed) for seed in range(20)]

    assert len({tuple(trace) for trace in traces}) > 10
    done = {tuple(sorted((name, hops) for _, name, _, hops in trace)) for trace in traces}
    assert len(done) == 1


@given(SEEDS)
def test_each_senders_messages_keep_their_order(seed):
    dispatcher = SimulatedDispatcher(seed)
    seen = []

    class Sink(LightActor):
        def on_receive(self, message):
            seen.append(message)

    class Sender(LightActor):
        def on_receive(self, message):
            sink.tell((id(self), message))

    sink = Sink.start_on(dispatcher)
    senders = [Sender.start_on(dispatcher) for _ in range(3)]
    for number in range(10):
        for sender in senders:
            sender.tell(number)
    dispatcher.run_until_idle()
    dispatcher.close()

    for who in {who for who, _ in seen}:
        assert [number for sender, number in seen if sender == who] == list(range(10))
    assert len(seen) == 30


def test_nothing_runs_by_itself():
    dispatcher = SimulatedDispatcher(0)
    ran = []
    ref = Echo.start_on(dispatcher)
    ref.tell(lambda: ran.append("told"))

    assert ran == []
    assert dispatcher.run_until_idle() == 1  # on_start goes with the first message
    assert ran == ["told"]
    assert dispatcher.step() is False
    dispatcher.close()


def test_the_clock_stands_still_until_nothing_can_run_and_then_jumps():
    dispatcher = SimulatedDispatcher(0, start=100)
    times = []
    dispatcher.call_later(3600, lambda: times.append(dispatcher.now()))
    dispatcher.call_later(5, lambda: times.append(dispatcher.now()))
    ref = Echo.start_on(dispatcher)
    ref.tell(lambda: times.append(dispatcher.now()))
    dispatcher.run_until_idle()
    dispatcher.close()

    assert times == [100, 105, 3700]


def test_run_until_a_time_leaves_later_timers_for_later():
    dispatcher = SimulatedDispatcher(0)
    ran = []
    dispatcher.call_later(1, lambda: ran.append(1))
    dispatcher.call_later(10, lambda: ran.append(10))
    dispatcher.run_until_idle(until=5)
    assert (ran, dispatcher.now()) == ([1], 5)
    dispatcher.run_until_idle()

    assert (ran, dispatcher.now()) == ([1, 10], 10)
    dispatcher.close()


def test_the_seed_orders_timers_that_are_due_together_and_one_may_cancel_another():
    orders = set()
    for seed in range(20):
        dispatcher = SimulatedDispatcher(seed)
        ran, timers = [], {}

        def run(name, other, ran=ran, timers=timers):
            ran.append(name)
            timers[other].cancel()

        timers["a"] = dispatcher.call_later(1, lambda run=run: run("a", "b"))
        timers["b"] = dispatcher.call_later(1, lambda run=run: run("b", "a"))
        dispatcher.run_until_idle()
        dispatcher.close()
        orders.add(tuple(ran))

    assert orders == {("a",), ("b",)}


def test_an_ask_runs_the_others_until_it_is_answered():
    dispatcher = SimulatedDispatcher(1)
    inner, outer = Echo.start_on(dispatcher), Echo.start_on(dispatcher)

    assert outer.ask(lambda: inner.ask("nested")) == "nested"
    assert outer.proxy().actor_urn.get() == outer.actor_urn
    assert outer.stop() is True
    dispatcher.close()


def test_an_asks_timeout_is_in_virtual_time():
    dispatcher = SimulatedDispatcher(1)
    inner = Echo.start_on(dispatcher)
    blocked = Echo.start_on(dispatcher)

    def ask_itself():
        return blocked.ask("never", timeout=3600)

    with pytest.raises(pykka.Timeout):
        blocked.ask(ask_itself)
    assert dispatcher.now() == 3600
    assert inner.ask("alive", timeout=1) == "alive"
    dispatcher.close()


def test_a_deadlock_is_told_at_once():
    dispatcher = SimulatedDispatcher(1)
    ref = Echo.start_on(dispatcher)

    with pytest.raises(RuntimeError, match="deadlock"):
        ref.ask(lambda: ref.ask("itself"))
    dispatcher.close()


def test_too_many_steps_are_an_error():
    dispatcher = SimulatedDispatcher(0)

    class Restless(LightActor):
        def on_receive(self, message):
            self.actor_ref.tell(message)

    ref = Restless.start_on(dispatcher)
    ref.tell("go on")

    with pytest.raises(RuntimeError, match="after 100 steps"):
        dispatcher.run_until_idle(max_steps=100)
    with pytest.raises(RuntimeError, match="after 100 steps"):
        dispatcher.run_until_idle(max_steps=100)
    ref.stop()
    dispatcher.close()


@given(SEEDS)
def test_close_stops_actors_in_the_reverse_of_their_start(seed):
    dispatcher = SimulatedDispatcher(seed)
    stopped = []

    class Child(LightActor):
        def __init__(self, number):
            super().__init__()
            self.number = number

        def on_stop(self):
            stopped.append(self.number)

    for number in range(5):
        Child.start_on(dispatcher, number)
    dispatcher.close()
    dispatcher.close()

    assert stopped == [4, 3, 2, 1, 0]
    with pytest.raises(DispatcherClosedError):
        Child.start_on(dispatcher, 5)
    with pytest.raises(DispatcherClosedError):
        dispatcher.call_later(1, print)


def test_close_from_inside_is_a_clear_error():
    dispatcher = SimulatedDispatcher(0)
    ref = Echo.start_on(dispatcher)

    with pytest.raises(RuntimeError, match="call it from outside"):
        ref.ask(dispatcher.close)
    dispatcher.close()


def test_another_thread_is_refused():
    dispatcher = SimulatedDispatcher(0)
    ref = Echo.start_on(dispatcher)
    dispatcher.run_until_idle()
    refused = []

    def tell():
        try:
            ref.tell("from outside")
        except RuntimeError as error:
            refused.append(str(error))

    thread = threading.Thread(target=tell)
    thread.start()
    thread.join(DEADLINE)
    dispatcher.close()

    assert len(refused) == 1
    assert "one thread" in refused[0]


@pytest.mark.crash_expected
def test_deaths_are_as_anywhere_else():
    dispatcher = SimulatedDispatcher(0)
    deaths = []

    class Mortal(PooledActor):
        def __init__(self):
            super().__init__()
            self.watcher = lambda _, error: deaths.append(str(error))

        def on_receive(self, message):
            raise ValueError(message)

    ref = Mortal.start_on(dispatcher)
    ref.tell("first")
    ref.tell("unread")
    dispatcher.run_until_idle()

    assert deaths == ["first"]
    assert dispatcher.dead_letters == 1
    assert dispatcher.actor_count == 0
    dispatcher.close()
