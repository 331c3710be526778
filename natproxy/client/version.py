"""The version of the protocol that a server speaks, determined without I/O."""

from __future__ import annotations

import enum
import re
from typing import Any, NamedTuple, TypeVar

from natproxy.client.errors import (
    ClientError,
    ClosedWithoutReply,
    ConnectionBroken,
    NotUnderstood,
    NoUpstreamReply,
    ServerError,
    Unavailable,
    Unsupported,
)
from natproxy.client.requests import Probe, Request, Steps
from natproxy.protocol import END, MAX_LINE, Header, is_missing_tls, printable

LONGEST_FEAT = 1 << 20
"""Bytes that the reply to ``FEAT`` may have."""

DOUBTS = 2
"""Consecutive commands of version 2 on which a peer closes the connection, although it
replies to ``LIST``, before it is taken for one of version 1."""

FIRST_CUTTING_VIA = (2, 1)
"""The first version of natproxy's protocol whose proxies cut ``FEAT`` to what they can frame."""

_VIA = r"natproxy/([0-9]{1,4})\.([0-9]{1,4})"

T = TypeVar("T")


class Features(NamedTuple):
    """What a server supports, parsed from its reply to ``FEAT``.

    :ivar version: of the protocol: 1 or 2.
    :ivar verbs: of version 2 and newer, each with the keys of its arguments.
    :ivar via: names of the proxies in between that have reduced the list to what they can
        frame; a proxy that relays ``FEAT`` unparsed is not in it.
    """

    version: int
    verbs: dict[bytes, frozenset[bytes]]
    via: tuple[str, ...] = ()

    def frames(self, word: bytes) -> bool:
        """Return whether the server, and each proxy in between, supports a verb.

        A proxy that relays ``FEAT`` unparsed is not known to: see `Negotiation.carry_out`.

        :param word: a verb of version 2, or a newer one.
        """
        return word in self.verbs and all(map(_cuts_verbs, self.via))


VERSION_1 = Features(1, {})


def _cuts_verbs(via: str) -> bool:
    """Return whether a proxy announces only the verbs whose replies it can frame."""
    version = re.fullmatch(_VIA, via)
    return version is not None and (int(version[1]), int(version[2])) >= FIRST_CUTTING_VIA


def parse_features(listing: bytes) -> Features:
    """Parse the body of a reply to ``FEAT``; unknown lines are ignored."""
    first, *lines = listing.split(b"\n")
    if first.split()[:2] != [b"NATPROXY", b"2"]:
        return VERSION_1
    verbs = {}
    via = []
    for line in lines:
        words = line.split()
        if words[:1] == [b"VIA"]:
            via += [printable(word, 80) for word in words[1:2]]
        elif words and words != [END]:
            verbs[words[0]] = frozenset(words[1:])
    return Features(2, verbs, tuple(via))


class Feat(Request[Features]):
    """``FEAT``: what the server supports; satisfied when the reply is none of version 2."""

    word = b"FEAT"
    bounded = True

    def feed(self, data: bytes) -> None:
        """Take a piece of the body.

        :raises NotUnderstood: if the body exceeds `LONGEST_FEAT`.
        """
        self._body += data
        first, complete, _ = bytes(self._body[: MAX_LINE + 1]).partition(b"\n")
        if complete:
            self.satisfied = parse_features(first).version == 1
        else:
            self.satisfied = len(first) > MAX_LINE
        if not self.satisfied and len(self._body) > LONGEST_FEAT:
            raise NotUnderstood(f"a reply to FEAT of more than {LONGEST_FEAT} bytes")

    def parse(self, header: Header, body: bytes) -> Features:
        """Return the features."""
        return VERSION_1 if self.satisfied else parse_features(body)


class State(enum.Enum):
    """How far a server's version has been determined."""

    UNKNOWN = "the version has not been determined"
    ANNOUNCED = "FEAT announced version 2; a proxy of version 1 may have relayed it"
    CONFIRMED = "a reply of version 2 with words in its header has been received"
    VERSION_1 = "the server, or a proxy before it, speaks version 1 only"


