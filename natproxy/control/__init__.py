"""The control socket: HTTP resources that show and change a running daemon, and their client."""
