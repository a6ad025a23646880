from __future__ import annotations

import gc
import threading
import uuid
import weakref

import pykka
import pytest

from helpers import DEADLINE, Gate
from karbor_actors.actors import LightActor, PooledActor, ThreadDispatcher
from karbor_actors.errors import DispatcherClosedError

KINDS = pytest.mark.parametrize("kind", [PooledActor, LightActor])
WORKERS = pytest.mark.parametrize("threads", [1, 2, 8])


class Boom(BaseException):
    """What no handler should raise."""


def make_recorder(kind, **hooks):
    """Return an actor class that appends what happens to it to the list it is given."""

    class Recorder(kind):
        def __init__(self, seen, watcher=None):
            super().__init__()
            self.seen = seen
            self.watcher = watcher

        def on_start(self):
            self.seen.append("on_start")
            self.call("start")

        def on_stop(self):
            self.seen.append("on_stop")
            self.call("stop")

        def on_failure(self, exception_type, exception_value, traceback):
            self.seen.append("on_failure")
            self.call("failure")

        def on_receive(self, message):
            if callable(message):
                return message()
            self.seen.append(message)
            return message

        def call(self, hook):
            if hook in hooks:
                hooks[hook](self)

    return Recorder


def raise_boom(*_):
    raise Boom


def raise_error(*_):
    raise ValueError("told to")


@KINDS
def test_life_goes_from_on_start_through_the_messages_to_on_stop(kind, dispatcher):
    seen = []
    ref = make_recorder(kind).start_on(dispatcher, seen)
    ref.tell("a")
    assert ref.ask("b", timeout=DEADLINE) == "b"
    assert ref.stop(timeout=DEADLINE) is True

    assert seen == ["on_start", "a", "b", "on_stop"]
    assert not ref.is_alive()
    assert ref.stop(timeout=DEADLINE) is False
    assert dispatcher.actor_count == 0


@KINDS
def test_a_real_pykka_actor_and_ref(kind, dispatcher):
    ref = make_recorder(kind).start_on(dispatcher, [])

    assert issubclass(kind, pykka.Actor)
    assert isinstance(ref, pykka.ActorRef)
    assert uuid.UUID(ref.actor_urn).version == 4
    assert str(ref) == f"Recorder ({ref.actor_urn})"
    assert isinstance(ref.actor_stopped, threading.Event)
    assert not ref.actor_stopped.is_set()
    ref.stop(timeout=DEADLINE)
    assert ref.actor_stopped.is_set()


@KINDS
def test_a_proxy_calls_reads_and_writes(kind, dispatcher):
    class Counter(kind):
        def __init__(self, count):
            super().__init__()
            self.count = count

        def add(self, number):
            self.count += number
            return self.count

    proxy = Counter.start_on(dispatcher, 5).proxy()

    assert proxy.add(2).get(timeout=DEADLINE) == 7
    proxy.count = 10
    proxy.add.defer(1)
    assert proxy.count.get(timeout=DEADLINE) == 11


@KINDS
def test_messages_told_in_the_constructor_come_after_on_start(kind, dispatcher):
    class Eager(make_recorder(kind)):
        def __init__(self, seen):
            super().__init__(seen)
            self.actor_ref.tell("told in __init__")

    seen = []
    Eager.start_on(dispatcher, seen).stop(timeout=DEADLINE)

    assert seen == ["on_start", "told in __init__", "on_stop"]


def test_a_tuple_that_equals_pykkas_stop_message_is_an_ordinary_message(dispatcher):
    seen = []
    ref = make_recorder(LightActor).start_on(dispatcher, seen)
    ref.tell(())

    assert ref.ask("still here", timeout=DEADLINE) == "still here"
    assert () in seen


def test_a_told_envelope_arrives_as_it_is(dispatcher):
    from pykka._envelope import Envelope  # noqa: PLC0415 - what a message must not be mixed up with

    seen = []
    envelope = Envelope("inner")
    ref = make_recorder(LightActor).start_on(dispatcher, seen)
    ref.tell(envelope)
    ref.stop(timeout=DEADLINE)

    assert envelope in seen
    assert "inner" not in seen


