"""Bank sections: objects and streams by key; read-only ones; a dict as their model."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import shutil
import tempfile

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from banks import SERVER, VOLUME, make_graph
from karbor_actors.bank.bank import Bank
from karbor_actors.bank.database.transactions import Table
from karbor_actors.errors import (
    ArgumentError,
    BankClosedError,
    BankFormatError,
    BankKeyError,
    BankReadonlyError,
    BankValueError,
    CheckpointNotFoundError,
    CheckpointStateError,
    FencedError,
    ObjectNotFoundError,
    RecordTooLargeError,
)

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=10)
    | st.binary(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


# What may be written, and where to


def writes(section, stream, other):
    """Return by name what writes to *section*."""
    return {
        "an object": lambda: section.update_object("late", 1),
        "objects": lambda: section.update_objects({"late": 1}),
        "a removed object": lambda: section.delete_object("key"),
        "a stream": lambda: section.write_stream("late", io.BytesIO(b"x")),
        "a reused stream": lambda: section.reuse_stream(stream, "late"),
        "a removed stream": lambda: section.delete_stream("disk"),
        "a sub-section": lambda: section.get_sub_section("below").update_object("late", 1),
        "a copy": lambda: other.copy_to(section),
    }


@pytest.mark.parametrize("status", ["available", "partial"])
@pytest.mark.parametrize("plan", [{"name": "nightly"}, {"name": "x" * 5000}])
def test_what_is_finished_is_written_no_more(bank, graph, status, plan):
    checkpoint = bank.create_checkpoint(plan, "local", graph)
    section = checkpoint.get_resource_bank_section(SERVER)
    other = bank.create_checkpoint(plan, "local", graph).get_resource_bank_section(SERVER)
    for one in (section, other):
        one.update_object("key", 1)
        stream = one.write_stream("disk", io.BytesIO(b"data"))
    checkpoint.finish(status)

    for write in writes(section, stream, other).values():
        with pytest.raises(CheckpointStateError, match="written no more"):
            write()
    assert section.list_objects() == ["key"]
    assert [info.key for info in section.list_streams()] == ["disk"]
    other.update_object("another", 1)  # it is not finished
    other.delete_object("another")
    assert bank.check(deep=True) == []


def test_a_session_that_was_open_when_its_checkpoint_was_finished_shows_nothing(checkpoint, bank):
    section = checkpoint.get_resource_bank_section(SERVER)

    def finish_meanwhile():
        with section.stream_writer() as writer:
            writer.add("late", io.BytesIO(b"x"))
            checkpoint.finish("available")

    with pytest.raises(CheckpointStateError, match="written no more"):
        finish_meanwhile()
    assert section.list_streams() == []
    assert bank.check(deep=True) == []


def test_a_section_is_not_copied_into_itself_nor_over_what_it_is_in(section, bank, graph):
    section.update_objects({f"k{number:05}": 1 for number in range(1500)})
    section.write_stream("disk", io.BytesIO(b"data"))
    below = section.get_sub_section("below")
    deeper = below.get_sub_section("deeper")
    for one, other in ((section, section), (section, below), (section, deeper), (deeper, below)):
        for source, target in ((one, other), (other, one)):
            with pytest.raises(ArgumentError, match="a section neither in"):
                source.copy_to(target)
    assert len(section.list_objects()) == 1500

    beside = section.get_sub_section("belo")
    below.update_object("key", 1)
    below.copy_to(beside)
    assert beside.list_objects() == ["key"]
    section.copy_to(bank.create_checkpoint({}, "local", graph).get_resource_bank_section(SERVER))


# Objects


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        "123",
        123,
        -(2**63),
        1.5,
        "",
        b"",
        os.urandom(1000),
        "na\udcefve",
        [1, [2, {"a": None}]],
        {"status": "available", "é": [b"\xff"]},
    ],
)
def test_an_object_comes_back_as_it_was_and_with_its_type(section, value):
    section.update_object("key", value)

    assert section.get_object("key") == value
    assert type(section.get_object("key")) is type(value)


def test_a_tuple_comes_back_as_a_list(section):
    section.update_object("key", (1, (2,)))

    assert section.get_object("key") == [1, [2]]


def test_an_update_replaces_what_was_there(section):
    section.update_object("key", {"a": 1})
    section.update_object("key", "b")

    assert section.get_object("key") == "b"
    assert section.list_objects() == ["key"]


def test_changing_what_was_read_changes_nothing_in_the_bank(section):
    section.update_object("key", {"a": []})
    section.get_object("key")["a"].append(1)

    assert section.get_object("key") == {"a": []}


def test_a_deleted_object_is_gone(section):
    section.update_object("key", 1)
    section.delete_object("key")

    assert section.list_objects() == []
    with pytest.raises(ObjectNotFoundError, match="key"):
        section.get_object("key")
    with pytest.raises(LookupError):
        section.delete_object("key")


def test_several_objects_are_set_at_once_or_not_at_all(section):
    with pytest.raises(BankValueError):
        section.update_objects({"a": 1, "b": object()})
    assert section.list_objects() == []

    section.update_objects({"b": 2, "a": 1})
    assert section.list_objects() == ["a", "b"]


@pytest.mark.parametrize("value", [object(), {1: 2}, {"a": {3}}, 2**64, "\ud800"])
def test_a_value_that_is_not_plain_is_refused_by_key_and_type(section, value):
    with pytest.raises(BankValueError, match="'my key'"):
        section.update_object("my key", value)


def test_the_error_for_a_value_says_where_in_it(section):
    with pytest.raises(BankValueError, match=r"volumes\[1\].*type set"):
        section.update_object("key", {"volumes": [1, set()]})


def test_a_value_that_is_too_large_is_refused_and_told_where_it_belongs(section):
    with pytest.raises(RecordTooLargeError, match="write_stream"):
        section.update_object("disk", bytes(17 << 20))
    section.update_object("disk", bytes(16 << 20)[:-5])


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", ".", "a/../b", "a\0", "\ud800", None, 5])
def test_a_key_that_is_none_is_refused_everywhere(section, key):
    for call in (
        lambda: section.update_object(key, 1),
        lambda: section.get_object(key),
        lambda: section.delete_object(key),
        lambda: section.get_sub_section(key),
        lambda: section.write_stream(key, io.BytesIO(b"")),
        lambda: section.open_stream(key),
        lambda: section.delete_stream(key),
    ):
        with pytest.raises(BankKeyError):
            call()


@pytest.mark.parametrize(
    "key", ["a b", "A@b-c_d.e", "caf\u00e9", "\udcff\udcfe", "a\nb", "x" * 3000]
)
def test_nearly_any_file_name_is_a_key(section, key):
    section.update_object(key, 1)
    section.write_stream(key, io.BytesIO(b"1"))

    assert section.list_objects() == [key]
    assert [info.key for info in section.list_streams()] == [key]
    assert section.get_object(key) == 1


# Listing


@pytest.fixture
def full(section):
    section.update_objects(
        dict.fromkeys(["a", "a/b", "a/b/c", "ab", "b", "x" * 500, "x" * 500 + "y"], 0)
    )
    return section


def test_listing_is_sorted_and_goes_into_sub_sections(full):
    assert full.list_objects() == ["a", "a/b", "a/b/c", "ab", "b", "x" * 500, "x" * 500 + "y"]


def test_a_prefix_need_not_be_whole_parts(full):
    assert full.list_objects("a") == ["a", "a/b", "a/b/c", "ab"]
    assert full.list_objects("a/") == ["a/b", "a/b/c"]
    assert full.list_objects("x" * 499) == ["x" * 500, "x" * 500 + "y"]
    assert full.list_objects("x" * 500 + "y") == ["x" * 500 + "y"]
    assert full.list_objects("nothing") == []


def test_a_listing_goes_on_after_a_marker(full):
    everything, found = full.list_objects(), []
    while page := full.list_objects(limit=2, marker=found[-1] if found else None):
        assert len(page) <= 2
        found += page

    assert found == everything
    assert full.list_objects(limit=0) == []
    with pytest.raises(ArgumentError, match="limit"):
        full.list_objects(limit=-1)


def test_a_page_of_a_prefix_goes_on_after_a_marker_in_sub_sections_too(full):
    """Karbor's markers are relative to the prefix; these are keys, as the listing returns them."""
    sub = full.get_sub_section("s")
    sub.update_objects(dict.fromkeys(["one/A", "two/B", "two/C", "two/D", "two"], 0))

    assert sub.list_objects("two/", marker="two/B") == ["two/C", "two/D"]
    assert sub.list_objects("two/", marker="two/B", limit=1) == ["two/C"]
    assert sub.list_objects("two", limit=2) == ["two", "two/B"]
    assert sub.list_objects("two/", marker="two/D") == []
    assert full.list_objects("s/one", marker="s/one") == ["s/one/A"]


