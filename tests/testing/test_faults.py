"""Fault plans against the real engine, its threads and its disk."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import DEADLINE
from karbor_actors import (
    Bank,
    Operation,
    OperationStatus,
    Plan,
    ProtectionPlugin,
    ProtectionService,
    Provider,
    Resource,
    faultpoints,
)
from karbor_actors.errors import FaultPlanError, OperationError
from karbor_actors.limits import TimeLimits
from karbor_actors.model import RetryPolicy
from karbor_actors.operations.limits import alarms
from karbor_actors.testing import (
    Action,
    FaultPlan,
    Point,
    Rule,
    install_faults_from_environment,
)
from karbor_actors.testing.fault_rules import ACTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

PATH = Path(__file__).parent
TYPE = "Test::Disk"
PLAN = Plan(name="p", provider="local", resources=[Resource(TYPE, name) for name in "abc"])


class Disk(Operation):
    """Freezes in its prepare hooks; what is frozen stands in a set that all share."""

    def __init__(self, frozen: set[str]) -> None:
        self.frozen = frozen

    def on_prepare_begin(self, checkpoint, resource, context, parameters, **kwargs):
        self.frozen.add(resource.id)

    def on_prepare_finish(self, checkpoint, resource, context, parameters, **kwargs):
        self.frozen.discard(resource.id)

    def on_main(self, checkpoint, resource, context, parameters, **kwargs):
        section = checkpoint.get_resource_bank_section(resource)
        section.update_object("size", 1)

    def on_abort(self, checkpoint, resource, context, parameters, **kwargs):
        self.frozen.discard(resource.id)


class Disks(ProtectionPlugin):
    """Protects disks."""

    def __init__(self) -> None:
        self.frozen: set[str] = set()

    def get_supported_resources_types(self):
        return (TYPE,)

    def get_protect_operation(self, resource):
        return Disk(self.frozen)


@pytest.fixture
def disks() -> Disks:
    return Disks()


@pytest.fixture
def service(tmp_path: Path, disks: Disks) -> Iterator[ProtectionService]:
    with ProtectionService(workers=4) as service:
        service.add_provider(
            Provider(
                "local",
                bank=Bank.open(tmp_path / "bank"),
                protection_plugins=[disks],
                retry={"*": RetryPolicy(attempts=1)},
            )
        )
        yield service


def protect(service: ProtectionService, *rules: Rule, seed: int = 0) -> tuple[str, FaultPlan]:
    """Protect with faults; return how it ended, and the plan."""
    with FaultPlan(rules, seed).installed() as plan:
        handle = service.protect(PLAN)
        assert handle.wait(DEADLINE)
    return str(handle.status), plan


@pytest.mark.parametrize("point", [Point.HOOK_BEFORE, Point.HOOK_AFTER])
@pytest.mark.parametrize("action", [Action.RAISE, Action.EXIT])
def test_a_hook_that_is_made_to_fail_ends_the_operation_and_nothing_stays_frozen(
    service, disks, point, action
):
    rule = Rule(point, action, where={"id": "b", "hook": "on_prepare_begin"})

    status, plan = protect(service, rule)

    assert status == OperationStatus.FAILED
    assert [dict(fired.facts)["id"] for fired in plan.fired] == ["b"]
    assert not disks.frozen


def test_a_rule_strikes_where_its_patterns_fit_and_nowhere_else(service):
    rule = Rule("hook_before", "raise", where={"hook": "on_main", "id": "[bc]"}, times=1)

    _, plan = protect(service, rule)

    assert len(plan.fired) == 1
    assert dict(plan.fired[0].facts)["id"] in {"b", "c"}


def test_the_nth_match_is_the_only_one_that_is_struck(service):
    _, plan = protect(service, Rule("hook_after", "slow", nth=4, seconds=0.0))

    assert len(plan.fired) == 1


def test_a_hook_that_hangs_is_given_up_and_its_resource_undone(tmp_path, disks):
    hang = Rule("hook_after", "hang", where={"hook": "on_prepare_begin", "id": "a"})
    limits = TimeLimits(prepare=0.2)
    bank = Bank.open(tmp_path / "bank")
    with ProtectionService(workers=4) as service:
        service.add_provider(
            Provider("local", bank=bank, protection_plugins=[disks], time_limits=limits)
        )
        status, plan = protect(service, hang)

    assert status == OperationStatus.FAILED
    assert plan.fired
    assert not disks.frozen


@pytest.mark.crash_expected
@pytest.mark.parametrize("actor", ["HookActor", "SupervisorActor"])
def test_an_actor_that_is_killed_fails_its_operation_only(service, disks, actor):
    killed = "RunHook" if actor == "HookActor" else "Flush"
    rule = Rule("message", "raise", where={"actor": actor, "message": killed}, times=1)

    status, _ = protect(service, rule)
    after, _ = protect(service)

    assert (status, after) == ("failed", "succeeded")
    assert not disks.frozen


def test_messages_that_come_twice_late_or_in_another_order_change_nothing(service, disks):
    rules = [
        Rule("message", "duplicate", probability=0.2),
        Rule("message", "delay", probability=0.2, seconds=0.01),
        Rule("message", "reorder", probability=0.2, seconds=0.01),
    ]

    status, plan = protect(service, *rules, seed=3)

    assert status == OperationStatus.SUCCEEDED
    assert {fired.rule.action for fired in plan.fired} == {"duplicate", "delay", "reorder"}
    assert not disks.frozen


@pytest.mark.parametrize("action", ["fail", "disk_full"])
def test_a_bank_that_cannot_write_once_fails_the_operation_and_keeps_its_word(
    service, disks, action
):
    status, plan = protect(service, Rule("commit_before", action, nth=3))

    assert status == OperationStatus.FAILED
    assert len(plan.fired) == 1
    assert not disks.frozen
    assert service.provider("local").bank.check(deep=True) == []


def test_a_full_map_grows_and_nobody_notices(service):
    size = service.provider("local").bank.info()["map_size"]

    status, _ = protect(service, Rule("commit_before", "map_full", nth=3))

    assert status == OperationStatus.SUCCEEDED
    assert service.provider("local").bank.info()["map_size"] == 2 * size


@pytest.mark.parametrize("action", ["fail", "disk_full"])
def test_an_object_store_that_fails_leaves_no_checkpoint_that_looks_good(service, action):
    with FaultPlan([Rule("put_before", action)]).installed():
        handle = service.protect(PLAN)
        with pytest.raises(OperationError):
            handle.result(DEADLINE)

    bank = service.provider("local").bank
    assert [str(checkpoint.status) for checkpoint in bank.checkpoints()] == ["error"]


LETHAL = {Action.KILL, Action.POWER_CUT}
PLACES = [(point, action) for point in Point for action in sorted(ACTIONS[point])]


def rule_of(point: Point, action: Action) -> Rule:
    """Return a rule that strikes once in a protect of PLAN."""
    where = {"hook": "on_prepare_begin", "id": "a"} if str(point).startswith("hook") else {}
    if point is Point.MESSAGE:
        where = {"actor": "HookActor", "message": "RunHook"}
    return Rule(point, action, where=where, times=1, seconds=0.01)


@pytest.mark.crash_expected
@pytest.mark.parametrize(("point", "action"), [place for place in PLACES if place[1] not in LETHAL])
def test_every_fault_at_every_point_strikes_and_the_operation_ends_with_nothing_frozen(
    tmp_path, disks, monkeypatch, point, action
):
    monkeypatch.setattr(alarms, "LOOK_EVERY", 0.2)  # how a lost message is noticed
    with ProtectionService(workers=4) as service:
        bank = Bank.open(tmp_path / "bank")
        limits = TimeLimits(prepare=0.5)  # how one that hangs is
        service.add_provider(
            Provider("local", bank=bank, protection_plugins=[disks], time_limits=limits)
        )
        status, plan = protect(service, rule_of(point, action))

        assert [(fired.rule.point, fired.rule.action) for fired in plan.fired] == [(point, action)]
        assert status in ("succeeded", "failed")
        assert service.wait(DEADLINE)
        assert not disks.frozen
        assert bank.check(deep=True) == []
        assert protect(service)[0] == "succeeded"


@given(st.integers(0, 2**32), st.permutations(list("abcdef")))
def test_what_is_struck_depends_on_the_seed_and_not_on_who_comes_first(seed, order):
    def struck(names: list[str]) -> set[str]:
        plan = FaultPlan([Rule("hook_before", "raise", probability=0.5)], seed)
        facts = {"operation": "protect", "type": TYPE, "hook": "on_main", "attempt": "1"}
        return {name for name in names if plan.draw(Point.HOOK_BEFORE, {**facts, "id": name})}

    assert struck(order) == struck(sorted(order))


def test_one_plan_at_a_time():
    with (
        FaultPlan().installed(),
        pytest.raises(RuntimeError, match="already"),
        FaultPlan().installed(),
    ):
        pass

    assert faultpoints.injector is None


@given(st.sampled_from(sorted(ACTIONS)), st.data())
def test_a_rule_survives_the_way_through_plain_data(point, data):
    rule = Rule(
        point,
        data.draw(st.sampled_from(sorted(ACTIONS[point]))),
        probability=data.draw(st.floats(0, 1)),
        nth=data.draw(st.none() | st.integers(1)),
        seconds=data.draw(st.floats(0, 100)),
    )

    assert Rule.from_dict(rule.to_dict()) == rule


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"seed": "x"}',
        '{"rules": [1]}',
        '{"rules": [{"point": "hook_before"}]}',
        '{"rules": [{"point": "nowhere", "action": "raise"}]}',
        '{"rules": [{"point": "hook_before", "action": "lose"}]}',
        '{"rules": [{"point": "hook_before", "action": "raise", "where": {"actor": "x"}}]}',
        '{"rules": [{"point": "hook_before", "action": "raise", "probability": 2}]}',
        '{"rules": [{"point": "hook_before", "action": "raise", "nth": 0}]}',
        '{"rules": [{"point": "hook_before", "action": "raise", "more": 0}]}',
    ],
)
def test_a_plan_that_cannot_be_is_refused(text):
    with pytest.raises(FaultPlanError):
        FaultPlan.from_json(text)


DAEMON = """
import sys
sys.path[:0] = {path!r}
from test_faults import PLAN, Disks
from karbor_actors import Bank, ProtectionService, Provider, TimeLimits
from karbor_actors.operations.limits import alarms
from karbor_actors.testing import install_faults_from_environment
alarms.LOOK_EVERY = 0.2
plan = install_faults_from_environment()
with ProtectionService(workers=2) as service:
    bank = Bank.open(sys.argv[1])
    limits = TimeLimits(prepare=0.5)
    disks = [Disks()]
    service.add_provider(
        Provider("local", bank=bank, protection_plugins=disks, time_limits=limits)
    )
    print([str(handle.status) for handle in service.recovered if handle.wait(30)])
    for _ in range(int(sys.argv[2])):
        service.protect(PLAN).wait(30)
    if plan is not None:
        print("struck:", *("-".join((f.rule.point, f.rule.action)) for f in plan.fired))
