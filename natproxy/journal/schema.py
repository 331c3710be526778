"""The schema of a segment: a plain SQLite file with the translations of one worker and boot.

``sqlite3 SEGMENT 'select * from translations'`` shows them to people. Times are microseconds since
the epoch (UTC) in the tables, and ISO 8601 texts in the view.

A segment is *live* while the daemon appends to it: in WAL mode, without an index. Then it is
*sealed*: it has its index, the journal mode DELETE, and never changes again, except by ``natproxy
journal erase``. A translation that is still open when its segment is sealed moves to the next one,
so that a sealed segment has only translations that ended, or whose end is lost. It is in both
for a moment: readers keep one entry of a worker, boot and serial, preferring the one that ended.

Within a worker and boot, a segment begins (``opened``) where the one before it ends
(``complete_to``). The catalogue lists the sealed segments; a segment that it does not list is
opened in the normal way, and one that it lists may be opened ``immutable=1``.
"""

from __future__ import annotations

VERSION = 1
"""Version of the schema: ``pragma user_version``. A reader refuses a newer one, and names it."""

CATALOGUE_VERSION = 2
"""Version of the catalogue; one of another version is rebuilt from the segments."""

CATALOGUE_FILE = "catalogue.sqlite"

LOCK_FILE = "lock"
"""Locked (``flock``) by the daemon that writes the directory: by its process, or by the master.

It contains the time at which a run of the daemon started, until that has written a segment;
``lock.wWORKER`` has that of another worker than 0. ``wWORKER-BOOT.lock`` is locked by a worker
while it runs.
"""

ISO = "strftime('%Y-%m-%dT%H:%M:%S', {0} / 1000000, 'unixepoch') || printf('.%06dZ', {0} % 1000000)"

TABLES = f"""
create table meta (
    key text primary key,
    value
) without rowid;
-- proxy, worker, boot: the origin of every row
-- part: number of the segment in its worker and boot, from 1
-- boot_started: when the daemon started
-- former: file name of the worker's newest segment before; absent if there was none
-- beside: boots of other processes with the worker's number that ran when this one started,
--     separated by spaces; absent if there were none
-- opened: from when on the segment is complete
-- complete_to: until when it is complete: every translation that was registered before, and the
--     end of every one that ended before, is in the file, but for those in gaps. Renewed with
--     each flush, and every 10 s when idle. It is lowered when the wall clock is set back.
-- last_seq: number of the last event that is in it, or in a segment before it; absent if it has
--     none since it was opened
-- sealed: when it was sealed; absent while it is live
-- stopped: when the daemon stopped in order; absent if it did not, or if a segment follows

create table hosts (
    id integer primary key,
    host text not null unique
);

create table entries (
    serial integer primary key,
    seq integer,                 -- of registered, or of failed; null: that event is in a gap
    relaying_seq integer,
    removed_seq integer,
    command integer,             -- null: the serial
    attempt integer,             -- null: 1
    started integer not null,
    relaying integer,            -- microseconds after started
    ended integer,               -- null: open, or lost; before started if the clock was set back
    client integer not null references hosts,
    client_port integer not null,
    identity text,
    nat integer references hosts,       -- null for a failed command
    nat_port integer,
    upstream integer references hosts,
    upstream_port integer,
    verb text not null,
    name text not null,          -- percent-encoded; of several files: see records/packed.py
    promised integer,
    bytes integer not null,
    outcome text,                -- null: open; 'lost': the end is in a gap of this segment
    reason text,
    duration integer             -- microseconds since the start of the command
);

create table actions (           -- of administrators: kill, drain, reload
    seq integer primary key,
    event text not null,
    time integer not null,
    serial integer,
    uid integer,
    pid integer,
    reason text
);

create table gaps (              -- times and events of which the journal is not complete
    since integer,
    until integer,               -- null: until the next segment of this worker is opened
    first_seq integer,           -- null: not known
    last_seq integer,
    cause text not null          -- see CAUSES
);
-- The cause 'ended' is that of a daemon which was killed, and of which every event is recorded. The
-- time is complete: only of what was open it is not known when in this time it ended.
-- A translation with the outcome 'lost' held its port until the beginning of the first gap
-- ('killed', 'ended', 'disk', 'overrun') that ends after it was registered. Whether it held it
-- longer, at most until the end of the last such gap, is not known: it may have outlasted all but
-- that one.
-- If there are steps, only that it was registered is certain, and that it ended before the next
-- run of the daemon.

create table steps (             -- of the wall clock, by more than 0.1 s
    time integer not null,       -- by the clock after the step
    step integer not null,       -- microseconds; negative: back, so that times occur twice
    elapsed integer not null     -- microseconds since the clock was read before: it was in them
);

create view translations as
select
    (select value from meta where key = 'proxy') as proxy,
    (select value from meta where key = 'worker') as worker,
    (select value from meta where key = 'boot') as boot,
    e.seq,
    e.serial,
    coalesce(e.command, e.serial) as command,
    coalesce(e.attempt, 1) as attempt,
    {ISO.format("e.started")} as started,
    {ISO.format("e.ended")} as ended,
    c.host as client,
    e.client_port,
    e.identity,
    n.host as nat,
    e.nat_port,
    u.host as upstream,
    e.upstream_port,
    e.verb,
    e.name,
    e.promised,
    e.bytes,
    case
        when e.outcome = 'lost' then 'lost'
        when e.nat_port is null then 'failed'
        when e.outcome is not null then 'removed'
        when e.relaying is not null then 'relaying'
        else 'registered'
    end as state,
    e.outcome,
    e.reason,
    e.duration / 1e6 as duration
from entries e
join hosts c on c.id = e.client
left join hosts n on n.id = e.nat
left join hosts u on u.id = e.upstream;
"""  # noqa: S608  # constants only

INDEX = "create index if not exists by_port on entries (nat_port, ended)"
"""Made when a segment is sealed."""

CAUSES = {
    "killed": "the daemon was killed",
    "ended": "the daemon was killed",
    "disk": "the journal could not be written",
    "overrun": "the journal was too slow",
    "off": "the daemon ran without a journal",
    "unreadable": "a segment could not be read",
    "deleted": "the journal does not reach back so far",
    "unwritten": "the daemon ran, and could not write its journal",
    "erased": "entries were erased",
    "unshipped": "segments were deleted or damaged before they were shipped",
}
"""Causes of gaps, and the phrases for people."""

CATALOGUE = """
create table if not exists segments (
    file text primary key,
    proxy text not null,
    worker integer not null,
    boot text not null,
    part integer not null,
    boot_started integer not null,
    opened integer not null,
    complete_to integer not null,
    stopped integer,
    sealed integer not null,
    min_started integer,         -- the earliest time in an entry; null: it has no entries
    max_ended integer,           -- the latest one
    rows integer not null,
    bytes integer not null,
    former text,
    beside text
);
create table if not exists gaps (
    file text not null, since integer, until integer, first_seq integer, last_seq integer,
    cause text not null
);
create table if not exists steps (
    file text not null, time integer not null, step integer not null, elapsed integer not null
);
"""
"""The sealed segments, their gaps and steps: copied from them, and rebuilt from them."""
