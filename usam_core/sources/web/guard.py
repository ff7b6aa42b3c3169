"""Connections that reach public addresses only, and that end when their time is over.

The address is checked where the connection is made, after the name was resolved: neither a
redirect, nor another spelling of an address, nor a name server that answers differently the
second time gets around it.
"""

import errno
import ipaddress
import os
import socket
import threading
import time
from collections.abc import Iterable
from contextlib import suppress

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from usam_core.sources.web.limits import FetchFailed

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_LOCAL_NAT64 = ipaddress.ip_network("64:ff9b:1::/48")
# Not public although Python's tables of some versions say nothing of them: protocol assignments,
# 6to4 relays, documentation, and the address of a cloud's host.
_MORE = [
    ipaddress.ip_network(text)
    for text in ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32", "3fff::/20")
]
_UNFIT = (
    "unspecified",
    "loopback",
    "link_local",
    "site_local",  # of IPv6 only
    "multicast",
    "reserved",
    "private",
)
_NO_NETWORK = {errno.ENETUNREACH, errno.ENETDOWN}

_here = threading.local()


def unfit(address: str) -> str | None:
    """Return what kind of address must not be fetched from, or None for a public one.

    >>> unfit("10.0.0.1"), unfit("::ffff:127.0.0.1"), unfit("93.184.216.34")
    ('private', 'loopback', None)
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        # Addresses that carry an IPv4 address in them lead to that one.
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return unfit(str(inner))
        if ip in _LOCAL_NAT64:
            return "private"
    if any(ip in network for network in _MORE if network.version == ip.version):
        return "reserved"
    for kind in _UNFIT:
        if getattr(ip, f"is_{kind}", False):
            return kind.replace("_", "-")
    return None if ip.is_global else "not public"


class Guard:
    """Decides which addresses may be connected to.

    Args:
        allow_hosts: `name` or `name:port` of hosts that may have any address.
    """

    def __init__(self, allow_hosts: Iterable[str]) -> None:
        self._allowed = {host.lower() for host in allow_hosts}

    def check(self, host: str, port: int, address: str) -> None:
        """Raise `FetchFailed` unless the address that a host's name led to may be used."""
        name = host.strip("[]").rstrip(".").lower()
        kind = unfit(address)
        if kind is None or self._allowed & {name, f"{name}:{port}", f"[{name}]:{port}"}:
            return
        raise FetchFailed(
            "private_address",
            f"{name} leads to {address}, a {kind} address; only public ones are fetched from. "
            f"If it is meant, add {name}:{port} to training.web.allow_hosts",
        )


class Lifeline:
    """Cuts the sockets that this thread uses within the block when their time is over.

    A time limit of a socket counts from byte to byte, so that a server which sends one byte now
    and then would hold a thread for ever.

    Attributes:
        expired: whether the time was over before the block ended.
    """

    def __init__(self, seconds: float) -> None:
        self.expired = False
        self._end = time.monotonic() + seconds
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True

    def __enter__(self) -> "Lifeline":
        _here.lifeline = self
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        _here.lifeline = None
        with self._lock:
            for held in self._sockets:
                held.close()
            self._sockets.clear()

    def left(self) -> float:
        """Return the seconds left, at least a few milliseconds."""
        return max(self._end - time.monotonic(), 0.01)

    def hold(self, used: socket.socket) -> None:
        """Cut this socket too."""
        # A second handle of the same connection: it outlives the wrapping by TLS and the closing.
        handle = socket.socket(fileno=os.dup(used.fileno()))
        with self._lock:
            self._sockets.append(handle)
            if self.expired:
                _shut(handle)

    def _cut(self) -> None:
        with self._lock:
            self.expired = True
            for held in self._sockets:
                _shut(held)


def _shut(used: socket.socket) -> None:
    with suppress(OSError):
        used.shutdown(socket.SHUT_RDWR)


class GuardedAdapter(HTTPAdapter):
    """Makes the connections of a `requests` session, each checked by a guard.

    Args:
        guard: what decides.
        threads: how many connections to one host are kept open.
    """

    def __init__(self, guard: Guard, threads: int) -> None:
        self._pools = _guarded_pools(guard)
        super().__init__(pool_maxsize=threads)

    def init_poolmanager(self, *args: object, **kwargs: object) -> None:
        """Make the pools, of our kind."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pools


def _guarded_pools(guard: Guard) -> dict[str, type[HTTPConnectionPool]]:
    class Guarded:
        """What both kinds of connection change."""

        def _new_conn(self) -> socket.socket:
            return _connect(guard, self._dns_host, self.port, self.socket_options)

        def request(self, *args: object, **kwargs: object) -> None:
            if self.sock is not None:
                _here.lifeline.hold(self.sock)
            super().request(*args, **kwargs)

    class PlainConnection(Guarded, HTTPConnection):
        pass

    class TlsConnection(Guarded, HTTPSConnection):
        pass

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = PlainConnection

    class TlsPool(HTTPSConnectionPool):
        ConnectionCls = TlsConnection

    return {"http": PlainPool, "https": TlsPool}


def _connect(guard: Guard, host: str, port: int, options: Iterable[tuple]) -> socket.socket:
    """Return a socket connected to the first address of a host that answers."""
    lifeline: Lifeline = _here.lifeline
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        lost = isinstance(error, OSError) and error.errno == socket.EAI_AGAIN
        raise FetchFailed(
            "unreachable", f"{host} cannot be found: {error}", again=True, lost=lost
        ) from error
    problem: OSError | None = None
    for family, kind, protocol, _, address in found:
        guard.check(host, port, address[0])
        used = socket.socket(family, kind, protocol)
        try:
            for option in options or ():
                used.setsockopt(*option)
            used.settimeout(lifeline.left())
            used.connect(address)
            lifeline.hold(used)
            return used
        except OSError as error:
            used.close()
            problem = error
    raise FetchFailed(
        "unreachable",
        f"{host}:{port} cannot be reached: {problem}",
        again=True,
        lost=problem is not None and problem.errno in _NO_NETWORK,
    )