"""


def run_daemon(directory: Path, faults: str, protects: int = 1) -> subprocess.CompletedProcess[str]:
    """Run a process that protects, under *faults*."""
    here = [path for path in sys.path if path]
    return subprocess.run(
        [
            sys.executable,
            "-c",
            DAEMON.format(path=[str(PATH), *here]),
            str(directory),
            str(protects),
        ],
        env={"KARBOR_ACTORS_FAULTS": faults},
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )


def test_a_daemon_under_test_is_killed_where_its_environment_says(tmp_path):
    kill = '{"rules": [{"point": "commit_after", "action": "kill", "nth": 8}]}'
    (tmp_path / "faults.json").write_text(kill)

    killed = run_daemon(tmp_path / "bank", str(tmp_path / "faults.json"))
    after = run_daemon(tmp_path / "bank", "")

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert after.returncode == 0, after.stderr
    assert after.stdout.strip() in ("['failed']", "['succeeded']")


@pytest.mark.parametrize(("point", "action"), [p for p in PLACES if p[1] in LETHAL])
def test_a_daemon_under_test_is_killed_at_every_point_and_the_next_one_recovers(
    tmp_path, point, action
):
    faults = json.dumps({"rules": [rule_of(point, action).to_dict()]})

    killed = run_daemon(tmp_path / "bank", faults)
    after = run_daemon(tmp_path / "bank", "")

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert after.returncode == 0, after.stderr
    assert after.stdout.strip() in ("['failed']", "['succeeded']", "[]")
    with Bank.open(tmp_path / "bank", readonly=True) as bank:
        assert bank.check(deep=True) == []


def test_every_fault_that_does_not_kill_strikes_in_a_daemon_whose_environment_says_so(tmp_path):
    rules = [rule_of(*place).to_dict() for place in PLACES if place[1] not in LETHAL]
    for number, rule in enumerate(rules):
        if rule["point"].startswith("commit"):
            rule["nth"] = 30 + 10 * number  # not while the bank is opened
    (tmp_path / "faults.json").write_text(json.dumps({"rules": rules}))

    # More than enough for the last rule's commit: what is under way at once shares commits.
    done = run_daemon(tmp_path / "bank", str(tmp_path / "faults.json"), protects=2 * len(rules))

    assert done.returncode == 0, done.stderr
    struck = set(done.stdout.split("struck: ")[1].split())
    assert struck == {f"{rule['point']}-{rule['action']}" for rule in rules}
    with Bank.open(tmp_path / "bank", readonly=True) as bank:
        assert bank.check(deep=True) == []


def test_nothing_is_installed_where_the_environment_says_nothing(monkeypatch):
    monkeypatch.delenv("KARBOR_ACTORS_FAULTS", raising=False)

    assert install_faults_from_environment() is None
    assert faultpoints.injector is None


def test_a_file_that_is_not_there_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("KARBOR_ACTORS_FAULTS", str(tmp_path / "none"))

    with pytest.raises(FaultPlanError):
        install_faults_from_environment()
