from __future__ import annotations

import gc

import pykka
import pytest

from helpers import DEADLINE
from karbor_actors.actors import ConfinedActor, LightActor, SimulatedDispatcher, start_all, tell_all
from karbor_actors.errors import DispatcherClosedError


class Boom(BaseException):
    """What no handler should raise."""


class Recorder(ConfinedActor):
    """Appends what it is told to a list; calls what can be called, with itself."""

    __slots__ = ("seen", "watcher")

    def __init__(self, seen, watcher=None):
        super().__init__()
        self.seen = seen
        self.watcher = watcher

    def on_failure(self, exception_type, exception_value, traceback):
        self.seen.append("on_failure")

    def on_receive(self, message):
        if callable(message):
            return message(self)
        self.seen.append(message)
        return message


class Insider(LightActor):
    """Calls what it is asked, on the dispatcher's thread."""

    def on_receive(self, message):
        return message()


@pytest.fixture
def inside(dispatcher):
    """Return what calls a function on the dispatcher's thread and returns its result."""
    ref = Insider.start_on(dispatcher)
    return lambda fn: ref.ask(fn, timeout=DEADLINE)


def begin_all(dispatcher, actors, message):
    """Start *actors*, tell each *message*, and return their refs."""
    refs = start_all(dispatcher, actors)
    tell_all(refs, message)
    return refs


def settle(inside):
    """Wait until what was scheduled so far has run, and what that told."""
    for _ in range(10):
        inside(lambda: None)


def test_many_are_started_with_a_message_and_told_another_each_in_its_order(dispatcher, inside):
    seen = []

    def begin():
        actors = [Recorder(own) for own in seen]
        refs = start_all(dispatcher, actors)
        refs[0].tell("before")
        tell_all(refs, "first")  # behind what they have not handled yet
        tell_all(refs, "second")
        refs[0].tell("third")
        return refs

    seen.extend([] for _ in range(3))
    refs = inside(begin)
    settle(inside)
    inside(lambda: tell_all(refs, "at rest"))
    settle(inside)

    assert seen[0] == ["before", "first", "second", "third", "at rest"]
    assert seen[1] == seen[2] == ["first", "second", "at rest"]


def test_what_is_told_to_many_they_handle_within_the_tellers_turn(dispatcher, inside):
    seen = []

    def begin():
        begin_all(dispatcher, [Recorder(seen), Recorder(seen)], "first")
        seen.append("told")

    inside(begin)

    assert seen == ["first", "first", "told"]


def test_in_a_simulation_the_seed_decides_whether_they_do():
    orders = set()
    for seed in range(20):
        dispatcher, seen = SimulatedDispatcher(seed), []
        ref = Insider.start_on(dispatcher)

        def begin(dispatcher=dispatcher, seen=seen):
            begin_all(dispatcher, [Recorder(seen)], "first")
            seen.append("told")

        ref.tell(begin)
        dispatcher.run_until_idle()
        dispatcher.close()
        orders.add(tuple(seen))

    assert orders == {("first", "told"), ("told", "first")}


def test_one_that_is_started_alone_rests_until_it_is_told(dispatcher, inside):
    seen = []
    ref = inside(lambda: Recorder.start_on(dispatcher, seen))
    settle(inside)
    assert ref.is_alive()
    assert seen == []

    inside(lambda: ref.tell("hello"))
    settle(inside)

    assert seen == ["hello"]


def test_it_is_a_real_pykka_actor_whose_asks_and_stops_are_answered(dispatcher, inside):
    seen = []
    ref = inside(lambda: Recorder.start_on(dispatcher, seen))

    asked = inside(lambda: ref.ask("question", block=False))
    stopped = inside(lambda: ref.stop(block=False))
    late = inside(lambda: ref.ask("too late", block=False))

    assert isinstance(ref, pykka.ActorRef)
    assert issubclass(Recorder, pykka.Actor)
    assert asked.get(timeout=DEADLINE) == "question"
    assert stopped.get(timeout=DEADLINE) is True
    with pytest.raises(pykka.ActorDeadError):
        late.get(timeout=DEADLINE)
    assert ref.actor_stopped.wait(DEADLINE)
    assert str(ref) == f"Recorder ({ref.actor_urn})"
    with pytest.raises(pykka.ActorDeadError):
        inside(lambda: ref.tell("dead"))


