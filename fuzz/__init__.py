"""Fuzzing: what is received or read from files, under coverage-guided random inputs.

Each module of `fuzz.targets` has a function ``check`` that takes an input and raises an exception
if something is wrong. See ``fuzz/README.md``.
"""
