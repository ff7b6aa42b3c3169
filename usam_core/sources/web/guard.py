"""What a fetch may do: the caps of a class, the pace of a host, and public addresses only.

An address is checked where the connection is made, after the name was resolved: neither a
redirect, nor another spelling of an address, nor a name server that answers differently the
second time gets around it.
"""

import errno
import ipaddress
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from usam_core.errors import without_secrets

Permit = Callable[[str], None]
"""Looks at an address before each request to it; raises `FetchFailed` to forbid it."""


class FetchFailed(Exception):
    """An address gave nothing of use; code and reason as in `Rejected`.

    Args:
        again: another try may go better.
        wait: seconds that the server asked to wait before it.
        lost: it looks as if this machine, not the other one, had no network.
    """

    def __init__(
        self,
        code: str,
        reason: str,
        *,
        again: bool = False,
        wait: float | None = None,
        lost: bool = False,
    ) -> None:
        self.code, self.reason = code, without_secrets(reason)
        super().__init__(self.reason)
        self.again, self.wait, self.lost = again, wait, lost

    @property
    def settled(self) -> bool:
        """Whether a page that failed so stays as it is: asked tomorrow, it would fail again."""
        return not self.again and self.code not in ("timeout", "tls", "private_address")


class CapReached(Exception):
    """The class has used up its time or its bytes; what is left may be fetched later."""


class Budget:
    """Seconds and received bytes that one class may use, less those used; shared by its threads.

    `left`, `sleep` and `spend` raise `CapReached` when either is used up. `answered` says whether
    any server has said anything.
    """

    def __init__(self, seconds: float, max_bytes: int, used: tuple[float, int] = (0.0, 0)) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds - used[0]
        self._max_bytes = max_bytes
        self._received = used[1]
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self.answered = False

    @property
    def used(self) -> tuple[float, int]:
        """Seconds and bytes used so far."""
        return self._seconds - (self._end - time.monotonic()), self._received

    def left(self) -> float:
        """Seconds left."""
        left = self._end - time.monotonic()
        if self._stopped.is_set():
            raise CapReached("the crawl was stopped")
        if left <= 0:
            raise CapReached(f"{self._seconds / 60:g} minutes (training.web.max_minutes) are over")
        self.spend(0)
        return left

    def sleep(self, seconds: float) -> None:
        """Wait, but not for what would come after the end."""
        self._stopped.wait(min(seconds, self.left()))
        self.left()

    def spend(self, count: int) -> None:
        """Count bytes that came."""
        with self._lock:
            self._received += count
            if self._received > self._max_bytes:
                raise CapReached(
                    f"{self._max_bytes / 1e6:g} MB (training.web.max_total_mb) have been fetched"
                )

    def stop(self) -> None:
        """End what waits or is about to begin in other threads."""
        self._stopped.set()


class Pace:
    """Allows so many requests a second to one host, whatever the number of threads."""

    def __init__(self, per_second: float) -> None:
        self._interval = 1 / per_second
        self._free: dict[str, float] = {}
        self._intervals: dict[str, float] = {}
        self._lock = threading.Lock()

    def wait(self, host: str, budget: Budget) -> None:
        """Wait for this thread's turn at a host; `CapReached` if the time is over first."""
        with self._lock:
            turn = max(self._free.get(host, 0.0), time.monotonic())
            self._free[host] = turn + self._intervals.get(host, self._interval)
        if (wait := turn - time.monotonic()) > 0:
            budget.sleep(wait)

    def pause(self, host: str, seconds: float) -> None:
        """Ask nothing of a host for a while, because it said so."""
        with self._lock:
            self._free[host] = max(self._free.get(host, 0.0), time.monotonic() + seconds)

    def slow_down(self, host: str, interval: float) -> None:
        """Keep requests to a host at least so many seconds apart."""
        with self._lock:
            before = self._intervals.get(host, self._interval)
            # The request that asked for the interval counts too.
            self._free[host] = self._free.get(host, 0.0) + max(interval - before, 0)
            self._intervals[host] = max(before, interval)


_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_LOCAL_NAT64 = ipaddress.ip_network("64:ff9b:1::/48")
# Not public although Python's tables of some versions say nothing of them: protocol assignments,
# 6to4 relays, documentation, and the address of a cloud's host.
_MORE = [
    ipaddress.ip_network(text)
    for text in ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32", "3fff::/20")
]
# `site_local` is known of IPv6 only.
_UNFIT = ("unspecified", "loopback", "link_local", "site_local", "multicast", "reserved", "private")
_NO_NETWORK = {errno.ENETUNREACH, errno.ENETDOWN}

_here = threading.local()


def unfit(address: str) -> str | None:
    """What kind of address must not be fetched from; None for a public one.

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
    """Lets connect to public addresses, and to any of hosts allowed as `name` or `name:port`."""

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
    and then would hold a thread for ever. `expired`: the time was over before the block ended.
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
        """Seconds left, at least a few milliseconds."""
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
    """Makes a `requests` session's connections, each checked; keeps so many to a host open."""

    def __init__(self, guard: Guard, threads: int) -> None:
        self._pools = _guarded_pools(guard)
        super().__init__(pool_maxsize=threads)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pools, of our kind."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pools


def _guarded_pools(guard: Guard) -> dict[str, type[HTTPConnectionPool]]:
    class PlainConnection(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return _connect(guard, self)

        def request(self, *args: Any, **kwargs: Any) -> None:
            if self.sock is not None:  # used again
                _here.lifeline.hold(self.sock)
            super().request(*args, **kwargs)

    # Its other base is the plain one too, so that these two come before the library's own.
    class TlsConnection(PlainConnection, HTTPSConnection):
        pass

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = PlainConnection

    class TlsPool(HTTPSConnectionPool):
        ConnectionCls = TlsConnection

    return {"http": PlainPool, "https": TlsPool}


def _connect(guard: Guard, connection: HTTPConnection) -> socket.socket:
    """Return a socket connected to the first address of a host that answers."""
    lifeline: Lifeline = _here.lifeline
    host, port = connection._dns_host, connection.port
    try:
        resolved = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        lost = isinstance(error, OSError) and error.errno == socket.EAI_AGAIN
        raise FetchFailed(
            "unreachable", f"{host} cannot be found: {error}", again=True, lost=lost
        ) from error
    problem: OSError | None = None
    for family, kind, protocol, _, address in resolved:
        guard.check(host, port, str(address[0]))
        used = socket.socket(family, kind, protocol)
        try:
            for option in connection.socket_options or ():
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