def test_no_prefix_lists_everything(full):
    assert full.list_objects(None) == full.list_objects("") == full.list_objects()
    assert full.list_streams(None) == full.list_streams() == []


@pytest.mark.parametrize("prefix", ["/", "///", "/a", "a//", "../", "a/./b", "a\0", "\ud800", 5])
def test_a_prefix_that_no_key_can_begin_with_is_refused_and_lists_not_nothing(full, prefix):
    for listing in (full.list_objects, full.list_streams):
        with pytest.raises(BankKeyError):
            listing(prefix)


def test_a_marker_that_is_no_key_is_refused(full):
    with pytest.raises(BankKeyError, match="marker"):
        full.list_objects(marker=5)


# Sub-sections, read-only sections, other sections


def test_keys_of_a_sub_section_are_relative_to_it(full):
    sub = full.get_sub_section("a")

    assert sub.list_objects() == ["b", "b/c"]
    assert sub.get_sub_section("b").list_objects() == ["c"]
    assert full.get_sub_section("a/b").list_objects() == ["c"]
    sub.update_object("new", 1)
    assert full.get_object("a/new") == 1


def test_a_sub_section_cannot_reach_out_of_itself(full):
    sub = full.get_sub_section("a")

    for key in ("../b", "b/../../b", "/b", ".."):
        with pytest.raises(BankKeyError):
            sub.get_object(key)


