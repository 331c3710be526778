"""The client of a daemon's control socket: HTTP on a UNIX socket, without Twisted.

`natproxy.client.control.finding` locates the socket, `natproxy.client.control.daemon` has a
method for each resource, `natproxy.client.control.http` sends requests and reads replies.
"""
