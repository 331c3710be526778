"""Make a reactor measure time by the monotonic clock.

Twisted's reactors measure with ``time.time``: ``IReactorTime.seconds``, and with it the time at
which every delayed call is due. A wall clock that is set forward makes all time-outs expire
at once; one that is set back stops all delayed calls, ``callLater(0, …)`` included, until it
reaches their time again. The daemons run in a reactor of their own, so they change its clock.
The client's Deferred API does not change the reactor of its caller.

Times that are shown, and times that are compared with those of files, are wall-clock times:
such code calls ``time.time``.
"""

from __future__ import annotations

import time
from typing import Any

from twisted.python import runtime


def use_monotonic_time(reactor: Any) -> None:
    """Make a reactor's ``seconds()`` and its delayed calls follow ``time.monotonic``.

    Calls that are pending keep the time that they have left. A reactor whose ``seconds()``
    is not Twisted's wall clock is left as it is: a test's ``Clock``, or one that was changed
    before.

    :param reactor: provides ``IReactorTime``.
    """
    wall_clock = reactor.seconds
    if wall_clock is not runtime.seconds:
        return
    pending = [(call, call.getTime() - wall_clock()) for call in reactor.getDelayedCalls()]
    reactor.seconds = time.monotonic
    for call, left in pending:
        # Each delayed call holds a reference to the clock of its reactor.
        call.seconds = time.monotonic
        call.reset(max(0.0, left))
