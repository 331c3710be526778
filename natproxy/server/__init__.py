"""The server side of a client's connection, shared by both daemons."""
