-- The journal of a fleet. Times are microseconds since the epoch, in UTC; the view translations
-- shows them to people.

create table proxies (
    id integer generated always as identity primary key,
    name text not null unique,
    host text not null,               -- where the shipper runs
    directory text not null,          -- of the journal there
    version text not null,            -- of natproxy there
    addresses text[] not null default '{}',  -- of the proxy, to its upstreams
    heartbeat bigint not null,        -- of the shipper
    -- Until when it is known which runs there were: a proxy that has stopped held no port since.
    checked bigint not null,
    revision bigint not null default 0,      -- counted up by each transaction of a shipper
    shipped bigint not null default 0,       -- rows
    refused bigint not null default 0,
    retired boolean not null default false   -- true: it is no longer waited for
);

create table workers (
    proxy integer not null references proxies,
    worker integer not null,
    complete_to bigint not null,      -- everything until then is here, but for gaps
    primary key (proxy, worker)
);

create table runs (
    id integer generated always as identity primary key,
    proxy integer not null references proxies,
    worker integer not null,
    boot text not null,
    unique (proxy, worker, boot)
);

create table segments (               -- what was taken, and what the journal said of it
    run integer not null references runs,
    part integer not null,
    file text not null,
    boot_started bigint not null,
    opened bigint not null,
    complete_to bigint not null,
    sealed bigint,
    stopped bigint,
    former text,
    beside text,                      -- boots, separated by spaces
    gaps jsonb not null,
    steps jsonb not null,
    last_serial bigint not null,      -- rows up to this one were taken
    done boolean not null,            -- nothing of it is left
    primary key (run, part)
);

create table gaps (                   -- times of which the record of a proxy is not complete
    proxy integer not null references proxies,
    first bigint not null,            -- both ends are included
    last bigint not null,
    doubled boolean not null,         -- true: the clock showed these times twice
    cause text not null
);
create index on gaps (last);
create index on gaps (proxy);

create table routes (                 -- a port is held once at a time for each of them
    id integer generated always as identity primary key,
    proxy integer not null references proxies,
    nat text,
    upstream text,
    upstream_port bigint
);
create unique index on routes
    (proxy, coalesce(nat, ''), coalesce(upstream, ''), coalesce(upstream_port, -1));

create table entries (                -- what has ended
    started bigint not null,
    ended bigint not null,
    serial bigint not null,
    seq bigint,
    command bigint,
    attempt bigint,
    relaying bigint,
    nat_port bigint,
    client_port bigint not null,
    promised bigint,
    bytes bigint not null,
    duration bigint,
    run integer not null,
    route integer not null,
    client text not null,
    identity text,
    verb text not null,
    name text not null,
    outcome text,
    reason text
) partition by range (ended);
create index on entries (nat_port, route, ended);
create index on entries using brin (started) with (pages_per_range = 32);

create table days (                   -- the partitions of entries
    day integer primary key,          -- since the epoch
    earliest bigint not null          -- when the first of its entries started
);

create table unended (                -- what is open, and what has a lost end
    like entries,
    part integer not null,            -- of the segment it was in last
    -- How long it held its port; null: until the worker's complete_to, at least.
    certain bigint,
    possible bigint,
    since bigint,                     -- the gap between the two
    until bigint,
    cause text,
    primary key (run, serial)
);
alter table unended drop column ended;
create index on unended (nat_port);

create table refused (                -- entries that PostgreSQL did not take
    id bigint generated always as identity primary key,
    run integer not null references runs,
    first bigint not null,            -- of its time, which is a gap
    last bigint not null,
    refused bigint not null,
    reason text not null,
    entry text not null               -- as Python writes it
);

create table retention (
    since bigint not null             -- what ended before was deleted
);
insert into retention values (-4611686018427387904);

create view translations as
select
    p.name as proxy, r.worker, r.boot, e.seq, e.serial,
    coalesce(e.command, e.serial) as command,
    coalesce(e.attempt, 1) as attempt,
    to_timestamp(e.started / 1e6) as started,
    to_timestamp(e.ended / 1e6) as ended,
    e.client, e.client_port, e.identity, t.nat, e.nat_port, t.upstream, t.upstream_port,
    e.verb, e.name, e.promised, e.bytes,
    case when e.nat_port is null then 'failed' else 'removed' end as state,
    e.outcome, e.reason, e.duration / 1e6 as duration
from entries e
join runs r on r.id = e.run
join proxies p on p.id = r.proxy
join routes t on t.id = e.route
union all
select
    p.name, r.worker, r.boot, e.seq, e.serial,
    coalesce(e.command, e.serial),
    coalesce(e.attempt, 1),
    to_timestamp(e.started / 1e6),
    null,
    e.client, e.client_port, e.identity, t.nat, e.nat_port, t.upstream, t.upstream_port,
    e.verb, e.name, e.promised, e.bytes,
    case
        when e.outcome is not null then 'lost'
        when e.relaying is not null then 'relaying'
        else 'registered'
    end,
    e.outcome, e.reason, e.duration / 1e6
from unended e
join runs r on r.id = e.run
join proxies p on p.id = r.proxy
join routes t on t.id = e.route;
