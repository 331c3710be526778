"""The client on blocking sockets: no reactor, started in milliseconds."""
