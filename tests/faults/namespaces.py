"""Network namespaces around a router that loses packets without a word. Linux, and root.

    with sites(2) as (here, there):
        with here.inside(), running_broker("--insecure", clients=f"tcp://{here.host}:*") as broker: ...
        there.drop()

Namespaces have no names here and last as long as somebody uses them: however a test ends, nothing of them is left, and
tests can run in parallel.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar

T = TypeVar("T")

CLONE_NEWNET: Final = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)


class Namespace:
    """A network namespace without a name."""

    def __init__(self) -> None:
        self.fd = _in_thread(_new_namespace)

    @property
    def path(self) -> str:
        """It, for other processes."""
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Sockets made by this thread, and threads and processes that it starts, are in the namespace."""
        home = _own_namespace()
        try:
            _enter(self.fd)
            try:
                yield
            finally:
                _enter(home)
        finally:
            os.close(home)

    def ip(self, *arguments: str) -> None:
        """Run `ip ARGUMENTS` inside. Raises subprocess.CalledProcessError."""
        with self.inside():
            subprocess.run(["ip", *arguments], check=True, capture_output=True)

    def close(self) -> None:
        """Let go of it."""
        os.close(self.fd)


class Site:
    """A namespace with one interface `eth0`, whose other end is at a router that can lose packets without a word."""

    def __init__(self, router: Namespace, number: int) -> None:
        self.namespace = Namespace()
        self.inside = self.namespace.inside
        self.host = f"10.0.{number}.2"
        self._router = router
        self._link = f"to{number}"
        self._gateway = f"10.0.{number}.1"
        here, there = self.namespace, router
        peer = ["peer", "name", "eth0", "netns", here.path]
        there.ip("link", "add", self._link, "type", "veth", *peer)
        there.ip("address", "add", f"{self._gateway}/24", "dev", self._link)
        there.ip("link", "set", self._link, "up")
        here.ip("address", "add", f"{self.host}/24", "dev", "eth0")
        here.ip("link", "set", "lo", "up")
        self.link_up()

    def drop(self, *, sent: bool = True, received: bool = True) -> None:
        """Packets that it sends, or that are sent to it, vanish."""
        if sent:
            # A router that forwards nothing of an interface drops it without an ICMP message.
            with self._router.inside():
                Path(f"/proc/sys/net/ipv4/conf/{self._link}/forwarding").write_text("0")
        if received:
            self._router.ip("route", "replace", "blackhole", f"{self.host}/32")

    def link_down(self) -> None:
        """Its own interface is down: its routes are gone, and the others hear nothing."""
        self.namespace.ip("link", "set", "eth0", "down")

    def link_up(self) -> None:
        """And up again."""
        self.namespace.ip("link", "set", "eth0", "up")
        self.namespace.ip("route", "replace", "default", "via", self._gateway)

    def heal(self) -> None:
        """Everything is back."""
        with self._router.inside():
            Path(f"/proc/sys/net/ipv4/conf/{self._link}/forwarding").write_text("1")
        with contextlib.suppress(subprocess.CalledProcessError):
            self._router.ip("route", "delete", "blackhole", f"{self.host}/32")
        self.link_up()


@contextlib.contextmanager
def sites(count: int) -> Iterator[list[Site]]:
    """So many sites that reach each other through one router. Raises OSError or CalledProcessError if it may not."""
    router = Namespace()
    made: list[Site] = []
    try:
        router.ip("link", "set", "lo", "up")
        with router.inside():
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        made.extend(Site(router, number) for number in range(1, count + 1))
        yield made
    finally:
        for site in made:
            site.namespace.close()
        router.close()


@functools.cache
def why_no_namespaces() -> str:
    """Why this machine has none for us; empty if it has."""
    if not hasattr(_LIBC, "setns"):
        return "the system has no network namespaces"
    if shutil.which("ip") is None:
        return "there is no `ip`: install iproute2"
    try:
        with sites(2):
            return ""
    except OSError as error:
        return f"no network namespaces may be made here (needs root): {error}"
    except subprocess.CalledProcessError as error:
        return f"no network namespaces may be joined here: {error.stderr.decode(errors='replace').strip()}"


def _new_namespace() -> int:
    if _LIBC.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return _own_namespace()


def _own_namespace() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _enter(fd: int) -> None:
    if _LIBC.setns(fd, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _in_thread(work: Callable[[], T]) -> T:
    found: list[T] = []
    problems: list[BaseException] = []

    def run() -> None:
        try:
            found.append(work())
        except OSError as error:
            problems.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if problems:
        raise problems[0]
    return found[0]
