"""Listening sockets: bound here, or handed over open, so that a restart refuses nobody."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass

from app.settings import is_loopback

BACKLOG = 2048
_FIRST_HANDED_OVER = 3  # sd_listen_fds(3)
_SO_ATTACH_FILTER = 26  # <asm-generic/socket.h>; Python has no name for it
# Berkeley packet filter, run on each segment that arrives at the socket, from the TCP header on:
_REFUSE_SYN = (
    (0x30, 0, 0, 13),  # load the byte of the flags
    (0x45, 0, 1, 0x02),  # SYN? else skip one
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, 0xFFFFFFFF),  # keep
)


@dataclass(frozen=True)
class Listener:
    """`is_ours`: bound here, so nobody will accept what waits in it once this service has ended."""

    sockets: tuple[socket.socket, ...]
    is_ours: bool

    def addresses(self) -> list[str]:
        """As in URLs: `http://127.0.0.1:8000`, or `unix:/run/zoo.sock`."""
        return [_address(one) for one in self.sockets]

    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        return all(one.family == socket.AF_UNIX or is_loopback(one.getsockname()[0]) for one in self.sockets)

    def refuse_new(self) -> None:
        """Connections under way are still established and can be accepted; further ones are not begun.

        Between the last `accept` and `close` a connection could else be established and reset. A client whose SYN is
        dropped sends it again, and is then refused, or answered by the next server on the port.
        """
        program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in _REFUSE_SYN))
        filter_ = struct.pack("HL", len(_REFUSE_SYN), ctypes.addressof(program))
        for one in self.sockets:
            if one.family in (socket.AF_INET, socket.AF_INET6):
                with suppress(OSError):  # a system without packet filters: a few may be reset
                    one.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter_)

    def close(self) -> None:
        for one in self.sockets:
            one.close()


def bind(host: str, port: int) -> Listener:
    """On every address of the host. Raises OSError where one is taken or none is this machine's."""
    sockets: list[socket.socket] = []
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, name in dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found):
        if sockets:  # port 0: the one that the system has chosen for the first
            port = sockets[0].getsockname()[1]
        try:
            sockets.append(socket.create_server((name, port), family=family, backlog=BACKLOG))
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL or not sockets:  # localhost is ::1 too, where there is no IPv6
                raise
    return Listener(tuple(sockets), is_ours=True)


def handed_over(fd: int | None) -> Listener | None:
    """The socket that `fd` names, or those of systemd's socket activation, or None where there are none.

    Raises OSError for what is no listening stream socket.
    """
    fds = [fd] if fd is not None else _activated()
    if not fds:
        return None
    sockets = [socket.socket(fileno=number) for number in fds]
    for one in sockets:
        if one.type != socket.SOCK_STREAM or not one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise OSError(errno.EINVAL, f"file descriptor {one.fileno()} is no listening stream socket")
        one.set_inheritable(False)
    return Listener(tuple(sockets), is_ours=False)


def _activated() -> list[int]:
    """Told by systemd in LISTEN_PID and LISTEN_FDS, which are not passed on to processes started later."""
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    return list(range(_FIRST_HANDED_OVER, _FIRST_HANDED_OVER + int(count)))


def _address(one: socket.socket) -> str:
    if one.family == socket.AF_UNIX:
        return f"unix:{one.getsockname()}"
    host, port = one.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
