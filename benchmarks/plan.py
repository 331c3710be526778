"""How much of everything: the full benchmark, and the quick one for CI."""

from __future__ import annotations

from dataclasses import dataclass, replace

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
GB = 10**9


@dataclass(frozen=True)
class Bulk:
    """Bodies to download.

    :ivar size: of one body, in bytes.
    :ivar streams: downloads at the same time.
    :ivar times: bodies that each stream downloads, one after the other.
    """

    size: int
    streams: int
    times: int

    @property
    def title(self) -> str:
        """What a reader calls it."""
        return f"{size_text(self.size)} bodies, {count_text(self.streams, 'stream')}"


@dataclass(frozen=True)
class Tree:
    """Small files to copy.

    :ivar files: how many.
    :ivar size: of each, in bytes.
    :ivar directories: that they are distributed over.
    """

    files: int
    size: int
    directories: int

    @property
    def name(self) -> str:
        """Name of its directory."""
        return f"tree-{self.files}-{self.size}"

    @property
    def title(self) -> str:
        """What a reader calls it."""
        return f"{count_text(self.files, 'file')} of {size_text(self.size)}"


@dataclass(frozen=True)
class Plan:
    """The amounts of one run.

    :ivar rounds: times that everything is measured.
    :ivar patience: seconds that one measurement may take.
    :ivar settle: seconds between the end of the load and the reading of the CPU clocks.
    :ivar bulk: what the works ``relay`` and ``serve`` download.
    :ivar clients: of the work ``commands``.
    :ivar commands: that all those clients send together.
    :ivar idle: clients of the work ``idle``; fewer if there are not enough descriptors.
    :ivar probes: commands that the work ``latency`` times.
    :ivar bulk_beside: bulk downloads beside which they are timed.
    :ivar flooders: connections that flood, beside which they are timed.
    :ivar growth: numbers of clients of the work ``growth``.
    :ivar growth_body: bytes of its bodies.
    :ivar growth_bytes: bytes that all its clients download together, at the least.
    :ivar growth_commands: commands that all its clients send together, at the least.
    :ivar readers: slow readers of the work ``memory``.
    :ivar reading: seconds that they read.
    :ivar get: bytes of the file of the work ``get``.
    :ivar many: trees that the work ``many`` copies.
    :ivar resync: tree that the work ``resync`` compares.
    :ivar far: tree that the work ``far`` copies.
    :ivar round_trips: of its links, in seconds.
    :ivar far_gets: downloads of one small file of which it takes the median.
    :ivar threads: threads that HAProxy, and worker processes that nginx, may have.
    """

    rounds: int = 5
    patience: float = 240.0
    settle: float = 0.2
    bulk: tuple[Bulk, ...] = (
        Bulk(GIB, 1, 2),
        Bulk(GIB, 16, 1),
        Bulk(16 * MIB, 1, 128),
        Bulk(16 * MIB, 16, 8),
    )
    clients: int = 16
    commands: int = 16_000
    idle: int = 10_000
    probes: int = 2_000
    bulk_beside: int = 8
    flooders: int = 30
    growth: tuple[int, ...] = (1, 10, 100, 1000)
    growth_body: int = 16 * MIB
    growth_bytes: int = 2 * GIB
    growth_commands: int = 8_000
    readers: int = 200
    reading: float = 10.0
    slow_file: int = 4 * GIB
    get: int = GIB
    many: tuple[Tree, ...] = (Tree(4_000, 4 * KIB, 40), Tree(100_000, KIB, 100))
    resync: Tree = Tree(100_000, KIB, 100)
    far: Tree = Tree(1_000, 4 * KIB, 10)
    round_trips: tuple[float, ...] = (0.05, 0.2)
    far_gets: int = 5
    threads: int = 1


def quick_plan() -> Plan:
    """Give the amounts that take less than a minute, for CI and for a first look."""
    return Plan(
        rounds=1,
        patience=20.0,
        settle=0.05,
        bulk=(
            Bulk(64 * MIB, 1, 2),
            Bulk(64 * MIB, 4, 1),
            Bulk(4 * MIB, 1, 16),
            Bulk(4 * MIB, 16, 1),
        ),
        commands=640,
        idle=200,
        probes=50,
        bulk_beside=2,
        flooders=6,
        growth=(1, 10, 100),
        growth_body=256 * KIB,
        growth_bytes=16 * MIB,
        growth_commands=400,
        readers=20,
        reading=0.8,
        slow_file=64 * MIB,
        get=64 * MIB,
        many=(Tree(1_000, 4 * KIB, 10), Tree(4_000, KIB, 40)),
        resync=Tree(4_000, KIB, 40),
        far=Tree(100, 4 * KIB, 2),
        far_gets=1,
    )


def smoke_plan() -> Plan:
    """Give the amounts that show that it runs at all, in seconds."""
    return replace(
        quick_plan(),
        bulk=(Bulk(MIB, 1, 2), Bulk(MIB, 2, 1)),
        commands=40,
        idle=20,
        probes=20,
        growth=(1, 4),
        growth_body=256 * KIB,
        growth_bytes=MIB,
        growth_commands=40,
        readers=4,
        reading=0.5,
        slow_file=16 * MIB,
        get=MIB,
        many=(Tree(40, 4 * KIB, 4),),
        resync=Tree(60, KIB, 3),
        far=Tree(12, 4 * KIB, 2),
        round_trips=(0.01,),
    )


def size_text(size: int) -> str:
    """Write a number of bytes as people do."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size >= unit and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} bytes"


def count_text(count: int, noun: str, plural: str | None = None) -> str:
    """Write how many there are of something."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
