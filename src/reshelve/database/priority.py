"""Letting searches go first: the operating system's priority of the server's processes, where that can be had."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterable

import psutil

from reshelve.database.pools import Connection

_NICENESS = 10
"""Beside a process of the usual priority it gets about a tenth of a core; where nobody else wants it, all of it."""


def step_back(connection: Connection, pids: Iterable[int]) -> None:
    """Lower the priority of these of the server's processes. It stays low until they end.

    Only where the server is on this host, seen by its Unix socket, and we may: elsewhere nothing is done.
    """
    postmaster = _peer(connection)
    for pid in pids:
        with contextlib.suppress(psutil.Error, OSError):
            process = psutil.Process(pid)
            # In a container of its own the server counts its processes differently: the number would be another's.
            if process.ppid() == postmaster and process.nice() < _NICENESS:
                process.nice(_NICENESS)


def _peer(connection: Connection) -> int | None:
    """The process that listens at the other end, as this host counts it."""
    if not hasattr(socket, "SO_PEERCRED") or connection.closed:
        return None
    with socket.socket(fileno=os.dup(connection.fileno())) as line:
        if line.family != socket.AF_UNIX:
            return None
        credentials = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return struct.unpack("3i", credentials)[0]
