"""The client of a daemon's control socket: HTTP on a UNIX socket, without Twisted. For example::

    from natproxy.client.control import Search, WhoisQuery

    daemon = Search().daemon()
    for record in daemon.table("client 10.0.0.0/24"):
        print(record.nat_port, record.client, record.name)
    print(daemon.whois(WhoisQuery(40123)).result)

`Search` locates the socket, `Daemon` has a method for each resource,
`natproxy.client.control.http` sends requests and reads replies. Every failure is a
`natproxy.client.ClientError`.
"""

from natproxy.client.control.daemon import Daemon, LostEvents
from natproxy.client.control.finding import Search
from natproxy.records.record import Record
from natproxy.records.upstreams import UpstreamRecord, UpstreamsRecord
from natproxy.records.whois import Gap, WhoisQuery, WhoisReply

__all__ = [
    "Daemon",
    "Gap",
    "LostEvents",
    "Record",
    "Search",
    "UpstreamRecord",
    "UpstreamsRecord",
    "WhoisQuery",
    "WhoisReply",
]
