"""Settings that change while a daemon runs.

A daemon has *parts* that take settings from its config: its time-outs, its rules, its certificates.
Each is a function that prepares the settings of a config, and returns what puts them into effect.
It is called when the daemon starts, and again at each reload.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from twisted.internet.defer import Deferred, DeferredLock, succeed
from twisted.internet.defer import TimeoutError as TooSlow
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from natproxy.daemon.config import DaemonConfig
from natproxy.daemon.config_fields import fields_of, settings_of
from natproxy.daemon.logfile import LEVELS
from natproxy.server.threads import InThread
from natproxy.settings import SettingError, shortened
from natproxy.toml_values import to_toml

Config = TypeVar("Config", bound=DaemonConfig)
Taken = TypeVar("Taken", bound=DaemonConfig, contravariant=True)

Effect = Callable[[], object]
"""Puts prepared settings into effect, for the next command. It does not fail."""

TIMEOUT = 30.0
"""Seconds that reading the files may take: they may be on a file system that hangs."""

WAITING = 8
"""Reloads that may wait for another one to end."""

UNEXPECTED = "an unexpected error, which the daemon has logged"


class Part(Protocol[Taken]):
    """What takes settings of a config."""

    def __call__(self, config: Taken, /) -> Effect:
        """Prepare settings: read the files that they name, compile what is to be compiled.

        At a reload it is called in a thread: it changes nothing, and reads of the daemon only what
        never changes.

        :raises SettingError: if a setting is wrong.
        """
        ...


class Difference(NamedTuple):
    """Which fields of two configs differ; see `diff`.

    :ivar reloadable: fields whose new value a running daemon may take.
    :ivar fixed: fields whose new value has an effect after a restart only.
    """

    reloadable: tuple[str, ...]
    fixed: tuple[str, ...]


class Change(NamedTuple):
    """A setting that differs.

    :ivar setting: its table and key: ``proxy.idle-timeout``.
    :ivar old: the value that is in effect, as JSON has it.
    :ivar new: the value of the sources, likewise.
    :ivar source: where it comes from.
    :ivar text: what differs, for the log; long values are cut.
    """

    setting: str
    old: object
    new: object
    source: str
    text: str

    def json(self) -> dict[str, object]:
        """Return the members for programs."""
        return {
            "setting": self.setting,
            "old": self.old,
            "new": self.new,
            "source": self.source,
        }


class Replacement(NamedTuple):
    """Processes of a daemon that a reload replaces.

    :ivar daemon: the table of its config.
    :ivar workers: how many are replaced.
    :ivar reasons: why; phrases.
    """

    daemon: str
    workers: int
    reasons: tuple[str, ...]

    def json(self) -> dict[str, object]:
        """Return the members for programs."""
        return {"daemon": self.daemon, "workers": self.workers, "reasons": list(self.reasons)}


class Others(NamedTuple):
    """What other processes have done with settings, or would do.

    :ivar errors: what is wrong; if there is anything, nothing has changed.
    :ivar replaced: those that are replaced.
    """

    errors: Sequence[str] = ()
    replaced: Sequence[Replacement] = ()


class Result(NamedTuple):
    """What a reload has done, or would do.

    :ivar changed: reloadable settings that differ.
    :ivar restart: other settings that differ: they take effect when the daemon starts again.
    :ivar replaced: the processes that are replaced.
    :ivar errors: what is wrong; if there is anything, nothing has changed.
    """

    changed: tuple[Change, ...] = ()
    restart: tuple[Change, ...] = ()
    replaced: tuple[Replacement, ...] = ()
    errors: tuple[str, ...] = ()

    def json(self, dry_run: bool) -> dict[str, Any]:
        """Return the members of the reply to ``/v1/reload``.

        :param dry_run: whether nothing was to be changed.
        """
        return {
            "dry_run": dry_run,
            "reloaded": not dry_run and not self.errors,
            "changed": [one.json() for one in self.changed],
            "restart": [one.json() for one in self.restart],
            "replaced": [one.json() for one in self.replaced],
            "errors": list(self.errors),
        }


class _Prepared(NamedTuple):
    """The settings of one daemon that are ready to be put into effect."""

    config: DaemonConfig
    changed: tuple[Change, ...]
    restart: tuple[Change, ...]
    effects: tuple[Effect, ...]


class OtherProcesses(Protocol):
    """Other processes of the daemons, which take the same settings."""

    async def check(self, cause: str, configs: Sequence[Any]) -> Others:
        """Return what `change` would do with the settings of each daemon; nothing is changed."""
        ...

    async def change(self, cause: str, configs: Sequence[Any]) -> Others:
        """Put the settings into effect; return what has been done."""
        ...


class LiveSettings(Generic[Config]):
    """The settings of a daemon, and the parts that take them. They take them at once.

    :param config: the settings at the start.
    :param parts: each takes some of them, in this order.
    :raises SettingError: if a part finds one that is wrong.
    :ivar config: what is in effect: the last values of fields that are reloadable, and the first
        ones of the others.
    :ivar replaced: fields that are not reloadable, but take effect with the next processes of the
        daemon, which a reload starts.
    :ivar load: returns the settings of a reload; it may be called in a thread.
    """

    def __init__(self, config: Config, parts: Sequence[Part[Config]]) -> None:
        self.config = config
        self.replaced: frozenset[str] = frozenset()
        self.load: Callable[[], Config] = config.load_again
        self._parts = parts
        for effect in _prepare(parts, config):
            effect()

    def prepare(self) -> _Prepared:
        """Return the settings as their sources are now, ready to be put into effect.

        It may be called in a thread.

        :raises SettingError: if the sources or a part have errors.
        """
        new = self.load()
        differing = self._difference(new)
        # A part never sees the new value of a field that only a restart changes.
        kept: dict[str, Any] = {name: getattr(self.config, name) for name in differing.fixed}
        sources = {**new.sources, **{name: self.config.source_of(name) for name in kept}}
        config = replace(new, **kept, sources=sources)
        return _Prepared(
            config,
            *_changes(self.config, new, differing),
            tuple(_prepare(self._parts, config)),
        )

    def _difference(self, new: Config) -> Difference:
        reloadable, fixed = diff(self.config, new)
        replaced = tuple(name for name in fixed if name in self.replaced)
        kept = tuple(name for name in fixed if name not in self.replaced)
        return Difference(reloadable + replaced, kept)


class Reloader:
    """Reloads the settings of the daemons of this process, of all of them or of none.

    :param clock: for the time that the files may take.
    :param in_thread: where files are read.
    :param settings: of each daemon.
    :ivar settings: likewise.
    :ivar others: the other processes of the daemons; ``None`` if there are none.
    :ivar reports: whether results are logged.
    """

    _log = Logger()

    def __init__(
        self, clock: IReactorTime, in_thread: InThread, *settings: LiveSettings[Any]
    ) -> None:
        self.settings = settings
        self.others: OtherProcesses | None = None
        self.reports = True
        self._clock = clock
        self._in_thread = in_thread
        self._lock = DeferredLock()

    def reload(self, cause: str, dry_run: bool = False) -> Deferred[Result]:
        """Read the settings again, and put into effect those that are reloadable.

        Reloads happen one after the other, and at most `WAITING` wait. With an error in any source,
        nothing changes.

        :param cause: why, for the log.
        :param dry_run: whether only to return what a reload would do.
        :return: fires with the result; it does not fail.
        """
        if len(self._lock.waiting) >= WAITING:
            return succeed(Result(errors=("too many reloads wait for one that has not ended",)))
        return self._lock.run(lambda: Deferred.fromCoroutine(self._reload(cause, dry_run)))

    async def _reload(self, cause: str, dry_run: bool) -> Result:
        prepared: list[_Prepared] = []
        errors: list[str] = []
        for one in self.settings:
            try:
                preparing = self._in_thread(one.prepare)
                prepared.append(await preparing.addTimeout(TIMEOUT, self._clock))
            except TooSlow:
                errors.append(f"the files of the settings were not read within {TIMEOUT:g} s")
            except SettingError as error:
                errors += error.messages
            except Exception:
                self._log.failure("cannot reload the settings")
                errors.append(UNEXPECTED)
        configs = [one.config for one in prepared]
        others = Others()
        if self.others is not None and not errors:
            others = await self.others.check(cause, configs)
            if not dry_run and not others.errors:
                others = await self.others.change(cause, configs)
            errors += others.errors
        if errors:
            # Both daemons of a process may report the same file.
            result = Result(errors=tuple(dict.fromkeys(errors)))
        else:
            result = Result(
                tuple(change for one in prepared for change in one.changed),
                tuple(change for one in prepared for change in one.restart),
                tuple(others.replaced),
            )
        if not dry_run:
            # At the lower one of both levels of the log, if the level changes.
            lowered = any(map(_lowers_level, result.changed))
            if not lowered:
                self._report(cause, result)
            if not errors:
                for settings, ready in zip(self.settings, prepared, strict=True):
                    settings.config = ready.config
                    self._apply(ready.effects)
            if lowered:
                self._report(cause, result)
        return result

    def _apply(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            try:
                effect()
            except Exception:
                self._log.failure("cannot put a setting into effect")

    def _report(self, cause: str, result: Result) -> None:
        if not self.reports:
            return
        if result.errors:
            self._log.error(
                "{cause}: the settings are not reloaded, nothing has changed: {errors}",
                cause=cause,
                errors="; ".join(result.errors),
            )
            return
        self._log.info(
            "{cause}: the settings are reloaded: {changed}",
            cause=cause,
            changed="; ".join(one.text for one in result.changed) or "no value has changed",
        )
        if result.restart:
            self._log.warn(
                "{cause}: these settings change only when the daemon starts again: {restart}",
                cause=cause,
                restart="; ".join(one.text for one in result.restart),
            )


def _lowers_level(change: Change) -> bool:
    if not change.setting.endswith(".log-level"):
        return False
    # The names are in the order of what they show: errors only, up to everything.
    return LEVELS.index(str(change.new)) > LEVELS.index(str(change.old))


def _prepare(parts: Sequence[Part[Config]], config: Config) -> list[Effect]:
    """Return the effects of all parts.

    :raises SettingError: with the messages of all parts that have failed.
    """
    effects: list[Effect] = []
    errors: list[str] = []
    for prepare in parts:
        try:
            effects.append(prepare(config))
        except SettingError as error:
            errors += error.messages
    if errors:
        raise SettingError(*errors)
    return effects


def diff(old: Config, new: Config) -> Difference:
    """Return which fields of two configs of one daemon differ."""
    changed = [
        one for one in fields_of(type(old)) if getattr(old, one.name) != getattr(new, one.name)
    ]
    return Difference(
        tuple(one.name for one in changed if one.metadata["reloadable"]),
        tuple(one.name for one in changed if not one.metadata["reloadable"]),
    )


def _changes(
    old: DaemonConfig, new: DaemonConfig, differing: Difference
) -> tuple[tuple[Change, ...], tuple[Change, ...]]:
    """Return the changes of the reloadable fields, and those of the others."""
    settings = {one.field: one for one in settings_of(type(old))}

    def change(name: str) -> Change:
        setting, source = settings[name], new.source_of(name)
        before, after = (
            None if value is None else setting.rule.plain(value)
            for value in (getattr(old, name), getattr(new, name))
        )
        key = f"{new.table}.{setting.key}"
        shown = [shortened(to_toml(value)) for value in (before, after)]
        return Change(key, before, after, str(source), f"{key} from {shown[0]} to {shown[1]}")

    return (
        tuple(map(change, differing.reloadable)),
        tuple(map(change, differing.fixed)),
    )
