"""The proxy: a NAPT device for commands.

The path of one command, from its line to the removal of its entry:

1. `natproxy.proxy.protocol.ProxyProtocol.command_received` makes an `UpstreamFactory` for the
   command, which chooses an upstream and connects to it.
2. `natproxy.proxy.upstream.UpstreamProtocol.connectionMade` registers the entry and sends the
   command.
3. `UpstreamProtocol.dataReceived` parses the header of the reply and passes it to the client
   through the entry. A body that was not received along with the header is moved by a relay.
4. At the end of the reply, `UpstreamProtocol` resets its connection, removes the entry, which
   publishes the event that is logged, and calls ``reply_finished`` of the client's side.

Everything runs in the reactor thread, without locks.
"""
