"""Whatever a plugin raises, and whatever that does when it is looked at: the operation ends."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from helpers import DEADLINE
from karbor_actors import (
    Bank,
    CheckpointStatus,
    OperationError,
    OperationStatus,
    ProtectionService,
)
from karbor_actors.bank.database.records import MAX_RECORD_SIZE
from karbor_actors.errors import BankError, HookFailedError, ListingError, ResourceMissingError
from karbor_actors.operations.outcome import Outcome, error_list
from kit import RecordingProtection, failing, plan, provider

LONG, MUCH = MAX_RECORD_SIZE + 1, 1 << 20


class SaysNothingError(Exception):
    """Raises what its class is told to, whatever it is asked."""

    raises: type[BaseException]

    def __str__(self):
        raise self.raises("in __str__")

    __repr__ = __str__
    __eq__ = __hash__ = __bool__ = __len__ = __str__


class SaysSomethingElseError(Exception):
    def __str__(self):
        return 5  # noqa: PLE0307 - that is what is wrong with it


class Text(str):
    """Text that can be nothing but raised."""

    __slots__ = ()

    def split(self, *_):
        raise KeyboardInterrupt

    __len__ = __iter__ = __getitem__ = encode = isascii = split


class SaysOddTextError(Exception):
    def __str__(self):
        return Text("odd")


class HasNoClassError(Exception):
    @property
    def __class__(self):
        raise KeyboardInterrupt("in __class__")


class HasNoNotesError(Exception):
    @property
    def __notes__(self):
        raise SystemExit("in __notes__")


def raising(error, *hooks):
    """Return a behaviour that raises *error* in *hooks* of the resource ``bad``."""

    def behave(verb, hook, resource, call):
        if verb == "protect" and hook in hooks and resource.id == "bad":
            raise error

    return behave


def silent(base):
    return type(f"Silent{base.__name__}", (SaysNothingError,), {"raises": base})()


def in_a_circle():
    error = ValueError("round and round")
    error.__context__ = RuntimeError("and round")
    error.__context__.__context__ = error
    return error


HOSTILE = {
    "long": lambda: ValueError("x" * MUCH),
    "long and wide": lambda: ValueError("\N{GRINNING FACE}" * MUCH),
    "long name": type("E" * MUCH, (Exception,), {}),
    "surrogates": lambda: ValueError("\ud800\udcff\x00\x1b[31m\n" * 10_000),
    "keyboard": lambda: silent(KeyboardInterrupt),
    "exit": lambda: silent(SystemExit),
    "memory": lambda: silent(MemoryError),
    "recursion": lambda: silent(RecursionError),
    "no text": SaysSomethingElseError,
    "odd text": SaysOddTextError,
    "no class": HasNoClassError,
    "no notes": HasNoNotesError,
    "group": lambda: ExceptionGroup("of", [silent(SystemExit), ValueError("x" * MUCH)]),
    "circle": in_a_circle,
    "itself": lambda: KeyboardInterrupt("x" * MUCH),
}


def assert_ended(bank_path, *, handle):
    """Assert that who opens the bank anew finds the operation ended, and its error, and can delete."""
    with Bank.open(bank_path, readonly=True) as bank:
        record = bank.journal.get(handle.id)
        (checkpoint,) = bank.checkpoints()
        kept = checkpoint.error_info

        assert record.status is OperationStatus.FAILED
        assert checkpoint.status is CheckpointStatus.ERROR
        assert kept == record.error_info
        assert kept
        for info in kept:
            info["message"].encode("utf-8")
            assert len(info["message"]) < 10_000
            assert len(info.get("traceback", "")) < 20_000
    return kept


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("kind", HOSTILE)
def test_an_operation_ends_and_others_go_on_whatever_a_hook_raises(
    kind, is_async, tmp_path, journal
):
    behave = raising(HOSTILE[kind](), "on_main", *(["on_abort"] if kind == "keyboard" else ()))
    with ProtectionService(workers=1) as service:
        plugin = RecordingProtection(journal, behave, is_async=is_async)
        service.add_provider(provider(tmp_path / "bank", plugin))
        handle = service.protect(plan("bad"))
        with pytest.raises(OperationError) as caught:
            handle.result(DEADLINE)

        assert len(str(caught.value)) < 100_000
        assert_ended(tmp_path / "bank", handle=handle)
        failed = service.provider("local").bank.checkpoints()[0]
        good = service.protect(plan("good")).result(DEADLINE)

        assert good.status is CheckpointStatus.AVAILABLE
        service.delete(failed.id, force=True).result(DEADLINE)


def failed_future():
    future = Future()
    future.set_exception(ValueError("in the future"))
    return future


async def nothing(value=None):
    return value


REFUSED = {
    "pending future": Future,
    "failed future": failed_future,
    "generator": lambda: (step for step in ()),
    "future awaited": lambda: nothing(Future()),
    "coroutine awaited": lambda: nothing(nothing()),
}
"""What a hook may return that nobody waits for."""


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("what", REFUSED)
def test_a_hook_that_returns_what_nobody_waits_for_has_failed(
    service, tmp_path, journal, what, is_async
):
    def behave(verb, hook, resource, call):
        return REFUSED[what]() if hook == "on_main" else None

    plugin = RecordingProtection(journal, behave, is_async=is_async)
    service.add_provider(provider(tmp_path / "bank", plugin))

    with pytest.raises(OperationError, match=r"it returned (a|something)"):
        service.protect(plan("server")).result(DEADLINE)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("value", [5, "done", [], b""])
def test_what_else_a_hook_returns_is_nobodys_business(service, tmp_path, journal, value, is_async):
    plugin = RecordingProtection(journal, lambda *_: value, is_async=is_async)
    service.add_provider(provider(tmp_path / "bank", plugin))

    assert service.protect(plan("server")).result(DEADLINE).status is CheckpointStatus.AVAILABLE


def test_of_many_failures_the_first_are_recorded_and_how_many_more_there_are(tmp_path, journal):
    names = [str(number) for number in range(150)]
    text = "x" * 100_000

    def behave(verb, hook, resource, call):
        if hook in ("on_main", "on_abort"):
            raise ValueError(text)

    with ProtectionService() as service:
        service.add_provider(provider(tmp_path / "bank", RecordingProtection(journal, behave)))
        handle = service.protect(plan(*names), on_failure="isolate")
        with pytest.raises(OperationError):
            handle.result(DEADLINE)

        kept = assert_ended(tmp_path / "bank", handle=handle)

    more = [info["message"] for info in kept if not info["type"]]
    said = [sum("on_abort" in info["message"] for info in kept)]
    said.insert(0, len(kept) - len(more) - said[0])
    assert more == [f"and {150 - count} more" for count in said]
    assert min(said) > 10


def test_one_whose_end_fitted_no_record_of_an_older_release_ends_at_the_next_start(
    tmp_path, journal, monkeypatch
):
    behave = failing(("on_main", "bad"))
    with ProtectionService() as service, monkeypatch.context() as older:
        older.setattr(Outcome, "error_info", lambda _: [{"message": "x" * LONG}])
        service.add_provider(provider(tmp_path / "bank", RecordingProtection(journal, behave)))
        handle = service.protect(plan("bad"))
        with pytest.raises(OperationError) as caught:
            handle.result(DEADLINE)
        bank = service.provider("local").bank

        assert any(isinstance(cause, BankError) for cause in caught.value.causes)
        assert not bank.journal.get(handle.id).status.is_terminal

    with ProtectionService() as service:
        service.add_provider(provider(tmp_path / "bank", RecordingProtection(journal, behave)))
        (recovered,) = service.recovered
        assert recovered.wait(DEADLINE)

        assert_ended(tmp_path / "bank", handle=handle)


def test_what_no_record_has_room_for_leaves_its_sentence():
    """A resource's id may be longer than any record."""
    (info,) = error_list([HookFailedError(("T", "i" * LONG), "on_main", 1, "no route")])

    assert info["type"] == "HookFailedError"
    assert info["message"].startswith("on_main of T#iii")
    assert info["message"].endswith("failed: no route")
    assert len(info["message"]) < 10_000


def test_an_error_of_this_library_that_a_plugin_made_of_anything_is_recorded():
    made = [HookFailedError(5, object(), None, 3), ListingError(5, 6, 7), ResourceMissingError([5])]

    assert [info["type"] for info in error_list(made)] == [type(error).__name__ for error in made]