def test_a_read_only_section_refuses_every_write(bank, checkpoint, section):
    section.update_object("a", 1)
    stream = section.write_stream("s", io.BytesIO(b"data"))
    readonly = bank.checkpoint(checkpoint.id).get_resource_bank_section(SERVER)

    assert not readonly.is_writable
    for call in (
        lambda: readonly.update_object("b", 1),
        lambda: readonly.update_objects({}),
        lambda: readonly.delete_object("a"),
        lambda: readonly.write_stream("t", io.BytesIO(b"")),
        readonly.stream_writer,
        lambda: readonly.delete_stream("s"),
        lambda: readonly.reuse_stream(stream),
        lambda: section.copy_to(readonly),
        lambda: readonly.get_sub_section("a"),
    ):
        with pytest.raises(BankReadonlyError):
            call()
    assert readonly.get_object("a") == 1
    assert readonly.open_stream("s").read() == b"data"


def test_sub_sections_of_a_read_only_section_are_read_only(section):
    section.update_object("a/b/c", 1)
    readonly = section.get_sub_section("a", is_writable=False)

    assert not readonly.is_writable
    with pytest.raises(BankReadonlyError):
        readonly.get_sub_section("b", is_writable=True)
    deeper = readonly.get_sub_section("b", is_writable=False)
    assert deeper.get_object("c") == 1
    with pytest.raises(BankReadonlyError):
        deeper.update_object("c", 2)


def test_sections_of_other_resources_and_checkpoints_are_apart(bank, checkpoint, section, graph):
    other = bank.create_checkpoint({"name": "nightly"}, "local", graph)
    places = [
        section,
        checkpoint.get_resource_bank_section(VOLUME),
        other.get_resource_bank_section(SERVER),
    ]
    for number, place in enumerate(places):
        place.update_object("key", number)
        place.write_stream("key", io.BytesIO(b"%d" % number))

    assert [place.get_object("key") for place in places] == [0, 1, 2]
    assert [place.open_stream("key").read() for place in places] == [b"0", b"1", b"2"]


