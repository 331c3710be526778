"""Files that are replaced while their server is away: the client never receives a mixture.

``NATPROXY_TEST_REPLACED=1000`` is a thousand random cases, for `.ci/long`;
``NATPROXY_REPLACED_REPORT`` names a file for their report.
"""

from __future__ import annotations

import os
import random
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred, gatherResults

from natproxy.protocol.features import parse_abilities
from natproxy.proxy.factory import ProxyFactory
from natproxy.proxy.tcp import TCPConnector
from natproxy.proxy.upstreams import Target
from tests.support.paths import ROOT
from tests.support.replaced_files import Change, Ending, Played, draw, judged, play

CASES = int(os.environ.get("NATPROXY_TEST_REPLACED", "60"))
AT_ONCE = 20
ABILITIES = parse_abilities(b"NATPROXY 2\nGET offset length if-match\n")

PREFACE = """\
`tests/integration/proxy/test_replaced_files.py` wrote this part. A client downloads a file through
a proxy with one or two upstreams; a relay in front of each file server dies at a random byte of the
reply, up to three times. While the server is away, or between two tries, the file is replaced: each
byte of the new one differs from the old one's at the same offset. Once the header of a reply has
been passed on, the client must be cut off, and must have bytes of the old file only. Before that,
it must have all of the new file that it has asked for, or an error if there is no such part. A file
that has not changed must be complete. Only a `DOWNLOAD` that has twice had no reply may be cut off:
it is sent as it is then, and not continued.
"""


def make_proxy(servers: Sequence[tuple[str, int]]) -> ProxyFactory:
    """Return the factory of a proxy to file servers at some hosts and ports."""
    connectors = [TCPConnector(reactor, host, port, 5.0) for host, port in servers]
    proxy = ProxyFactory(reactor, connectors[0], resume_for=5.0)
    proxy.resources.upstreams.use(
        [Target(str(number), "", one) for number, one in enumerate(connectors)]
    )
    for upstream in proxy.resources.upstreams:
        # As a check of its health reports them: only then is a DOWNLOAD continued.
        upstream.abilities = ABILITIES
    return proxy


@pytest_twisted.ensureDeferred
async def test_no_mixture(tmp_path: Path) -> None:
    seed = int(os.environ.get("NATPROXY_REPLACED_SEED", str(random.randrange(1 << 32))))
    sys.stdout.write(f"NATPROXY_REPLACED_SEED={seed}\n")
    played: list[Played] = []

    async def play_each(first: int) -> None:
        for number in range(first, CASES, AT_ONCE):
            chance = random.Random(seed + number)
            case = draw(chance)
            played.append(await play(case, tmp_path / str(number), chance, make_proxy))

    lanes: list[Deferred[None]] = [ensureDeferred(play_each(first)) for first in range(AT_ONCE)]
    await gatherResults(lanes, consumeErrors=True)
    assert [one.wrong for one in played if one.wrong is not None] == []
    assert len(played) == CASES
    # There are cases of each kind, in which it matters.
    cut_off = {one.case.change for one in played if one.ending is Ending.CUT_OFF}
    resumed = [one for one in played if one.ending is Ending.OLD and one.begun and one.after]
    assert resumed
    if CASES >= 1000:
        assert cut_off >= set(Change) - {Change.NOTHING}
    report(played, seed)


@pytest.mark.parametrize(
    ("received", "ending"),
    [
        (b"OK 4\nabcd", Ending.OLD),
        (b"OK 4\nABCD", Ending.NEW),
        (b"OK 4\nabc", Ending.CUT_OFF),
        (b"OK 4\nAB", Ending.CUT_OFF),
        (b"OK", Ending.CUT_OFF),
        (b"OK 4\nabCD", Ending.MIXTURE),
        (b"OK 4\nabC", Ending.MIXTURE),
        (b"OK 3\nabc", Ending.MIXTURE),
        (b"OK 4\nabcdO", Ending.MIXTURE),
        (b"ERR file not found\n", Ending.ERROR),
    ],
)
def test_each_kind_of_reply_is_noticed(received: bytes, ending: Ending) -> None:
    assert judged(received, b"abcd", b"ABCD", ended=True) is ending


def test_reply_that_never_ends_is_noticed() -> None:
    assert judged(b"OK 4\nabc", b"abcd", None, ended=False) is Ending.HANGING


def report(played: list[Played], seed: int) -> None:
    """Write the report, if a file is named for it."""
    path = os.environ.get("NATPROXY_REPLACED_REPORT")
    if path is None:
        return
    kinds = Counter((one.case.change, one.ending) for one in played)
    endings = [ending for ending in Ending if any(one.ending is ending for one in played)]
    lines = [
        "## Files that are replaced",
        "",
        PREFACE,
        f"{len(played):,} cases, seed {seed}; in {sum(one.begun for one in played):,} the header"
        f" had been passed on before; {sum(one.tries for one in played):,} tries."
        " **Mixtures: 0.**",
        "",
        f"| what happens to the file | {' | '.join(ending.value for ending in endings)} |",
        f"| --- |{' ---: |' * len(endings)}",
        *(
            f"| {change.value} | {' | '.join(f'{kinds[change, one]:,}' for one in endings)} |"
            for change in Change
        ),
        "",
    ]
    # The tests have another working directory.
    (ROOT / path).write_text("\n".join(lines))
