"""The NAT table against a model of it, step by step, and a few plain examples."""

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

from natproxy.address import FIRST_STAND_IN_PORT, Address
from natproxy.nat import (
    EntryState,
    NATEntry,
    NATTable,
    NotInTable,
    Outcome,
    TranslationExists,
    TranslationKey,
)
from tests.support.doubles import Wire

UPSTREAMS = (Address("10.0.0.9", 9001), Address("fd00::9", 9001))
LOCALS = tuple(Address("10.0.0.1", port) for port in range(50_000, 50_004))
KEYS = [TranslationKey(local, upstream) for local in LOCALS for upstream in UPSTREAMS]
CLIENTS = range(3)


@dataclass
class Modelled:
    """What an entry ought to be."""

    key: TranslationKey
    client: int
    since: float
    entry: NATEntry | None = None
    state: EntryState = EntryState.REGISTERED
    outcome: Outcome | None = None
    sent: bytes = b""
    stops: int = 0
    steps: list[EntryState] = field(default_factory=lambda: [EntryState.REGISTERED])


class Translations(RuleBasedStateMachine):
    """Commands come and go on few ports, so that ports and keys meet again and again."""

    connections = Bundle("connections")

    @initialize()
    def start(self) -> None:
        self.clock = Clock()
        self.table = NATTable(self.clock.seconds)
        self.clients = [Wire(9000, 40_000 + number) for number in CLIENTS]
        self.all: list[Modelled] = []
        self.sent = [b"" for _ in CLIENTS]
        self.told: dict[NATEntry, list[EntryState]] = {}
        self.told_late: list[tuple[NATEntry, EntryState]] = []
        self.table.observe(self.observe)
        self.table.observe(lambda entry: self.told_late.append((entry, entry.state)))

    def observe(self, entry: NATEntry) -> None:
        self.told.setdefault(entry, []).append(entry.state)
        assert (entry in list(self.table)) is (entry.state is not EntryState.GONE)
        assert (entry.outcome is None) is (entry.state is not EntryState.GONE)

    @property
    def open(self) -> list[Modelled]:
        """The upstream connections that there are, oldest first."""
        return [modelled for modelled in self.all if modelled.state is not EntryState.GONE]

    def end(self, modelled: Modelled, outcome: Outcome) -> None:
        modelled.state = EntryState.GONE
        modelled.outcome = outcome
        modelled.steps.append(EntryState.GONE)

    @rule(target=connections, key=st.sampled_from(KEYS), client=st.sampled_from(CLIENTS))
    def register(self, key: TranslationKey, client: int) -> object:
        modelled = Modelled(key, client, self.clock.seconds())

        def stop() -> None:
            modelled.stops += 1
            assert modelled.entry not in list(self.table)

        address = Address("10.0.0.5", 40_000 + client)
        arguments = (key, self.clients[client], address, b"DOWNLOAD", b"a b", stop)
        if any(other.key == key for other in self.open):
            with pytest.raises(TranslationExists):
                self.table.register(*arguments)
            return multiple()
        modelled.entry = self.table.register(*arguments)
        self.all.append(modelled)
        return modelled

    @rule(modelled=connections)
    def begin_to_relay(self, modelled: Modelled) -> None:
        if modelled.state is EntryState.GONE:
            with pytest.raises(NotInTable):
                self.table.relaying(modelled.entry)
        else:
            self.table.relaying(modelled.entry)
            modelled.state = EntryState.RELAYING
            modelled.steps.append(EntryState.RELAYING)

    @rule(modelled=connections, data=st.binary(max_size=20))
    def write(self, modelled: Modelled, data: bytes) -> None:
        if modelled.state is not EntryState.GONE:
            modelled.entry.write(data)
            modelled.sent += data
            self.sent[modelled.client] += data

    @rule(modelled=connections, outcome=st.sampled_from(Outcome))
    def remove(self, modelled: Modelled, outcome: Outcome) -> None:
        if modelled.state is EntryState.GONE:
            with pytest.raises(NotInTable):
                self.table.remove(modelled.entry, outcome)
        else:
            self.table.remove(modelled.entry, outcome)
            self.end(modelled, outcome)

    @rule(client=st.sampled_from(CLIENTS), outcome=st.sampled_from(Outcome))
    def remove_client(self, client: int, outcome: Outcome) -> None:
        going = [modelled for modelled in self.open if modelled.client == client]
        removed = self.table.remove_client(self.clients[client], outcome)
        assert removed == [modelled.entry for modelled in going]
        for modelled in going:
            self.end(modelled, outcome)

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
            assert entry.key == modelled.key
            assert entry.client is self.clients[modelled.client]
            assert entry.client_address.port == 40_000 + modelled.client
            assert (entry.verb, entry.name) == (b"DOWNLOAD", b"a b")
            assert entry.registered_at == modelled.since
            assert (entry.state, entry.outcome) == (modelled.state, modelled.outcome)
            assert entry.relayed == len(modelled.sent)

    @invariant()
    def each_removed_entry_was_stopped_once_and_no_other(self) -> None:
        for modelled in self.all:
            assert modelled.stops == (modelled.state is EntryState.GONE)

    @invariant()
    def observers_were_told_of_each_step(self) -> None:
        assert self.told == {modelled.entry: modelled.steps for modelled in self.all}
        for modelled in self.all:
            late = [state for entry, state in self.told_late if entry is modelled.entry]
            assert late == modelled.steps

    @invariant()
    def clients_have_their_own_bytes(self) -> None:
        assert [client.value() for client in self.clients] == self.sent


