"""The NAT table: compared with a model after each step, and by examples."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from natproxy.address import Address
from natproxy.nat import (
    EntryState,
    Event,
    NATEntry,
    NATTable,
    NotInTable,
    Outcome,
    Registered,
    Relaying,
    Removed,
    TranslationExists,
    TranslationKey,
)
from natproxy.protocol import Command
from tests.support.doubles import Wire
from tests.support.logged_errors import LoggedErrorsCase

UPSTREAMS = (Address("10.0.0.9", 9001), Address("fd00::9", 9001))
LOCALS = tuple(Address("10.0.0.1", port) for port in range(50_000, 50_004))
KEYS = [TranslationKey(local, upstream) for local in LOCALS for upstream in UPSTREAMS]
CLIENTS = range(3)
CLIENT = Address("10.0.0.5", 43_210)
COMMAND = Command(b"DOWNLOAD", b"a b", b"DOWNLOAD a b")


@dataclass
class Modelled:
    """The expected state of an entry.

    :ivar cancels: calls of its callback.
    :ivar events: the kinds of its events.
    """

    key: TranslationKey
    client: int
    since: float
    serial: int
    entry: NATEntry | None = None
    state: EntryState = EntryState.REGISTERED
    outcome: Outcome | None = None
    cancelled: bool = False
    promised: int | None = None
    sent: bytes = b""
    cancels: int = 0
    events: list[type[Event]] = field(default_factory=lambda: [Registered])


class Translations(RuleBasedStateMachine):
    """Commands begin and end on few ports, so that ports and keys are used again and again."""

    connections = Bundle("connections")

    @initialize()
    def start(self) -> None:
        self.clock = Clock()
        self.table = NATTable(self.clock.seconds, lambda: 1_000 + self.clock.seconds())
        self.clients = [Wire(9000, 40_000 + number) for number in CLIENTS]
        self.all: list[Modelled] = []
        self.sent = [b"" for _ in CLIENTS]
        self.events: list[Event] = []
        self.removed: list[Removed] = []
        self.table.subscribe(self.observe)
        self.table.subscribe(self.removed.append, (Removed,))

    def observe(self, event: Event) -> None:
        self.events.append(event)
        registered = event.serial in [entry.serial for entry in self.table]
        assert registered is not isinstance(event, Removed)

    @property
    def open(self) -> list[Modelled]:
        """The upstream connections that exist, oldest first."""
        return [modelled for modelled in self.all if modelled.state is not EntryState.GONE]

    def end(self, modelled: Modelled, outcome: Outcome) -> None:
        modelled.state = EntryState.GONE
        modelled.outcome = outcome
        modelled.events.append(Removed)

    @rule(target=connections, key=st.sampled_from(KEYS), client=st.sampled_from(CLIENTS))
    def register(self, key: TranslationKey, client: int) -> object:
        modelled = Modelled(key, client, self.clock.seconds(), len(self.all) + 1)

        def cancel() -> None:
            modelled.cancels += 1
            assert modelled.entry not in list(self.table)

        address = Address("10.0.0.5", 40_000 + client)
        arguments = (key, self.clients[client], address, COMMAND, 0.0, cancel)
        if any(other.key == key for other in self.open):
            with pytest.raises(TranslationExists):
                self.table.register(*arguments)
            return multiple()
        modelled.entry = self.table.register(*arguments)
        self.all.append(modelled)
        return modelled

    @rule(modelled=connections, promised=st.none() | st.integers(0, 9))
    def begin_to_relay(self, modelled: Modelled, promised: int | None) -> None:
        if modelled.state is EntryState.GONE:
            with pytest.raises(NotInTable):
                self.table.relaying(modelled.entry, promised)
        else:
            self.table.relaying(modelled.entry, promised)
            modelled.state = EntryState.RELAYING
            modelled.promised = promised
            modelled.events.append(Relaying)

    @rule(modelled=connections, data=st.binary(max_size=20))
    def write(self, modelled: Modelled, data: bytes) -> None:
        if modelled.state is not EntryState.GONE:
            modelled.entry.write(data)
            modelled.sent += data
            self.sent[modelled.client] += data

    @rule(modelled=connections, outcome=st.sampled_from(Outcome), cancel=st.booleans())
    def remove(self, modelled: Modelled, outcome: Outcome, cancel: bool) -> None:
        remove = self.table.cancel if cancel else self.table.remove
        if modelled.state is EntryState.GONE:
            with pytest.raises(NotInTable):
                remove(modelled.entry, outcome)
        else:
            remove(modelled.entry, outcome)
            self.end(modelled, outcome)
            modelled.cancelled = cancel

    @rule(client=st.sampled_from(CLIENTS), outcome=st.sampled_from(Outcome))
    def cancel_client(self, client: int, outcome: Outcome) -> None:
        ending = [modelled for modelled in self.open if modelled.client == client]
        removed = self.table.cancel_client(self.clients[client], outcome)
        assert removed == [modelled.entry for modelled in ending]
        for modelled in ending:
            self.end(modelled, outcome)
            modelled.cancelled = True

    @rule(seconds=st.integers(0, 100))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @invariant()
    def table_holds_the_open_connections(self) -> None:
        assert len(self.table) == len(self.open)
        assert list(self.table) == [modelled.entry for modelled in self.open]

    @invariant()
    def each_entry_is_found_by_its_port(self) -> None:
        for local in LOCALS:
            behind = {id(modelled.entry) for modelled in self.open if modelled.key.local == local}
            found = self.table.lookup(local.port)
            assert len(found) == len(behind)
            assert {id(entry) for entry in found} == behind

    @invariant()
    def entries_are_as_modelled(self) -> None:
        for modelled in self.all:
            entry = modelled.entry
            assert (entry.key, entry.serial) == (modelled.key, modelled.serial)
            assert entry.client is self.clients[modelled.client]
            assert entry.client_address.port == 40_000 + modelled.client
            assert (entry.verb, entry.name) == (b"DOWNLOAD", b"a b")
            assert entry.registered_at == modelled.since
            assert (entry.state, entry.outcome) == (modelled.state, modelled.outcome)
            assert (entry.promised, entry.relayed) == (modelled.promised, len(modelled.sent))

    @invariant()
    def only_cancelled_entries_had_their_callback_called(self) -> None:
        for modelled in self.all:
            assert modelled.cancels == modelled.cancelled

    @invariant()
    def subscribers_received_each_event(self) -> None:
        for modelled in self.all:
            events = [event for event in self.events if event.serial == modelled.serial]
            assert [type(event) for event in events] == modelled.events
            for event in events:
                assert event.time == 1_000 + event.monotonic
                assert event.client.port == 40_000 + modelled.client
                assert event.key == modelled.key
        assert self.removed == [event for event in self.events if isinstance(event, Removed)]
        for event in self.removed:
            modelled = self.all[event.serial - 1]
            assert (event.promised, event.sent) == (modelled.promised, len(modelled.sent))
            assert event.outcome is modelled.outcome

    @invariant()
    def clients_have_their_own_bytes(self) -> None:
        assert [client.value() for client in self.clients] == self.sent


class TranslationsTests(SynchronousTestCase):
    # Not Translations.TestCase: trial finds no method in it whose name begins with "test".
    def test_table_agrees_with_the_model_after_every_step(self) -> None:
        checked = settings(deadline=None, derandomize=True, stateful_step_count=40)
        run_state_machine_as_test(Translations, settings=checked)


class TableCase(LoggedErrorsCase):
    """A table, a client, and access to the errors that pytest's fixture has collected."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.wall = 1_700_000_000.0
        self.table = NATTable(self.clock.seconds, lambda: self.wall)
        self.client = Wire(9000, 43_210)
        self.cancelled: list[TranslationKey] = []

    def register(self, key: TranslationKey = KEYS[0], client: Wire | None = None) -> NATEntry:
        return self.table.register(
            key,
            client or self.client,
            CLIENT,
            Command(b"LIST", b"", b"LIST"),
            self.clock.seconds(),
            lambda: self.cancelled.append(key),
        )


