"""natproxy measured side by side with other proxies and file servers, on loopback.

``python -m benchmarks`` starts every peer that it finds, lets them take turns, and writes
a table, a JSON file and a chart. From the ground up:

- `benchmarks.daemons`: small programs that run as processes of their own: the origin that
  everybody relays from, and the peers that are a few lines of Python.
- `benchmarks.load`: the clients, in processes of their own.
- `benchmarks.peers`: how each peer is configured and started.
- `benchmarks.trees`: the small files that are copied, and the places that they are copied to.
- `benchmarks.works`: what is measured.
- `benchmarks.session` puts these together; `benchmarks.report` and `benchmarks.chart` say
  what came of it.

natproxy itself is driven through its command line only.
"""