def test_a_hook_that_was_given_up_can_write_nothing_more(checkpoint):
    given_up = []

    class Guard:
        def check(self):
            if given_up:
                raise FencedError

    section = checkpoint.view(is_writable=True, guard=Guard()).get_resource_bank_section(SERVER)
    section.update_object("a", 1)
    writer = section.stream_writer()
    writer.__enter__()
    writer.add("late", io.BytesIO(b"late"))
    given_up.append(True)
    with pytest.raises(FencedError):
        writer.__exit__(None, None, None)

    for call in (
        lambda: section.update_object("b", 1),
        lambda: section.delete_object("a"),
        lambda: section.get_sub_section("c").update_object("d", 1),
        lambda: section.write_stream("e", io.BytesIO(b"")),
    ):
        with pytest.raises(FencedError):
            call()
    assert section.list_objects() == ["a"]
    assert section.list_streams() == []


def test_nothing_is_written_for_a_checkpoint_that_was_deleted(bank, checkpoint, section):
    bank.checkpoint(checkpoint.id).finish("available")
    deleting = bank.checkpoint(checkpoint.id)
    deleting.begin_delete()
    deleting.purge()

    with pytest.raises(CheckpointNotFoundError):
        section.update_object("a", 1)
    with pytest.raises(CheckpointNotFoundError):
        section.write_stream("s", io.BytesIO(b"data"))
    assert bank.info()["rows"]["objects"] == 0
    assert bank.check() == []


def test_a_section_of_a_closed_bank_says_so(tmp_path, graph):
    with Bank.open(tmp_path / "other") as bank:
        section = bank.create_checkpoint({}, "local", graph).get_resource_bank_section(SERVER)

    with pytest.raises(BankClosedError):
        section.update_object("a", 1)
    with pytest.raises(BankClosedError):
        section.get_object("a")


def test_the_twins_for_the_event_loop_do_the_same(section):
    async def work():
        await section.aupdate_object("a", 1)
        await section.aupdate_object("b", 2)
        await section.adelete_object("b")
        await section.awrite_stream("s", io.BytesIO(b"data"))
        return await section.aget_object("a"), await section.alist_objects()

    assert asyncio.run(work()) == (1, ["a"])
    assert section.open_stream("s").read() == b"data"


# Streams and copies


def test_streams_and_objects_have_keys_of_their_own(section):
    section.update_object("disk", {"size": 4})
    section.get_sub_section("sub").write_stream("disk", io.BytesIO(b"sub"))
    info = section.write_stream("disk", io.BytesIO(b"data"))

    assert (info.key, info.size) == ("disk", 4)
    assert section.get_object("disk") == {"size": 4}
    assert [info.key for info in section.list_streams()] == ["disk", "sub/disk"]
    assert [info.key for info in section.get_sub_section("sub").list_streams()] == ["disk"]
    section.delete_stream("disk")
    with pytest.raises(ObjectNotFoundError):
        section.open_stream("disk")


def test_a_stream_can_be_patched_and_reused(section):
    base = section.write_stream("base", io.BytesIO(b"0123456789"))
    section.write_stream("patched", [(2, b"ab")], base=base, size=12)
    section.reuse_stream(section.open_stream("patched"), "again")

    assert section.open_stream("again").read() == b"01ab456789\0\0"


def test_a_copy_in_another_bank_holds_all_of_a_section(section, tmp_path, graph):
    section.update_objects({f"objects/{number}": {"n": number} for number in range(2500)})
    section.update_object("x" * 1000, "long")
    section.update_object("large", bytes(3 << 20))
    section.write_stream("streams/disk", io.BytesIO(b"data" * 1000))
    with Bank.open(tmp_path / "offsite") as offsite:
        other = offsite.create_checkpoint({}, "local", graph).get_resource_bank_section(VOLUME)
        section.copy_to(other)

        assert other.list_objects() == section.list_objects()
        assert other.get_object("x" * 1000) == "long"
        assert other.get_object("large") == bytes(3 << 20)
        assert other.open_stream("streams/disk").read() == b"data" * 1000
        assert offsite.check(deep=True) == []


