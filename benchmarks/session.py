"""One run of the benchmark: every work, every peer, in rounds."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import machine
from benchmarks.errors import BenchmarkError
from benchmarks.load.clients import Target
from benchmarks.measure import Processes
from benchmarks.peers import PEERS, Peer, Setting
from benchmarks.plan import Plan
from benchmarks.processes import Daemon, free_port, module
from benchmarks.works import Case, Work
from benchmarks.works.base import Running


@dataclass(frozen=True)
class Sample:
    """What one measurement gave.

    :ivar work: name of the work.
    :ivar case: title of the case.
    :ivar peer: name of the peer.
    :ivar round: counted from 1.
    :ivar values: a number for each metric; none if it failed.
    :ivar failure: why it failed, or `None`.
    """

    work: str
    case: str
    peer: str
    round: int
    values: Mapping[str, float]
    failure: str | None = None


@dataclass
class Findings:
    """Everything that a run has found out.

    :ivar plan: the amounts.
    :ivar machine: what it ran on.
    :ivar works: what was measured.
    :ivar versions: of the peers that took part, by name.
    :ivar missing: why the others did not, by name.
    :ivar samples: in the order in which they were taken.
    """

    plan: Plan
    machine: dict[str, str]
    works: list[Work]
    versions: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)


class Session:
    """Runs works and keeps what they find.

    :param plan: the amounts.
    :param works: what to measure.
    :param only: names of the peers that may take part; all, if there are none.
    :param directory: where files are created; the usual temporary directory if it is None.
    """

    def __init__(
        self,
        plan: Plan,
        works: Sequence[Work],
        only: Sequence[str] = (),
        directory: Path | None = None,
    ) -> None:
        self._directory = directory or Path(tempfile.gettempdir())
        facts = {**machine.facts(), "file system": machine.file_system(self._directory)}
        self.findings = Findings(plan, facts, list(works))
        self._plan = plan
        self._peers: dict[str, list[Peer]] = {}
        for work in works:
            self._peers[work.name] = [
                PEERS[name] for name in work.peers if self._takes_part(name, only)
            ]

    def _takes_part(self, name: str, only: Sequence[str]) -> bool:
        if only and name not in only:
            return False
        findings = self.findings
        if name not in findings.versions and name not in findings.missing:
            reason = PEERS[name].missing()
            if reason is None:
                findings.versions[name] = PEERS[name].version()
            else:
                findings.missing[name] = reason
                _say(f"missing: {name}: {reason}")
        return name in findings.versions

    def run(self) -> Findings:
        """Measure everything; a peer that fails is noted, and the others go on."""
        with tempfile.TemporaryDirectory(prefix="benchmarks-", dir=self._directory) as directory:
            Path(directory).chmod(0o755)
            for work in self.findings.works:
                files = Path(directory, work.name)
                files.mkdir()
                work.make_files(files, self._plan)
                for number in range(1, self._plan.rounds + 1):
                    self._round(work, number, files)
        return self.findings

    def _round(self, work: Work, number: int, files: Path) -> None:
        peers = self._peers[work.name]
        # Each round begins with another peer, so that none has the same neighbour always.
        first = (number - 1) % max(1, len(peers))
        if work.together:
            self._together(work, peers[first:] + peers[:first], number, files)
            return
        for peer in peers[first:] + peers[:first]:
            cases = list(work.cases(self._plan))
            while cases:
                # After a failure, and where that matters, the next case gets a fresh peer.
                cases = self._cases(work, peer, number, cases, files)

    def _together(self, work: Work, peers: list[Peer], number: int, files: Path) -> None:
        try:
            with ExitStack() as stack:
                running = [
                    stack.enter_context(started(work, peer, self._plan, files)) for peer in peers
                ]
                for case, each, values in work.compare(running):
                    self._note(Sample(work.name, case.title, each.peer.name, number, values))
        except (BenchmarkError, OSError) as error:
            failure = str(error) or type(error).__name__
            for case in work.cases(self._plan):
                for peer in peers:
                    self._note(Sample(work.name, case.title, peer.name, number, {}, failure))

    def _cases(
        self, work: Work, peer: Peer, number: int, cases: list[Case], files: Path
    ) -> list[Case]:
        case = cases[0]
        try:
            with started(work, peer, self._plan, files) as running:
                while cases:
                    case = cases[0]
                    values = work.measure(case, running)
                    cases = cases[1:]
                    if values:
                        self._note(Sample(work.name, case.title, peer.name, number, values))
                    if work.fresh:
                        break
        except (BenchmarkError, OSError) as error:
            failure = str(error) or type(error).__name__
            self._note(Sample(work.name, case.title, peer.name, number, {}, failure))
            return cases[1:]
        return cases

    def _note(self, sample: Sample) -> None:
        self.findings.samples.append(sample)
        what = sample.failure or ", ".join(f"{k} {v:.4g}" for k, v in sample.values.items())
        _say(f"{sample.work} {sample.round}: {sample.case}: {sample.peer}: {what}")


@contextmanager
def started(work: Work, peer: Peer, plan: Plan, files: Path) -> Iterator[Running]:
    """Start an origin and a peer in front of it; both end with the block.

    :raises BenchmarkError: if one of them does not start.
    """
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmarks-")))
        # A new one for each peer: no other peer's closed connections hold ports to it.
        port = free_port()
        setting = Setting(free_port(), port, files, directory, work.clients(plan), plan.threads)
        behind = peer.origin(setting)
        origin = None
        if behind is not None:
            server = Daemon(behind, port, directory / "origin.log")
            stack.callback(server.stop)
            server.wait_until_ready()
            origin = Processes(server.pid)
        syslog = peer.syslog(setting)
        if syslog is not None:
            log = module("daemons.syslog", syslog, directory / "syslog")
            receiver = Daemon(log, 0, directory / "receiver.log")
            stack.callback(receiver.stop)
            receiver.wait_for(syslog)
        daemon = Daemon(peer.command(setting), setting.port, directory / "peer.log")
        stack.callback(daemon.stop)
        daemon.wait_until_ready()
        control = peer.control(setting)
        if control is not None:
            daemon.wait_for(control)
        target = Target(setting.port, peer.dialect, peer.keeps)
        yield Running(peer, target, Processes(daemon.pid), plan, files, origin, control)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
