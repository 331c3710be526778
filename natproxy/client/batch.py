"""Several files, fetched a few at a time; one that fails leaves the others alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from natproxy.client.errors import ClientError, Interrupted
from natproxy.client.events import Progress, unobserved
from natproxy.client.retrying import Outage, Stop
from natproxy.client.session import Session
from natproxy.client.together import run_together
from natproxy.client.transfer import Fetched, How, Transfer, Wanted


def fetch_all(
    session: Session,
    wanted: Sequence[Wanted],
    how: How,
    jobs: int = 1,
    progress: Progress = unobserved,
) -> list[Fetched | ClientError]:
    """Fetch files.

    :param jobs: files that are fetched at the same time.
    :return: how each of them ended, in order.
    :raises KeyboardInterrupt: when it comes; what has been received is kept.
    """
    stop = Stop()
    outage = Outage()

    def fetch(one: Wanted) -> Fetched | ClientError:
        try:
            return Transfer(session, one, how, progress, stop, outage).run()
        except Interrupted:
            raise
        except ClientError as error:
            return error

    steps = [partial(fetch, one) for one in wanted]
    return run_together(steps, jobs, stop, session.interrupt)
