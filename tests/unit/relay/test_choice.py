"""Which relay moves a body, by what its two ends can do."""

from __future__ import annotations

import os
from unittest import mock, skipUnless

from twisted.internet.interfaces import (
    IFileDescriptor,
    ISSLTransport,
    ISystemHandle,
    ITCPTransport,
    IUNIXTransport,
)
from twisted.internet.task import Clock

from natproxy.relay import Method, Relays, choice
from natproxy.relay.copy import CopyRelay
from natproxy.relay.files import CopyingFileRelay
from natproxy.relay.pipes import PipePool
from natproxy.relay.sendfile import SendfileRelay
from natproxy.relay.splice import SpliceRelay
from tests.support.relay_cases import KernelCase

TCP = (ITCPTransport, IFileDescriptor, ISystemHandle)
LIMIT = 128 * 1024


@skipUnless(hasattr(os, "splice"), "no splice on this system")
class ChoosingTests(KernelCase):
    def assert_chosen(self, relays: Relays, from_socket: type, from_file: type, size: int) -> None:
        self.assertIs(type(self.socket_relay(relays, size)), from_socket, size)
        self.assertIs(type(self.file_relay(relays, size)), from_file, size)

    def test_kernel_moves_large_bodies_and_small_ones_are_copied(self) -> None:
        relays = self.relays()
        self.assert_chosen(relays, CopyRelay, CopyingFileRelay, 1)
        self.assert_chosen(relays, CopyRelay, CopyingFileRelay, 64 * 1024)
        self.assert_chosen(relays, CopyRelay, SendfileRelay, 64 * 1024 + 1)
        self.assert_chosen(relays, CopyRelay, SendfileRelay, LIMIT - 1)
        self.assert_chosen(relays, SpliceRelay, SendfileRelay, LIMIT)
        self.assert_chosen(relays, SpliceRelay, SendfileRelay, 1 << 62)

    def test_kernel_moves_even_one_byte_if_forced(self) -> None:
        self.assert_chosen(self.relays(Method.KERNEL), SpliceRelay, SendfileRelay, 1)

    def test_everything_is_copied_if_forced(self) -> None:
        self.assert_chosen(self.relays(Method.COPY), CopyRelay, CopyingFileRelay, 1 << 40)

    def test_without_a_reactor_everything_is_copied(self) -> None:
        self.assert_chosen(Relays(), CopyRelay, CopyingFileRelay, 1 << 40)

    def test_body_without_a_size_is_copied(self) -> None:
        self.assertIs(type(self.socket_relay(self.relays(Method.KERNEL), 0)), CopyRelay)
        self.assertIs(type(self.file_relay(self.relays(Method.KERNEL), 0)), CopyingFileRelay)

    def test_bytes_in_memory_are_copied(self) -> None:
        relays = self.relays(Method.KERNEL)
        relay = relays.send_bytes(b"x" * LIMIT, self.outbound(), self.ends)
        self.assertIs(type(relay), CopyingFileRelay)
        relay.cancel()

    def test_everything_is_copied_if_the_reactor_watches_no_descriptors(self) -> None:
        self.assert_chosen(
            self.relays(Method.KERNEL, Clock()), CopyRelay, CopyingFileRelay, 1 << 40
        )

    def test_everything_is_copied_on_other_systems(self) -> None:
        with mock.patch.object(choice, "_LINUX", False):
            self.assert_chosen(self.relays(Method.KERNEL), CopyRelay, CopyingFileRelay, 1 << 40)

    def test_everything_is_copied_to_a_client_without_a_bare_tcp_socket(self) -> None:
        for provided in ((*TCP, ISSLTransport), (*TCP, IUNIXTransport), TCP[:1], TCP[1:]):
            self.client = self.wire(*provided)
            self.assert_chosen(self.relays(Method.KERNEL), CopyRelay, CopyingFileRelay, 1 << 40)

    def test_everything_is_copied_from_an_upstream_without_a_bare_tcp_socket(self) -> None:
        for provided in ((*TCP, ISSLTransport), (*TCP, IUNIXTransport), TCP[:1], TCP[1:]):
            self.upstream = self.wire(*provided)
            self.assertIs(type(self.socket_relay(self.relays(Method.KERNEL), 1 << 40)), CopyRelay)

    def test_body_is_copied_while_there_is_no_pipe(self) -> None:
        relays = self.relays()
        with mock.patch.object(PipePool, "lend", return_value=None):
            self.assertIs(type(self.socket_relay(relays, LIMIT)), CopyRelay)
        self.assertIs(type(self.socket_relay(relays, LIMIT)), SpliceRelay)

    def test_methods_have_their_names(self) -> None:
        self.assertEqual([str(method) for method in Method], ["auto", "copy", "kernel"])