class TranslationsTests(SynchronousTestCase):
    # Not Translations.TestCase: trial finds no method in it whose name begins with "test".
    def test_table_agrees_with_the_model_after_every_step(self) -> None:
        checked = settings(deadline=None, derandomize=True, max_examples=60, stateful_step_count=40)
        run_state_machine_as_test(Translations, settings=checked)


class AddressTests(SynchronousTestCase):
    def test_host_and_port_are_written_as_in_a_url(self) -> None:
        self.assertEqual(str(Address("10.0.0.5", 9001)), "10.0.0.5:9001")
        self.assertEqual(str(Address("fd00::5", 9001)), "[fd00::5]:9001")
        self.assertEqual(str(Address("10.0.0.5", 65_535)), "10.0.0.5:65535")

    def test_stand_in_is_not_taken_for_a_port(self) -> None:
        self.assertEqual(str(Address("unix", FIRST_STAND_IN_PORT)), "unix#65536")
        self.assertEqual(str(Address("unix:/run/x", 65_537)), "unix:/run/x#65537")


class TableCase(SynchronousTestCase):
    """A table, a client, and one pytest fixture's knowledge of the errors logged."""

    logged_errors = None

    @pytest.fixture(autouse=True)
    def _logged(self, logged_errors: object) -> None:
        self.logged_errors = logged_errors

    def setUp(self) -> None:
        self.clock = Clock()
        self.table = NATTable(self.clock.seconds)
        self.client = Wire(9000, 43_210)
        self.stopped: list[TranslationKey] = []

    def flush(self, kind: type[Exception]) -> int:
        """Take out expected errors from the log, for trial and for pytest; count them."""
        if self.logged_errors is not None:
            self.logged_errors.flush(kind)
        return len(self.flushLoggedErrors(kind))

    def register(self, key: TranslationKey = KEYS[0], client: Wire | None = None) -> NATEntry:
        return self.table.register(
            key,
            client or self.client,
            Address("10.0.0.5", 43_210),
            b"LIST",
            b"",
            lambda: self.stopped.append(key),
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

    def test_duplicate_key_leaves_the_first_entry_in_peace(self) -> None:
        first = self.register()
        error = self.assertRaises(TranslationExists, self.register)
        self.assertIn("10.0.0.1:50000 to 10.0.0.9:9001", str(error))
        self.assertEqual(list(self.table), [first])
        self.table.remove_client(self.client, Outcome.COMPLETED)
        self.assertEqual(self.stopped, [KEYS[0]])

    def test_removing_twice_is_an_error_and_stops_once(self) -> None:
        entry = self.register()
        self.table.remove(entry, Outcome.COMPLETED)
        self.assertRaises(NotInTable, self.table.remove, entry, Outcome.ERROR)
        self.assertIs(entry.outcome, Outcome.COMPLETED)
        self.assertEqual(self.stopped, [KEYS[0]])

    def test_old_entry_does_not_remove_the_next_one_with_its_key(self) -> None:
        old = self.register()
        self.table.remove(old, Outcome.COMPLETED)
        new = self.register()
        self.assertRaises(NotInTable, self.table.remove, old, Outcome.ERROR)
        self.assertRaises(NotInTable, self.table.relaying, old)
        self.assertEqual(self.table.lookup(50_000), (new,))

    def test_client_takes_its_own_entries_along_and_no_others(self) -> None:
        other = self.register(KEYS[1], Wire(9000, 43_211))
        entries = [self.register(KEYS[0]), self.register(KEYS[2])]
        self.assertEqual(self.table.remove_client(self.client, Outcome.CLIENT_GONE), entries)
        self.assertEqual(list(self.table), [other])
        self.assertEqual(self.stopped, [KEYS[0], KEYS[2]])
        self.assertEqual(self.table.remove_client(self.client, Outcome.CLIENT_GONE), [])

    def test_table_may_change_while_it_is_read(self) -> None:
        for key in KEYS:
            self.register(key)
        for entry in self.table:
            self.table.remove(entry, Outcome.DRAINED)
        self.assertEqual(len(self.table), 0)

    def test_entry_knows_when_it_was_registered(self) -> None:
        self.clock.advance(12.5)
        self.assertEqual(self.register().registered_at, 12.5)

    def test_bytes_are_routed_to_the_client_and_counted(self) -> None:
        entry = self.register()
        entry.write(b"OK 5\n")
        entry.write(b"hello")
        self.assertEqual(self.client.value(), b"OK 5\nhello")
        self.assertEqual(entry.relayed, 10)

    def test_failing_observer_is_logged_and_stops_nobody(self) -> None:
        told: list[EntryState] = []
        self.table.observe(lambda entry: 1 // 0)
        self.table.observe(lambda entry: told.append(entry.state))
        entry = self.register()
        self.assertEqual(self.flush(ZeroDivisionError), 1)
        self.table.relaying(entry)
        self.table.remove(entry, Outcome.COMPLETED)
        self.assertEqual(self.flush(ZeroDivisionError), 2)
        self.assertEqual(told, [EntryState.REGISTERED, EntryState.RELAYING, EntryState.GONE])
        self.assertEqual((len(self.table), self.stopped), (0, [KEYS[0]]))
