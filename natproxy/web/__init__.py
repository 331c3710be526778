"""The web endpoint: a page that shows the NAT table, and its read-only resources."""
