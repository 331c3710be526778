"""SeaweedFS, a real server of S3: started once in a process that runs tests, on free ports."""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

HOST = "127.0.0.1"
BUCKET = "bucket"
PATIENCE = 60.0
"""Seconds that its start may take; only a failing test needs them."""

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "a-secret-of-tests"}

PROGRAM = Path(sys.executable).with_name("weed")

PORTS = (
    *("s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "volume.port"),
    *("volume.port.grpc", "filer.port", "filer.port.grpc", "admin.port", "admin.port.grpc"),
)


class Service(NamedTuple):
    """A server of S3.

    :ivar endpoint: its URL.
    :ivar client: of boto3's library, to prepare objects with.
    """

    endpoint: str
    client: Any


def free_ports(count: int) -> list[int]:
    """Return ports on which nothing listens."""
    with ExitStack() as opened:
        sockets = [opened.enter_context(socket.create_server((HOST, 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


def client_of(endpoint: str) -> Any:
    """Return a client of botocore for a service, with the `CREDENTIALS`."""
    import botocore.session

    return botocore.session.get_session().create_client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
    )


@cache
def seaweedfs() -> Service:
    """Return the server; it is killed when the process ends."""
    directory = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    process = subprocess.Popen(
        (
            *(str(PROGRAM), "mini", f"-dir={directory}", f"-ip={HOST}", f"-ip.bind={HOST}"),
            *(f"-bucket={BUCKET}", "-admin.ui=false", "-webdav=false"),
            *("-s3.port.iceberg=0", "-s3.port.lance=0"),
            *(f"-{name}={port}" for name, port in ports.items()),
        ),
        cwd=directory,
        env={**os.environ, **CREDENTIALS},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    atexit.register(_kill, process)
    client = client_of(f"http://{HOST}:{ports['s3.port']}")
    until = time.monotonic() + PATIENCE
    while True:
        try:
            client.list_objects_v2(Bucket=BUCKET)
        except Exception:
            assert process.poll() is None, "SeaweedFS has ended"
            assert time.monotonic() < until, "SeaweedFS does not start"
            time.sleep(0.05)
        else:
            return Service(f"http://{HOST}:{ports['s3.port']}", client)


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
