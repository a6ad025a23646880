"""Workers that sleep are woken to run the actors of the control dispatcher."""

from __future__ import annotations

import sys
import threading
import time

import pytest

from helpers import DEADLINE, Gate
from karbor_actors.actors import ThreadDispatcher
from karbor_actors.operations.hooks.worker import Worker
from lane_kit import Call, Handing, Lanes, Storm, wait_until


@pytest.fixture
def lanes():
    made = Lanes(4, 4, 4)
    made.control.lent_by = made.lanes[1].lend
    yield made
    made.close()


class Heard:
    """What an actor has been told, and on which threads."""

    def __init__(self, lanes: Lanes, then=lambda _: None) -> None:
        self.threads: list[threading.Thread] = []
        self.last = threading.Event()
        self.then = then
        self.ref = lanes.handing(self.hear)

    def hear(self, call: Call) -> None:
        self.threads.append(threading.current_thread())
        self.then(call)
        self.last.set()

    def tell(self, call: Call | None = None) -> None:
        """Tell the actor, on a thread that is not the main one."""
        thread = threading.Thread(target=self.ref.tell, args=(call or Call(),))
        thread.start()
        thread.join(DEADLINE)

    def wait(self) -> threading.Thread:
        assert self.last.wait(DEADLINE), "nobody ran the actor"
        self.last.clear()
        return self.threads[-1]


def sleep_all(lanes: Lanes) -> None:
    """Wait until a worker sleeps, and the dispatcher's own thread, too."""
    lanes.make_quick()
    wait_until(lambda: lanes.lanes[0].pool.sleepers and lanes.control._waiters)


def test_a_thread_that_sleeps_runs_an_actor_and_then_what_that_hands_on(lanes):
    heard = Heard(lanes, lambda call: lanes.lanes[2].submit([call]))
    same = []
    for _ in range(20):
        sleep_all(lanes)
        call = Call()
        heard.tell(call)
        assert call.done.wait(DEADLINE)
        same.append(isinstance(heard.wait(), Worker) and call.thread is heard.threads[-1])
    assert True in same, "another thread may come first, but not each time"


def test_no_worker_comes_for_the_main_thread_which_may_be_interrupted_as_it_wakes_one(lanes):
    heard = Heard(lanes)
    for _ in range(5):
        sleep_all(lanes)
        heard.ref.tell(Call())
        assert not isinstance(heard.wait(), Worker)


def test_one_worker_comes_however_often_it_is_asked_for(lanes):
    lanes.lanes[0].submit([Call(lambda: time.sleep(0.02)) for _ in range(4)])
    wait_until(lambda: len(lanes.lanes[0].pool.sleepers) == 4)
    came, sleepers = [], lanes.lanes[0].pool.sleepers

    def ask() -> None:
        for _ in range(3):
            assert lanes.lanes[1].lend(lanes.control)
        came.append(4 - len(sleepers))

    switching = sys.getswitchinterval()
    sys.setswitchinterval(10)  # none of those that are woken gets on meanwhile
    try:
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join(DEADLINE)
    finally:
        sys.setswitchinterval(switching)
    assert came == [1]


@pytest.mark.parametrize("why", ["nobody sleeps", "its lane is full", "its lane is closed"])
def test_where_no_thread_comes_the_dispatchers_own_does(lanes, why):
    heard, gate = Heard(lanes), Gate()
    if why == "its lane is full":
        lanes.lanes[1].submit([Call(gate.pass_through) for _ in range(4)])
        wait_until(lambda: lanes.lanes[1].running == 4)
    elif why == "its lane is closed":
        sleep_all(lanes)
        lanes.lanes[1].close()
    heard.tell()
    assert not isinstance(heard.wait(), Worker)
    gate.open()


def test_an_actor_does_not_wait_for_a_call_that_the_thread_finds_first(lanes):
    heard = Heard(lanes)
    for _ in range(30):
        sleep_all(lanes)
        gate = Gate()
        heard.tell()
        lanes.lanes[1].submit([Call(gate.pass_through)])
        heard.wait()
        heard.tell()
        heard.wait()
        gate.open()


def test_an_actor_is_run_although_the_thread_is_to_end(lanes):
    for _ in range(30):
        own = Lanes(2, 2)
        own.control.lent_by = own.lanes[0].lend
        heard = Heard(own)
        sleep_all(own)
        heard.tell()
        own.close()
        assert heard.threads, "nobody ran the actor"


def test_an_actor_does_not_wait_for_a_call_that_is_given_up_as_the_thread_takes_it(
    lanes, monkeypatch
):
    heard, gate = Heard(lanes), Gate()
    sleep_all(lanes)
    lane, hanging = lanes.lanes[1], Call(gate.pass_through)

    def take(worker, call):
        vars(worker)["call"] = call
        if call is hanging:
            lane.abandon(hanging)

    monkeypatch.setattr(
        Worker, "call", property(lambda own: vars(own)["call"], take), raising=False
    )
    lane.queue.append(hanging)  # nobody is woken for it
    heard.tell()
    heard.wait()
    gate.open()


