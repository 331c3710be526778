"""The schema of a segment: a plain SQLite file with the translations of one worker and boot.

``sqlite3 SEGMENT 'select * from translations'`` shows them to people. Times are microseconds since
the epoch (UTC) in the tables, and ISO 8601 texts in the view.

A segment is *live* while the daemon appends to it: in WAL mode, without an index. Then it is
*sealed*: it has its index, the journal mode DELETE, and never changes again, except by ``natproxy
journal erase``. A translation that is still open when its segment is sealed moves to the next one,
so that a sealed segment has only translations that ended, or whose end is lost.
"""

from __future__ import annotations

VERSION = 1
"""Version of the schema: ``pragma user_version``. A reader refuses a newer one, and names it."""

SUFFIX = ".segment"
"""``STARTED-wWORKER-BOOT.segment``: the file name sorts by the time at which it was created."""

ISO = "strftime('%Y-%m-%dT%H:%M:%S', {0} / 1000000, 'unixepoch') || printf('.%06dZ', {0} % 1000000)"

TABLES = f"""
create table meta (
    key text primary key,
    value
) without rowid;
-- proxy, worker, boot: the origin of every row
-- boot_started: when the daemon started
-- opened: from when on the segment is complete
-- complete_to: until when it is complete; renewed with each flush, and every 10 s when idle
-- sealed: when it was sealed; absent while it is live
-- stopped: when the daemon stopped in order; absent if it did not, or if a segment follows

create table hosts (
    id integer primary key,
    host text not null unique
);

create table entries (
    serial integer primary key,
    seq integer not null,        -- of registered, or of failed
    relaying_seq integer,
    removed_seq integer,
    command integer,             -- null: the serial
    attempt integer,             -- null: 1
    started integer not null,
    relaying integer,            -- microseconds after started
    ended integer,               -- null: open, or lost
    client integer not null references hosts,
    client_port integer not null,
    identity text,
    nat integer references hosts,       -- null for a failed command
    nat_port integer,
    upstream integer references hosts,
    upstream_port integer,
    verb text not null,
    name text not null,          -- percent-encoded
    promised integer,
    bytes integer not null,
    outcome text,                -- null: open; 'lost': the daemon was killed
    reason text,
    duration integer             -- microseconds since the start of the command
);

create table actions (           -- of administrators: kill, drain
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
    until integer,               -- null: not known yet
    first_seq integer,
    last_seq integer,
    cause text not null          -- 'killed', 'disk', 'overrun', 'off', 'erased'
);

create table steps (             -- of the wall clock
    time integer not null,       -- by the clock after the step
    step integer not null        -- microseconds; negative: back
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

INDEX = "create index by_port on entries (nat_port, ended)"
"""Made when a segment is sealed."""
