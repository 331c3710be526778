"""Counters on the path of a command, and the collector that shows them."""