def test_what_is_left_to_a_thread_does_not_wait_for_a_call_of_the_lane_that_it_goes_over_to(lanes):
    gate, other = Gate(), ThreadDispatcher(name="test-other")
    _, planning, passed_by = lanes.lanes
    heard = threading.Event()
    ref = Handing.start_on(other, lambda _: heard.set())
    ref.ask(None, timeout=DEADLINE)
    other.lent_by = lambda _: True
    ref.tell(Call())
    other.lent_by = None

    def leave_it(_):
        own = threading.current_thread()
        if isinstance(own, Worker) and not planning.pool.owed:
            own.passes_by = [passed_by]
            passed_by.queue.append(Call(gate.pass_through))
            with planning.pool.lock:
                planning._count_on(own)
                planning.pool.owed.append(other)

    leaving = Heard(lanes, leave_it)
    while not passed_by.running:
        sleep_all(lanes)
        leaving.tell()
        leaving.wait()
        time.sleep(0.01)
    was_heard = heard.wait(DEADLINE / 2)
    gate.open()
    other.close(timeout=DEADLINE)
    assert was_heard


class Lock:
    """A pool's lock; whoever has given it back may be made to wait for something else."""

    def __init__(self, lanes: Lanes, monkeypatch) -> None:
        self.lock = lanes.lanes[0].pool.lock
        self.then = lambda: None
        for owner, name in (
            (lanes.lanes[0].pool, "lock"),
            *((lane, "_lock") for lane in lanes.lanes),
        ):
            monkeypatch.setattr(owner, name, self)

    def __enter__(self):
        self.lock.acquire()

    def __exit__(self, *_):
        self.lock.release()
        self.then()

    def locked(self):
        return self.lock.locked()


def test_a_thread_that_is_lent_as_it_falls_asleep_sleeps_once(lanes, monkeypatch):
    heard = Heard(lanes)
    sleep_all(lanes)
    lock, pool = Lock(lanes, monkeypatch), lanes.lanes[0].pool

    def lend_it():
        if threading.current_thread() in pool.sleepers:
            lock.then = lambda: None
            teller = threading.Thread(target=heard.tell)
            teller.start()
            teller.join(DEADLINE)

    lock.then = lend_it
    call, gate = Call(), Gate()
    lanes.lanes[0].submit([call])
    assert call.done.wait(DEADLINE)
    heard.wait()
    wait_until(lambda: not any(lane.threads for lane in lanes.lanes))
    assert len(set(pool.sleepers)) == len(pool.sleepers)
    lanes.lanes[1].submit([Call(gate.pass_through) for _ in range(4)])
    wait_until(lambda: lanes.lanes[1].running == 4)
    gate.open()


def test_who_tells_an_actor_something_does_not_wait_for_the_pools_lock(lanes):
    """The collector, and signals, interrupt a thread that has it, and may have it tell something."""
    heard = Heard(lanes)
    sleep_all(lanes)
    teller = threading.Thread(target=heard.tell)
    with lanes.lanes[0].pool.lock:
        teller.start()
        assert not isinstance(heard.wait(), Worker)
    teller.join(DEADLINE)


@pytest.mark.crash_expected
def test_an_actor_is_run_although_the_thread_dies(lanes, monkeypatch):
    heard = Heard(lanes)
    sleep_all(lanes)
    dying = []

    def die(lane, worker):
        dying.append(worker)
        monkeypatch.undo()
        raise SystemExit

    monkeypatch.setattr(type(lanes.lanes[1]), "_pay", die)
    for _ in range(20):  # one that is busy elsewhere just then is not lent
        heard.tell()
        assert heard.wait() not in dying
        if dying:
            break
        sleep_all(lanes)
    assert dying
    sleep_all(lanes)
    heard.tell()
    heard.wait()


@pytest.mark.parametrize("seed", range(10))
def test_in_a_storm_nothing_is_lost_and_no_lane_has_more_than_its_workers(seed):
    limits = (1, 2, 5)
    lanes = Lanes(*limits)
    lanes.control.lent_by = lanes.lanes[seed % 3].lend
    storm = Storm(lanes, seed)
    tellers = [threading.Thread(target=tell_all_along, args=(storm,)) for _ in range(3)]
    for thread in tellers:
        thread.start()
    assert storm.is_over.wait(DEADLINE)
    for thread in tellers:
        thread.join(DEADLINE)
    lanes.close()
    assert set(storm.ran.values()) == {1}
    assert all(storm.most[lane] <= limit for lane, limit in enumerate(limits))


def tell_all_along(storm: Storm) -> None:
    """Tell the storm's actor, which hands on calls, as long as any are left, with pauses."""
    while storm.left:
        storm.told.tell(Call())
        time.sleep(storm.random.choice((0, 0.0005, 0.003)))
