"""What an fsspec callback is told of a transfer."""

from __future__ import annotations

from typing import Any

from natproxy.client.events import Event, Phase, Progress


def teller(callback: Any) -> Progress:
    """Make of a transfer's steps the size and the value of a callback, in bytes."""

    def tell(event: Event) -> None:
        if event.phase in (Phase.RECEIVING, Phase.RESTARTING, Phase.COMPLETE):
            if event.size is not None and callback.size != event.size:
                callback.set_size(event.size)
            callback.absolute_update(event.done)

    return tell
