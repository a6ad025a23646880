"""The pytest plugin's fixtures, as a program's own tests use them."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
from karbor_actors.testing import Action, Point, Rule

TYPE = "Test::Lamp"
PLAN = Plan("evening", "lamps", [Resource(TYPE, "a"), Resource(TYPE, "b")])


class Lamp(Operation):
    """A lamp is out while it is protected: a file that is there says so."""

    def __init__(self, directory):
        self.directory = directory

    def on_prepare_begin(self, checkpoint, resource, context, parameters, **kwargs):
        (self.directory / f"out-{resource.id}").touch()

    def on_prepare_finish(self, checkpoint, resource, context, parameters, **kwargs):
        (self.directory / f"out-{resource.id}").unlink(missing_ok=True)

    def on_main(self, checkpoint, resource, context, parameters, **kwargs):
        checkpoint.get_resource_bank_section(resource).update_object("watts", 40)

    def on_abort(self, checkpoint, resource, context, parameters, **kwargs):
        (self.directory / f"out-{resource.id}").unlink(missing_ok=True)


class Lamps(ProtectionPlugin):
    def __init__(self, directory):
        self.directory = directory

    def get_supported_resources_types(self):
        return (TYPE,)

    def get_protect_operation(self, resource):
        return Lamp(self.directory)


def live(process, is_first):
    process.add_provider("lamps", protection_plugins=[Lamps(process.directory)])
    if is_first:
        process.service.protect(PLAN)


def test_a_fault_plan_strikes_until_it_is_replaced(fault_plan, tmp_path):
    with ProtectionService(workers=2) as service:
        bank = Bank.open(tmp_path / "bank")
        service.add_provider(Provider("lamps", bank=bank, protection_plugins=[Lamps(tmp_path)]))
        plan = fault_plan(Rule("hook_after", "raise", where={"id": "b"}))
        handle = service.protect(PLAN)
        assert handle.wait(DEADLINE)
        fault_plan()
        again = service.protect(PLAN)
        assert again.wait(DEADLINE)

    assert [str(fired.rule.action) for fired in plan.fired] == ["raise"] * len(plan.fired) != []
    assert (handle.status, again.status) == (OperationStatus.FAILED, OperationStatus.SUCCEEDED)
    assert not list(tmp_path.glob("out-*"))


def test_no_fault_outlives_its_test():
    assert faultpoints.injector is None


def test_a_simulated_service_replays_by_its_seed(simulated_service, tmp_path):
    traces = []
    for seed in (3, 3, 4):
        process = simulated_service(seed=seed)
        live(process, True)
        process.run()
        (handle_status,) = {
            record.status for record in process.service.operation_history("lamps", limit=1)
        }
        assert handle_status is OperationStatus.SUCCEEDED
        traces.append([line for line in process.trace if "commit" not in line])

    assert traces[0] == traces[1]
    assert traces[0] != traces[2]


def test_an_hour_passes_at_once(simulated_service):
    process = simulated_service(rules=[Rule("hook_before", "slow", seconds=3000.0, times=1)])
    live(process, True)
    process.run(until=60.0)
    assert process.service.operations()
    process.run()

    assert process.now > 600
    assert not process.service.operations()
    assert [str(fired.rule.action) for fired in process.fired] == ["slow"]


def test_a_killed_process_is_followed_by_one_that_recovers(simulated_service, tmp_path):
    killed = simulated_service(rules=[Rule("hook_after", "kill", where={"id": "a"}, nth=1)])
    live(killed, True)
    killed.run()
    assert killed.is_dead
    assert (tmp_path / "out-a").exists()

    after = simulated_service()
    live(after, False)
    after.run()
    assert len(after.service.recovered) == 1
    assert not list(tmp_path.glob("out-*"))


def test_a_simulated_service_that_is_closed_while_it_works_leaves_nothing_out(
    simulated_service, tmp_path
):
    process = simulated_service()
    live(process, True)
    process.run(until=0.5)
    process.close()

    assert not list(tmp_path.glob("out-*"))


@pytest.mark.parametrize("point", [Point.HOOK_AFTER, Point.COMMIT_BEFORE, Point.PUT_AFTER])
def test_every_crash_is_recovered(crash_points, point):
    seen = set()
    for crash in crash_points(live, points=[point]):
        seen.add(crash.action)
        statuses = {r.status for r in crash.after.service.operation_history("lamps")}
        assert statuses <= {OperationStatus.SUCCEEDED, OperationStatus.FAILED}, str(crash)
        assert not list(crash.after.directory.glob("out-*")), str(crash)

    cut = {Action.POWER_CUT} if point is Point.COMMIT_BEFORE else set()
    assert seen == {Action.KILL} | cut


def test_crash_points_find_a_plugin_that_forgets_to_light_the_lamp(crash_points, monkeypatch):
    monkeypatch.setattr(Lamp, "on_abort", lambda *_, **__: None)
    out = [
        crash
        for crash in crash_points(live, points=[Point.HOOK_AFTER])
        if list(crash.after.directory.glob("out-*"))
    ]

    assert out


def test_pytest_does_not_load_the_engine_for_tests_that_want_none_of_it(tmp_path):
    (tmp_path / "test_other.py").write_text(
        "import sys\n"
        "def test_it():\n"
        "    assert 'karbor_actors_pytest' in sys.modules\n"
        "    assert 'karbor_actors' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )

    assert done.returncode == 0, done.stdout
