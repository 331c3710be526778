"""Tests, named after behaviour; they run under pytest and under trial.

Neither a test nor a daemon that it starts may write to the places of the user who runs the tests:
by default there are none for control sockets and journals. A test that needs one names it.

The number of Hypothesis examples is set here, for both: few by default, many with
``HYPOTHESIS_PROFILE=thorough``, which ``.ci/long`` sets.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

NOWHERE = "/dev/null/natproxy"
"""A directory that cannot be created, also by root."""

os.environ["RUNTIME_DIRECTORY"] = os.environ["STATE_DIRECTORY"] = NOWHERE

settings.register_profile(
    "default",
    max_examples=25,
    stateful_step_count=20,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("thorough", max_examples=500, stateful_step_count=50, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
