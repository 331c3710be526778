-- What has ended since a moment is read again and again by natproxy top.

create index on entries using brin (ended) with (pages_per_range = 32, autosummarize = on);
