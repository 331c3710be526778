"""The peers: how each is found, configured and started."""

from __future__ import annotations

from benchmarks.peers.base import Peer, Setting
from benchmarks.peers.clients import Curl, Fetching, NATProxyGet, Wget
from benchmarks.peers.copying import (
    Aria2,
    Copying,
    DirectSync,
    ProxiedGet,
    ProxiedSync,
    Rclone,
    Rsync,
    WgetTree,
)
from benchmarks.peers.haproxy import HAProxy
from benchmarks.peers.nginx import NginxHTTP, NginxStream
from benchmarks.peers.ours import (
    DefaultNATProxy,
    FileServer,
    FullTable,
    LimitedNATProxy,
    LoggingNATProxy,
    NATProxy,
    WorkersNATProxy,
)
from benchmarks.peers.python import FileSenderServer, FTPServer, Origin, Pairs, PortForward

PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        NATProxy("natproxy", "natproxy"),
        NATProxy("natproxy-copy", "natproxy, copying", "copy"),
        LoggingNATProxy("natproxy-log", "natproxy, --access-log"),
        LimitedNATProxy("natproxy-limits", "natproxy, rules and limits on"),
        DefaultNATProxy("natproxy-defaults", "natproxy, all defaults on"),
        NATProxy("natproxy-observed", "natproxy, with control, metrics, journal", observed=True),
        WorkersNATProxy("natproxy-workers", "the same, 2 workers", observed=True),
        NATProxy("natproxy-watched", "the same, 1 watcher of everything", observed=True),
        NATProxy("natproxy-ignored", "the same, 50 watchers that do not read", observed=True),
        FullTable("natproxy-table", "natproxy with 10,000 translations"),
        HAProxy("haproxy-splice", "HAProxy, splice-auto", "splice-auto"),
        HAProxy("haproxy-splice-always", "HAProxy, splice-response", "splice-response"),
        HAProxy("haproxy-log", "HAProxy, splice-auto, its log on", "splice-auto", logging=True),
        HAProxy("haproxy-copy", "HAProxy, copying", None),
        NginxStream("nginx-stream", "nginx stream"),
        PortForward("portforward", "twistd portforward"),
        Pairs("threads", "a thread per connection, 4 KiB reads", "copy"),
        Pairs("splice-floor", "bare os.splice loop (the floor)", "splice"),
        FileServer("fileserver", "natproxy's file server"),
        NginxHTTP("nginx-http", "nginx, sendfile on, HTTP"),
        FTPServer("pyftpdlib", "pyftpdlib, FTP"),
        FileSenderServer("filesender", "Twisted FileSender"),
        Origin("sendfile-floor", "bare os.sendfile loop (the floor)"),
        NATProxyGet("get", "natproxy get"),
        NATProxyGet("get-verify", "natproxy get --verify", "--verify"),
        Curl("curl", "curl -O, from nginx"),
        Wget("wget", "wget, from nginx"),
        ProxiedSync("sync", "natproxy sync, through the proxy"),
        ProxiedSync("sync-no-fsync", "the same, --no-fsync", "--no-fsync"),
        DirectSync("sync-direct", "natproxy sync, from the file server"),
        DirectSync("sync-direct-no-fsync", "the same, --no-fsync", "--no-fsync"),
        Rsync("rsync", "rsync -rt, from its daemon"),
        Rsync("rsync-fsync", "the same, --fsync", "--fsync"),
        Rclone("rclone", "rclone copy, from nginx"),
        WgetTree("wget-tree", "wget -r, from nginx"),
        Aria2("aria2", "aria2c -i, from nginx"),
        ProxiedGet("get-proxied", "natproxy get, through the proxy"),
    )
}
"""Every peer by its name, in the order in which they are shown."""

__all__ = ["PEERS", "Copying", "Fetching", "Peer", "Setting"]