def test_what_waits_when_it_stops_within_its_turn_is_refused(dispatcher, inside):
    seen, answers = [], []

    def begin():
        (ref,) = start_all(dispatcher, [Recorder(seen)])
        ref.tell(lambda actor: actor._stop())
        answers.append(ref.ask("question", block=False))
        ref.tell("a dead letter")
        return ref

    ref = inside(begin)
    with pytest.raises(pykka.ActorDeadError):
        answers[0].get(timeout=DEADLINE)
    inside(lambda: tell_all([ref], "another"))

    assert seen == []
    assert dispatcher.dead_letters == 2


@pytest.mark.crash_expected
@pytest.mark.parametrize("error", [ValueError, SystemExit, Boom])
def test_what_it_raises_ends_it_and_nobody_else(dispatcher, inside, error):
    seen, other, deaths = [], [], []

    def fail(_):
        raise error("told to")

    def begin():
        dying = Recorder(seen, lambda actor, error: deaths.append((actor.seen, type(error))))
        refs = begin_all(dispatcher, [dying, Recorder(other)], fail)
        return refs[0], begin_all(dispatcher, [Recorder(other)], "alive")[0]

    dead, alive = inside(begin)
    settle(inside)

    assert seen == ["on_failure"]
    assert deaths == [(seen, error)]
    assert not dead.is_alive()
    assert alive.is_alive()
    assert other == ["on_failure", "alive"]


def test_one_that_tells_itself_leaves_others_their_turns(dispatcher, inside):
    seen = []

    def go_on(actor):
        seen.append("itself")
        if len(seen) < 100:
            actor.actor_ref.tell(go_on)

    def begin():
        begin_all(dispatcher, [Recorder(seen)], go_on)
        start_all(dispatcher, [Recorder(seen)])[0].tell("other")

    inside(begin)
    settle(inside)

    assert seen.index("other") == 2  # after its own first turn, within the one that told it


def test_only_the_one_thread_of_its_dispatcher_may_start_and_tell_it(
    dispatcher, inside, make_dispatcher
):
    ref = inside(lambda: Recorder.start_on(dispatcher, []))
    for attempt in (
        lambda: ref.tell("from outside"),
        lambda: ref.stop(block=False),
        lambda: tell_all([ref], "from outside"),
        lambda: start_all(dispatcher, [Recorder([])]),
        lambda: Recorder.start_on(dispatcher, []),
    ):
        with pytest.raises(RuntimeError, match="only the thread of"):
            attempt()
    several = make_dispatcher(threads=2)
    crowd = Insider.start_on(several)

    with pytest.raises(RuntimeError, match="several threads"):
        crowd.ask(lambda: start_all(several, [Recorder([])]), timeout=DEADLINE)


def test_none_is_started_on_a_closed_dispatcher():
    dispatcher = SimulatedDispatcher(seed=1)
    dispatcher.close()

    with pytest.raises(DispatcherClosedError):
        start_all(dispatcher, [Recorder([])])


def test_what_would_never_be_called_is_refused():
    for name in ("on_start", "on_stop"):
        with pytest.raises(TypeError, match=r"no on_start\(\) and on_stop\(\)"):
            type("Wrong", (ConfinedActor,), {name: lambda self: None})


def test_one_at_rest_is_two_objects_to_the_collector_and_goes_with_its_ref(dispatcher, inside):
    count = 100

    def begin():
        actors = [Recorder(None, print) for _ in range(count)]
        return begin_all(dispatcher, actors, lambda _: None)

    gc.collect()
    gc.disable()  # what is made meanwhile stays in the youngest generation
    try:
        refs = inside(begin)
        settle(inside)
        alive = [
            thing for thing in gc.get_objects() if isinstance(thing, (Recorder, type(refs[0])))
        ]
        others = [thing for ref in refs for thing in gc.get_referents(ref, ref.actor)]
    finally:
        gc.enable()

    assert len(alive) == 2 * count
    own = {id(thing) for thing in others if gc.is_tracked(thing)}
    assert own <= {id(thing) for thing in (*alive, Recorder, type(refs[0]), print, dispatcher)}
    del alive, others
    refs.clear()
    gc.collect()
    assert not [thing for thing in gc.get_objects() if type(thing) is Recorder]