def test_only_registered_actors_are_in_pykkas_registry(dispatcher):
    known = make_recorder(PooledActor).start_on(dispatcher, [])
    light = make_recorder(LightActor).start_on(dispatcher, [])

    registered = pykka.ActorRegistry.get_all()
    assert known in registered
    assert light not in registered
    assert pykka.ActorRegistry.get_by_urn(known.actor_urn) is known
    known.stop(timeout=DEADLINE)
    assert known not in pykka.ActorRegistry.get_all()


def test_an_actor_is_registered_before_on_start(dispatcher):
    found = []

    def look(actor):
        found.append(pykka.ActorRegistry.get_by_urn(actor.actor_urn))

    ref = make_recorder(PooledActor, start=look).start_on(dispatcher, [])
    ref.stop(timeout=DEADLINE)

    assert found == [ref]


@KINDS
def test_an_idle_actor_lives_without_a_ref_and_a_dead_one_is_freed_at_once(kind, dispatcher):
    seen = []
    ref = make_recorder(kind).start_on(dispatcher, seen)
    ref.ask("wait until it is idle", timeout=DEADLINE)
    actor = weakref.ref(ref._actor_weakref())
    gc.collect()
    assert actor() is not None
    gc.disable()
    try:
        ref.stop(timeout=DEADLINE)
        dispatcher.close()  # its worker may have had it in hand

        assert actor() is None
    finally:
        gc.enable()


def test_an_actor_without_super_init_is_refused(dispatcher):
    class Careless(PooledActor):
        def __init__(self):
            pass

    with pytest.raises(TypeError, match="super"):
        Careless.start_on(dispatcher)


@KINDS
def test_no_actor_starts_on_a_closed_dispatcher(kind):
    closed = ThreadDispatcher(name="test")
    closed.close()
    before = pykka.ActorRegistry.get_all()

    with pytest.raises(DispatcherClosedError):
        make_recorder(kind).start_on(closed, [])
    assert pykka.ActorRegistry.get_all() == before