class Negotiation:
    """Determines the version of one server, once, and falls back to version 1.

    The transitions: ``UNKNOWN`` becomes ``ANNOUNCED`` or ``VERSION_1`` by `probe`;
    ``ANNOUNCED`` becomes ``CONFIRMED`` by a reply of version 2 in `carry_out`, or
    ``VERSION_1`` by `DOUBTS`. ``CONFIRMED`` and ``VERSION_1`` are final.

    An optional verb (`Request.optional`) is withdrawn, for the session, when its first use shows
    that the server or a proxy does not support it, whatever ``FEAT`` announced.

    :param server: its name in messages.
    :ivar features: what the server supports; ``None`` in the state ``UNKNOWN``.
    """

    def __init__(self, server: object) -> None:
        self._server = server
        self.state = State.UNKNOWN
        self.features: Features | None = None
        self._proven: set[bytes] = set()
        self._withdrawn: set[bytes] = set()

    def record(self, features: Features) -> None:
        """Enter the state that follows from a reply to ``FEAT``."""
        self.features = features
        self.state = State.VERSION_1 if features.version == 1 else State.ANNOUNCED

    def require_version_2(self, purpose: str) -> None:
        """Check that the server is not known to be one of version 1.

        :param purpose: the end of the message "… it cannot", such as "compute digests".
        :raises Unsupported: if it is.
        """
        if self.state is State.VERSION_1:
            raise self._unsupported(purpose)

    def offers(self, word: bytes) -> bool:
        """Return whether an optional verb may be used, as far as is known."""
        return (
            self.features is not None and self.features.frames(word) and word not in self._withdrawn
        )

    def require(self, request: Request[Any]) -> None:
        """Check that an optional verb may be used.

        :raises Unsupported: if it may not.
        """
        if not self.offers(request.word):
            raise self._lacks(request)

    def proved(self, request: Request[Any]) -> None:
        """Note that a reply to an optional verb was understood."""
        self._proven.add(request.word)

    def judge(self, request: Request[Any], error: ClientError) -> ClientError:
        """Return the error of a request whose verb is optional, as the caller should raise it.

        A reply that is not understood withdraws the verb. Before the first one that is, so does a
        reply that is cut off or missing: an old proxy may have relayed ``FEAT``, and not this.

        :return: `Unsupported` if the verb is withdrawn; otherwise ``error``.
        """
        proven = request.word in self._proven
        if not isinstance(error, (NotUnderstood, Unsupported)) and (
            proven or not isinstance(error, (ConnectionBroken, NoUpstreamReply))
        ):
            return error
        self._withdrawn.add(request.word)
        return self._lacks(request)

    def probe(self) -> Steps[Features]:
        """Send ``FEAT`` and enter the state that follows; return the features.

        Version 1 follows from ``ERR unknown command``, from any other reply that is none of
        version 2, and from `DOUBTS`.

        :raises ClientError: for any other failure, silence too: the version remains unknown.
        """
        features = VERSION_1
        for _ in range(DOUBTS):
            request = Feat()
            try:
                features = yield request
                break
            except NotUnderstood:
                if request.header is not None:
                    raise
                break
            except ClientError as error:
                if _is_refusal_of_version_1(error):
                    break
                if not _is_doubtful(error) or not (yield from _replies_to_list()):
                    raise
        self.record(features)
        return features

    def carry_out(self, request: Request[T]) -> Steps[T]:
        """Carry out a request whose verb the server is believed to support.

        A proxy of version 1 before a server of version 2 may relay the listing that replies
        to ``FEAT``, and close the connection on a header of version 2.

        :raises Unsupported: if the server proves to be one of version 1, or if an optional verb
            is not supported.
        """
        if request.optional:
            return (yield from self._carry_out_optional(request))
        if not request.purpose:
            result: T = yield request
            return result
        for _ in range(DOUBTS):
            try:
                result = yield request
            except ClientError as error:
                via = self.features.via if self.features is not None else ()
                if self._confirmed or not _is_doubtful(error, via):
                    raise
                # Meanwhile, another thread may receive a reply of version 2.
                if not (yield from _replies_to_list()) or self._confirmed:
                    raise
            else:
                # The header of a page may have no words, and pass a proxy of version 1.
                if self.state is State.ANNOUNCED and request.header and request.header.words:
                    self.state = State.CONFIRMED
                return result
        self.record(VERSION_1)
        raise self._unsupported(request.purpose)

    def _carry_out_optional(self, request: Request[T]) -> Steps[T]:
        self.require(request)
        try:
            result: T = yield request
        except ClientError as error:
            judged = self.judge(request, error)
            if judged is error:
                raise
            raise judged from error
        self.proved(request)
        return result

    @property
    def _confirmed(self) -> bool:
        return self.state is State.CONFIRMED

    def _unsupported(self, purpose: str) -> Unsupported:
        return Unsupported(
            f"{self._server} speaks version 1 of the protocol only: it cannot {purpose}"
        )

    def _lacks(self, request: Request[Any]) -> Unsupported:
        verb = request.word.decode("ascii")
        return Unsupported(
            f"{self._server}, or a proxy before it, has no {verb}: it cannot {request.purpose}"
        )


def _replies_to_list() -> Steps[bool]:
    """Return whether the peer, and the server behind it, reply to a command of version 1."""
    try:
        yield Probe()
    except ClientError:
        return False
    return True


def _is_refusal_of_version_1(error: ClientError) -> bool:
    """Return whether an error reply to ``FEAT`` is that of a server of version 1.

    An error with a code, any error that the proxy reports, and that of a port with TLS do not
    depend on the version.
    """
    return (
        isinstance(error, ServerError)
        and error.code is None
        and not isinstance(error, Unavailable)
        and not is_missing_tls(str(error))
    )


def _is_doubtful(error: ClientError, via: tuple[str, ...] = ()) -> bool:
    """Return whether a peer that cannot parse a command of version 2 fails in this way.

    Such a peer closes the connection. So does one that is restarted: only a reply to ``LIST``
    afterwards, and a second failure, distinguish the two. See `DOUBTS`.

    :param via: proxies of version 2 in between, which parse replies of version 2: a failure
        that they report is the server's.
    """
    return isinstance(error, ClosedWithoutReply) or (isinstance(error, NoUpstreamReply) and not via)
