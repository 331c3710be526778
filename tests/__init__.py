"""Tests, named after behaviour; they run under pytest and under trial."""
