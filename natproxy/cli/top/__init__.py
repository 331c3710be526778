"""``natproxy top``: the commands in flight, live in a terminal."""