def test_a_dispatcher_that_gets_no_thread_refuses_the_actor(dispatcher, monkeypatch):
    def refuse(_thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start"):
        make_recorder(PooledActor).start_on(dispatcher, [])
    monkeypatch.undo()

    assert dispatcher.actor_count == 0
    ref = make_recorder(PooledActor).start_on(dispatcher, [])
    assert ref.ask("works again", timeout=DEADLINE) == "works again"


@KINDS
def test_an_exception_goes_to_the_asker_and_the_actor_lives(kind, dispatcher):
    ref = make_recorder(kind).start_on(dispatcher, [])

    with pytest.raises(ValueError, match="told to"):
        ref.ask(raise_error, timeout=DEADLINE)
    assert ref.ask("alive", timeout=DEADLINE) == "alive"


@KINDS
@pytest.mark.crash_expected
def test_an_exception_in_a_tell_ends_the_actor_and_reaches_its_watcher(kind, dispatcher):
    seen, deaths, heard = [], [], threading.Event()

    def watch(actor, error):
        deaths.append((actor.seen, str(error), actor.actor_ref.is_alive()))
        heard.set()

    ref = make_recorder(kind).start_on(dispatcher, seen, watch)
    ref.tell(raise_error)
    assert heard.wait(DEADLINE)

    assert seen == ["on_start", "on_failure"]
    assert deaths == [(seen, "told to", False)]
    with pytest.raises(pykka.ActorDeadError, match="not found"):
        ref.tell("too late")


def test_an_orderly_stop_is_no_death_to_the_watcher(dispatcher):
    deaths = []
    ref = make_recorder(LightActor).start_on(dispatcher, [], lambda *death: deaths.append(death))
    ref.stop(timeout=DEADLINE)

    assert deaths == []


@KINDS
@pytest.mark.crash_expected
@pytest.mark.parametrize("raiser", [raise_error, raise_boom])
def test_a_failing_on_start_ends_the_actor_without_on_failure(kind, raiser, dispatcher):
    seen, deaths, heard = [], [], threading.Event()

    def watch(actor, error):
        deaths.append(type(error))
        heard.set()

    ref = make_recorder(kind, start=raiser).start_on(dispatcher, seen, watch)
    assert heard.wait(DEADLINE)

    assert deaths == [ValueError if raiser is raise_error else Boom]
    assert not ref.is_alive()
    assert dispatcher.actor_count == 0
    assert seen[0] == "on_start"
    if raiser is raise_error:
        assert seen == ["on_start"]


@KINDS
@pytest.mark.crash_expected
@pytest.mark.parametrize("raiser", [raise_error, raise_boom])
@pytest.mark.parametrize("hook", ["start", "stop", "failure"])
def test_no_worker_is_lost_to_what_a_hook_raises(kind, raiser, hook, dispatcher):
    dying = make_recorder(kind, **{hook: raiser}).start_on(dispatcher, [])
    future = dying.stop(block=False) if hook == "stop" else None
    if hook == "failure":
        dying.tell(raise_error)
    if future is not None and raiser is raise_error:
        assert future.get(timeout=DEADLINE) is True

    assert dying.actor_stopped.wait(DEADLINE)
    ref = make_recorder(LightActor).start_on(dispatcher, [])
    assert ref.ask("served", timeout=DEADLINE) == "served"
    assert dispatcher.actor_count == 1


@pytest.mark.crash_expected
def test_a_failing_watcher_costs_nothing_but_a_line_in_the_log(dispatcher, caplog):
    dying = make_recorder(LightActor).start_on(dispatcher, [], raise_boom)
    dying.tell(raise_error)
    other = make_recorder(LightActor).start_on(dispatcher, [])

    assert other.ask("served", timeout=DEADLINE) == "served"
    assert "watcher" in caplog.text


@pytest.mark.crash_expected
def test_a_base_exception_reaches_its_asker_and_stops_every_registered_actor(make_dispatcher):
    first, second = make_dispatcher(), make_dispatcher(threads=2)
    seen, deaths = [], []
    bystander = make_recorder(PooledActor).start_on(second, [])
    neighbour = make_recorder(PooledActor).start_on(first, [])
    light = make_recorder(LightActor).start_on(first, [])
    ref = make_recorder(PooledActor).start_on(first, seen, lambda _, error: deaths.append(error))

    with pytest.raises(Boom):
        ref.ask(raise_boom, timeout=DEADLINE)
    assert bystander.actor_stopped.wait(DEADLINE)
    assert neighbour.actor_stopped.wait(DEADLINE)
    assert seen == ["on_start", "on_stop"]
    assert light.ask("untouched", timeout=DEADLINE) == "untouched"
    assert [type(error) for error in deaths] == [Boom]


@pytest.mark.crash_expected
def test_a_light_actors_base_exception_is_its_own_failure(dispatcher):
    seen, deaths = [], []
    bystander = make_recorder(PooledActor).start_on(dispatcher, [])
    ref = make_recorder(LightActor).start_on(
        dispatcher, seen, lambda _, error: deaths.append(error)
    )

    with pytest.raises(pykka.ActorDeadError, match="Boom") as caught:
        ref.ask(raise_boom, timeout=DEADLINE)

    assert isinstance(caught.value.__cause__, Boom)
    assert bystander.ask("untouched", timeout=DEADLINE) == "untouched"
    assert seen == ["on_start", "on_failure"]
    assert [type(error) for error in deaths] == [Boom]


@pytest.mark.crash_expected
def test_sys_exit_in_a_tell_to_a_light_actor_spares_the_process(dispatcher):
    bystander = make_recorder(PooledActor).start_on(dispatcher, [])
    ref = make_recorder(LightActor).start_on(dispatcher, [])
    ref.tell(lambda: exit(1))  # noqa: PLR1722 - what careless code does

    assert ref.actor_stopped.wait(DEADLINE)
    assert bystander.ask("untouched", timeout=DEADLINE) == "untouched"


@KINDS
def test_stop_comes_in_its_turn_and_what_follows_it_is_refused(kind, dispatcher):
    gate, seen = Gate(), []
    ref = make_recorder(kind).start_on(dispatcher, seen)
    ref.tell(gate.pass_through)
    gate.wait_entered()
    before = ref.ask("before", block=False)
    stops = [ref.stop(block=False), ref.stop(block=False)]
    after = ref.ask("after", block=False)
    ref.tell("a dead letter")
    gate.open()

    assert before.get(timeout=DEADLINE) == "before"
    assert [stop.get(timeout=DEADLINE) for stop in stops] == [True, True]
    with pytest.raises(pykka.ActorDeadError, match="before handling"):
        after.get(timeout=DEADLINE)
    assert seen == ["on_start", "before", "on_stop"]
    assert dispatcher.dead_letters == 1


def test_what_comes_during_on_stop_is_answered_after_it(dispatcher):
    gate = Gate()
    ref = make_recorder(LightActor, stop=lambda _: gate.pass_through()).start_on(dispatcher, [])
    first = ref.stop(block=False)
    gate.wait_entered()
    # Past the check of is_alive(), as if it had been alive a moment ago.
    late = pykka.ThreadingFuture()
    ref.actor_inbox.put(pykka._envelope.Envelope("late", reply_to=late))
    with pytest.raises(pykka.Timeout):
        late.get(timeout=0)
    gate.open()

    assert first.get(timeout=DEADLINE) is True
    with pytest.raises(pykka.ActorDeadError):
        late.get(timeout=DEADLINE)
    later = pykka.ThreadingFuture()
    ref.actor_inbox.put(pykka._envelope.Envelope("later", reply_to=later))
    with pytest.raises(pykka.ActorDeadError):
        later.get(timeout=0)


@WORKERS
def test_every_ask_that_races_a_stop_is_answered(threads, make_dispatcher):
    dispatcher = make_dispatcher(threads=threads)
    rounds, askers = 150, 3
    refs = [make_recorder(LightActor).start_on(dispatcher, []) for _ in range(rounds)]
    barrier = threading.Barrier(askers + 1, timeout=DEADLINE)
    futures = [[] for _ in range(askers)]

    def ask_all(mine):
        for ref in refs:
            barrier.wait()
            mine.extend(ref.ask(number, block=False) for number in range(10))

    workers = [threading.Thread(target=ask_all, args=(mine,)) for mine in futures]
    for worker in workers:
        worker.start()
    stops = []
    for ref in refs:
        barrier.wait()
        stops.append(ref.stop(block=False))
    for worker in workers:
        worker.join(DEADLINE)

    assert all(stop.get(timeout=DEADLINE) for stop in stops)
    for mine in futures:
        assert len(mine) == rounds * 10
        for number, future in enumerate(mine):
            try:
                assert future.get(timeout=DEADLINE) == number % 10
            except pykka.ActorDeadError:
                continue
    assert dispatcher.actor_count == 0


@WORKERS
def test_an_actor_runs_on_one_worker_at_a_time_and_keeps_each_senders_order(
    threads, make_dispatcher
):
    senders, count = 4, 2000
    dispatcher = make_dispatcher(threads=threads)

    class Busy(LightActor):
        def __init__(self):
            super().__init__()
            self.lock = threading.Lock()
            self.overlaps = 0
            self.seen = []

        def on_receive(self, message):
            if message == "report":
                return self.overlaps, self.seen
            if not self.lock.acquire(blocking=False):
                self.overlaps += 1
                return None
            self.seen.append(message)
            self.lock.release()
            return None

    refs = [Busy.start_on(dispatcher) for _ in range(3)]

    def send(sender):
        for number in range(count):
            for ref in refs:
                ref.tell((sender, number))

    workers = [threading.Thread(target=send, args=(sender,)) for sender in range(senders)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(DEADLINE)

    for ref in refs:
        overlaps, seen = ref.ask("report", timeout=DEADLINE)
        assert overlaps == 0
        assert len(seen) == senders * count
        for sender in range(senders):
            assert [number for who, number in seen if who == sender] == list(range(count))


def test_a_reply_to_a_future_that_is_set_already_harms_nobody(dispatcher):
    gate = Gate()
    ref = make_recorder(LightActor).start_on(dispatcher, [])
    ref.tell(gate.pass_through)
    gate.wait_entered()
    future = ref.ask("reply", block=False)
    future.set("by somebody else")
    gate.open()

    assert ref.ask("alive", timeout=DEADLINE) == "alive"
    assert future.get(timeout=DEADLINE) == "by somebody else"


def test_stop_all_of_the_registry_stops_pooled_actors(dispatcher):
    refs = [make_recorder(PooledActor).start_on(dispatcher, []) for _ in range(3)]

    assert pykka.ActorRegistry.stop_all(timeout=DEADLINE) == [True] * 3
    assert not any(ref.is_alive() for ref in refs)


def test_a_light_actor_makes_no_urn_and_no_event_unless_asked(dispatcher):
    ref = make_recorder(LightActor).start_on(dispatcher, [])
    ref.ask("work", timeout=DEADLINE)
    ref.stop(timeout=DEADLINE)

    assert ref.actor_inbox._urn is None
    assert ref.actor_inbox._event is None


def test_a_urn_is_the_same_for_everybody(dispatcher):
    ref = make_recorder(LightActor).start_on(dispatcher, [])
    barrier = threading.Barrier(4, timeout=DEADLINE)
    urns = []

    def look():
        barrier.wait()
        urns.append(ref.actor_urn)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)

    assert len(urns) == 4
    assert len(set(urns)) == 1


class Where(PooledActor):
    """Notes the thread of each message; does what it is told to do first."""

    def __init__(self, seen):
        super().__init__()
        self.seen = seen
        self.watcher = lambda _, error: seen.append(error)

    def on_receive(self, message):
        if callable(message):
            message()
        self.seen.append(threading.get_ident())
        return message


def test_an_idle_actor_handles_a_message_on_the_thread_that_is_lent_to_it(dispatcher):
    seen = []
    ref = Where.start_on(dispatcher, seen)
    ref.ask("begun", timeout=DEADLINE)

    assert ref.handle_here("here")
    ref.ask("there", timeout=DEADLINE)

    assert seen[1] == threading.get_ident()
    assert seen[0] == seen[2] != seen[1]


def test_a_busy_actor_takes_no_lent_thread(dispatcher):
    seen, gate = [], Gate()
    ref = Where.start_on(dispatcher, seen)
    ref.tell(gate.pass_through)
    gate.wait_entered()

    assert not ref.handle_here("here")
    gate.open()
    assert ref.stop(timeout=DEADLINE)

    assert not ref.handle_here("here")
    assert len(seen) == 1


def test_what_comes_while_a_thread_is_lent_is_handled_where_the_actor_lives(dispatcher):
    seen = []
    ref = Where.start_on(dispatcher, seen)
    ref.ask("begun", timeout=DEADLINE)

    def tell_more():
        assert not ref.handle_here("nested")
        ref.tell("more")

    assert ref.handle_here(tell_more)
    ref.ask("last", timeout=DEADLINE)

    assert seen == [seen[0], threading.get_ident(), seen[0], seen[0]]


@pytest.mark.crash_expected
def test_an_actor_that_dies_on_a_lent_thread_is_dead_and_harms_nobody(dispatcher):
    seen = []
    ref = Where.start_on(dispatcher, seen)
    ref.ask("begun", timeout=DEADLINE)

    assert ref.handle_here(raise_error)

    assert [str(error) for error in seen[1:]] == ["told to"]
    assert not ref.handle_here("again")
    with pytest.raises(pykka.ActorDeadError):
        ref.tell("again")


def test_an_actor_runs_once_at_a_time_on_lent_threads_and_its_own(dispatcher):
    inside, most, handled = [], [], []

    def work():
        inside.append(1)
        most.append(len(inside))
        handled.append(threading.get_ident())
        inside.pop()

    ref = Where.start_on(dispatcher, [])

    def send():
        for _ in range(200):
            if not ref.handle_here(work):
                ref.tell(work)

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert ref.stop(timeout=DEADLINE)

    assert len(handled) == 800
    assert set(most) == {1}