class TableTests(TableCase):
    def test_one_local_port_to_two_upstreams_is_two_entries(self) -> None:
        entries = self.register(KEYS[0]), self.register(KEYS[1])
        self.assertEqual(KEYS[0].local, KEYS[1].local)
        self.assertEqual(self.table.lookup(50_000), entries)
        self.table.remove(entries[0], Outcome.COMPLETED)
        self.assertEqual(self.table.lookup(50_000), entries[1:])
        self.table.remove(entries[1], Outcome.COMPLETED)
        self.assertEqual(self.table.lookup(50_000), ())

    def test_accepted_connection_is_an_upstream_connection_if_both_ends_are_equal(self) -> None:
        local, upstream = KEYS[0]
        self.assertFalse(self.table.is_upstream_connection(local, lambda: upstream))
        self.register(KEYS[0])
        self.assertTrue(self.table.is_upstream_connection(local, lambda: upstream))
        # A port may be that of several connections, to several addresses.
        self.assertFalse(self.table.is_upstream_connection(local, lambda: KEYS[1].upstream))
        other = Address("10.0.0.2", local.port)
        self.assertFalse(self.table.is_upstream_connection(other, lambda: upstream))

    def test_entries_are_read_oldest_first_also_where_a_port_is_shared(self) -> None:
        first, second, third = (self.register(KEYS[place]) for place in (0, 2, 1))
        self.assertEqual(list(self.table), [first, second, third])
        self.table.remove(first, Outcome.COMPLETED)
        self.assertEqual(list(self.table), [second, third])
        self.assertEqual(self.table.lookup(50_000), (third,))
        self.assertRaises(TranslationExists, self.register, KEYS[1])
        fourth = self.register(KEYS[0])
        self.assertEqual(list(self.table), [second, third, fourth])
        self.assertEqual(len(self.table), 3)

    def test_lookup_does_not_depend_on_the_number_of_entries(self) -> None:
        keys = [TranslationKey(Address("::1", port), UPSTREAMS[0]) for port in range(1024, 11_024)]
        entries = [self.register(key, Wire(9000, 40_000)) for key in keys]
        comparisons = 0

        def compare(entry: NATEntry) -> TranslationKey:
            nonlocal comparisons
            comparisons += 1
            return keys[0]

        self.patch(NATEntry, "key", property(compare))
        self.assertEqual(self.table.lookup(5_000), (entries[5_000 - 1024],))
        self.assertEqual(comparisons, 0)

    def test_no_place_of_a_removed_entry_is_left(self) -> None:
        entries = [self.register(key) for key in KEYS]
        for entry in entries:
            self.table.remove(entry, Outcome.COMPLETED)
        self.assertEqual((self.table._by_port, self.table._by_client), ({}, {}))

    def test_removed_entry_has_its_reason(self) -> None:
        entry = self.register()
        self.table.remove(entry, Outcome.ERROR, "no header")
        self.assertEqual((entry.outcome, entry.reason), (Outcome.ERROR, "no header"))

    def test_duplicate_key_does_not_change_the_first_entry(self) -> None:
        first = self.register()
        error = self.assertRaises(TranslationExists, self.register)
        self.assertIn("10.0.0.1:50000 to 10.0.0.9:9001", str(error))
        self.assertEqual(list(self.table), [first])
        self.table.cancel_client(self.client, Outcome.CLIENT_GONE)
        self.assertEqual(self.cancelled, [KEYS[0]])

    def test_each_removed_entry_is_counted_until_the_end(self) -> None:
        found: list[tuple[Outcome | None, float]] = []
        end = self.table.count(lambda entry, wall, now: found.append((entry.outcome, now)))
        entry = self.register()
        self.clock.advance(2)
        self.table.remove(entry, Outcome.COMPLETED)
        self.table.cancel(self.register(), Outcome.KILLED)
        end()
        end()
        self.table.remove(self.register(), Outcome.COMPLETED)
        self.assertEqual(found, [(Outcome.COMPLETED, 2.0), (Outcome.KILLED, 2.0)])

    def test_counter_that_raises_is_logged_and_others_are_called(self) -> None:
        found: list[NATEntry] = []
        self.table.count(lambda entry, wall, now: 1 // 0)
        self.table.count(lambda entry, wall, now: found.append(entry))
        entry = self.register()
        self.table.remove(entry, Outcome.COMPLETED)
        self.assertEqual((found, self.flush(ZeroDivisionError)), ([entry], 1))

    def test_removing_twice_is_an_error(self) -> None:
        entry = self.register()
        self.table.remove(entry, Outcome.COMPLETED)
        self.assertRaises(NotInTable, self.table.remove, entry, Outcome.ERROR)
        self.assertRaises(NotInTable, self.table.cancel, entry, Outcome.ERROR)
        self.assertIs(entry.outcome, Outcome.COMPLETED)
        self.assertEqual(self.cancelled, [])

    def test_removed_entry_does_not_refer_to_the_callback(self) -> None:
        entry = self.register()
        self.table.remove(entry, Outcome.COMPLETED)
        entry.cancel()
        self.assertEqual(self.cancelled, [])

    def test_cancelling_calls_back_once(self) -> None:
        entry = self.register()
        self.table.cancel(entry, Outcome.DRAINED)
        self.assertRaises(NotInTable, self.table.cancel, entry, Outcome.ERROR)
        self.assertEqual(self.cancelled, [KEYS[0]])

    def test_callback_that_raises_is_logged_and_its_entry_is_removed(self) -> None:
        removed: list[Event] = []
        self.table.subscribe(removed.append, (Removed,))
        entry = self.table.register(KEYS[0], self.client, CLIENT, COMMAND, 0.0, lambda: 1 // 0)
        self.table.cancel(entry, Outcome.DRAINED)
        self.assertEqual(self.flush(ZeroDivisionError), 1)
        self.assertEqual((len(self.table), len(removed)), (0, 1))

    def test_old_entry_does_not_remove_the_next_one_with_its_key(self) -> None:
        old = self.register()
        self.table.remove(old, Outcome.COMPLETED)
        new = self.register()
        self.assertRaises(NotInTable, self.table.remove, old, Outcome.ERROR)
        self.assertRaises(NotInTable, self.table.relaying, old, 0)
        self.assertEqual(self.table.lookup(50_000), (new,))

    def test_entries_of_a_client_are_removed_with_it_and_no_others(self) -> None:
        other = self.register(KEYS[1], Wire(9000, 43_211))
        entries = [self.register(KEYS[0]), self.register(KEYS[2])]
        self.assertEqual(self.table.cancel_client(self.client, Outcome.CLIENT_GONE), entries)
        self.assertEqual(list(self.table), [other])
        self.assertEqual(self.cancelled, [KEYS[0], KEYS[2]])
        self.assertEqual(self.table.cancel_client(self.client, Outcome.CLIENT_GONE), [])

    def test_table_may_change_while_it_is_read(self) -> None:
        for key in KEYS:
            self.register(key)
        for entry in self.table:
            self.table.remove(entry, Outcome.DRAINED)
        self.assertEqual(len(self.table), 0)

    def test_entry_has_the_time_of_its_registration(self) -> None:
        self.clock.advance(12.5)
        self.assertEqual(self.register().registered_at, 12.5)

    def test_bytes_are_passed_to_the_client_and_counted(self) -> None:
        entry = self.register()
        entry.write(b"OK 5\n")
        entry.write(b"hello")
        self.assertEqual(self.client.value(), b"OK 5\nhello")
        self.assertEqual(entry.relayed, 10)
