"""A program of its own: takes on an account, then becomes the command it was given.

It is run as `python -I -S postgres_launch.py SPEC`, with SPEC a JSON object: `argv`; `environment`; `account` (null, or
`[uid, gid]` to change to, without supplementary groups); `reach` (paths the command has to get to); `log` (null, or
for a daemon in a session of its own the descriptor of the file that takes its output). It imports nothing else of ours.

Exit status 1 with a sentence on stderr: the command was not started. A daemon's launcher ends with status 0 as soon as
the daemon runs; otherwise the command takes the launcher's place.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from typing import Any, NoReturn

# linux/prctl.h and linux/capability.h
PR_SET_KEEPCAPS = 8
PR_SET_SECUREBITS = 28
SECBIT_NO_SETUID_FIXUP = 1 << 2
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
CAPABILITY_VERSION_3 = 0x20080522
CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2
CAP_SETPCAP = 8


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def main(spec: dict[str, Any]) -> None:
    log: int | None = spec["log"]
    if log is None:
        _become(spec)
    os.setsid()
    reader, writer = os.pipe()  # the exec closes `writer`: an empty answer says that the daemon runs
    if os.fork() > 0:
        os.close(writer)
        with os.fdopen(reader, "rb") as answer:
            complaint = answer.read()
        if complaint:
            sys.exit(complaint.decode(errors="replace"))
        return
    os.close(reader)
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for stream in (1, 2):
            os.dup2(log, stream)
        os.close(log)
        _become(spec)
    except BaseException as error:
        os.write(writer, str(error).encode())
    finally:
        os._exit(1)


def _become(spec: dict[str, Any]) -> NoReturn:
    os.chdir("/")
    os.umask(0o077)
    if spec["account"] is not None:
        _take_account(*spec["account"], reach=spec["reach"])
    os.execve(spec["argv"][0], spec["argv"], spec["environment"])


def _take_account(uid: int, gid: int, *, reach: list[str]) -> None:
    """Change to the account. Where it cannot get to a path of `reach`, keep the one capability that lets it through.

    The access checks see access lists and mount options too, which arithmetic on mode bits would not.
    """
    linux = sys.platform == "linux"
    if linux:
        _prctl(PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    if not linux:
        return
    # Path.is_dir() raises where it cannot look, and that is just what is asked here.
    closed = [path for path in reach if not os.access(path, os.R_OK | (os.X_OK if os.path.isdir(path) else 0))]  # noqa: PTH112
    if closed:
        _keep_one_capability(closed[0])
    else:
        _set_capabilities(0)
    _prctl(PR_SET_NO_NEW_PRIVS, 1)


def _keep_one_capability(path: str) -> None:
    permitted = _permitted_capabilities()
    if permitted & (1 << CAP_SETPCAP):
        # without this bit access(2) counts no capability, and PostgreSQL asks it about its own programs
        _set_capabilities(permitted)
        _prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP)
    for capability in (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE):
        if permitted & (1 << capability):
            _set_capabilities(1 << capability)
            _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability)
            return
    raise PermissionError(
        f"{path} is not open to the database's account, and neither CAP_DAC_READ_SEARCH nor CAP_DAC_OVERRIDE is held"
    )


def _permitted_capabilities() -> int:
    header, sets = _Header(CAPABILITY_VERSION_3, 0), (_Sets * 2)()
    _checked(ctypes.CDLL(None, use_errno=True).capget(ctypes.byref(header), ctypes.byref(sets)), "capget")
    return int(sets[0].permitted) | int(sets[1].permitted) << 32


def _set_capabilities(mask: int) -> None:
    header, sets = _Header(CAPABILITY_VERSION_3, 0), (_Sets * 2)()
    for half, bits in ((sets[0], mask & 0xFFFFFFFF), (sets[1], mask >> 32)):
        half.effective = half.permitted = half.inheritable = bits
    _checked(ctypes.CDLL(None, use_errno=True).capset(ctypes.byref(header), ctypes.byref(sets)), "capset")


def _prctl(option: int, *arguments: int) -> None:
    padded = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:4]]
    _checked(ctypes.CDLL(None, use_errno=True).prctl(option, *padded), f"prctl {option}")


def _checked(result: int, call: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{call}: {os.strerror(code)}")


if __name__ == "__main__":
    try:
        main(json.loads(sys.argv[1]))
    except OSError as failure:
        sys.exit(str(failure))