def test_a_sub_section_can_be_copied_below_another(section):
    section.update_object("from/a", 1)
    section.update_object("from/" + "y" * 600, 2)
    section.get_sub_section("from").copy_to(section.get_sub_section("to"))

    assert section.list_objects("to/") == ["to/a", "to/" + "y" * 600]


def test_a_damaged_object_is_an_error_of_the_bank(bank, section):
    section.update_object("key", "value")
    bank.writer.write(_damage)

    with pytest.raises(BankFormatError, match="'key'"):
        section.get_object("key")
    assert any("key" in finding for finding in bank.check())


def _damage(transaction):
    for key, _ in list(transaction.scan(Table.OBJECTS)):
        transaction.put(Table.OBJECTS, key, b"\xc1")


# A dict as the model


KEYS = st.sampled_from(["a", "a/b", "a/b/c", "ab", "x" * 455 + "/y", "z" * 700, "\udcff", "é"])


class SectionMachine(RuleBasedStateMachine):
    """Whatever is done to a section, in whatever order, it holds what a dict would hold."""

    sections = Bundle("sections")

    def __init__(self):
        super().__init__()
        self.folder = tempfile.mkdtemp()
        self.bank = Bank.open(self.folder)
        checkpoint = self.bank.create_checkpoint({"name": "p"}, "local", make_graph())
        self.id = checkpoint.id
        self.objects = {}
        self.streams = {}

    def section(self, path):
        checkpoint = self.bank.checkpoint(self.id).view(is_writable=True)
        section = checkpoint.get_resource_bank_section(SERVER)
        for part in path:
            section = section.get_sub_section(part)
        return section, "".join(f"{part}/" for part in path)

    @rule(target=sections, path=st.sampled_from([(), ("a",), ("a", "b"), ("q",)]))
    def choose(self, path):
        return path

    @rule(path=sections, key=KEYS, value=VALUES)
    def update(self, path, key, value):
        section, prefix = self.section(path)
        section.update_object(key, value)
        self.objects[prefix + key] = value

    @rule(path=sections, key=KEYS)
    def delete(self, path, key):
        section, prefix = self.section(path)
        expected = contextlib.nullcontext()
        if self.objects.pop(prefix + key, expected) is expected:
            expected = pytest.raises(ObjectNotFoundError)
        with expected:
            section.delete_object(key)

    @rule(path=sections, key=KEYS)
    def read(self, path, key):
        section, prefix = self.section(path)
        if prefix + key in self.objects:
            assert section.get_object(key) == self.objects[prefix + key]
        else:
            with pytest.raises(ObjectNotFoundError):
                section.get_object(key)

    @rule(path=consumes(sections), prefix=st.sampled_from(["", "a", "a/", "ab", "z" * 450]))
    def list_below(self, path, prefix):
        section, start = self.section(path)
        for listed, model in (
            (section.list_objects(prefix), self.objects),
            ([info.key for info in section.list_streams(prefix)], self.streams),
        ):
            assert listed == sorted(
                key[len(start) :] for key in model if key.startswith(start + prefix)
            )

    @rule(path=sections, key=KEYS, data=st.binary(max_size=40))
    def write_stream(self, path, key, data):
        section, prefix = self.section(path)
        section.write_stream(key, io.BytesIO(data))
        self.streams[prefix + key] = data

    @rule(path=sections, key=KEYS)
    def read_stream(self, path, key):
        section, prefix = self.section(path)
        if prefix + key in self.streams:
            assert section.open_stream(key).read() == self.streams[prefix + key]
        else:
            with pytest.raises(ObjectNotFoundError):
                section.open_stream(key)

    @rule(is_compacted=st.booleans())
    def open_again(self, is_compacted):
        if is_compacted:
            self.bank.compact()
        self.bank.close()
        self.bank = Bank.open(self.folder)

    @invariant()
    def is_sound(self):
        assert self.bank.check() == []

    def teardown(self):
        self.bank.close()
        shutil.rmtree(self.folder)


TestSectionMachine = SectionMachine.TestCase
TestSectionMachine.settings = settings(max_examples=15, stateful_step_count=30, deadline=None)
