"""Metrics: counters on the path of a command, and a collector for Prometheus."""
