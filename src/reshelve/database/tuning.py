"""PostgreSQL's settings for the machine it runs on."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

MIB = 1024**2
GIB = 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the server may use. `shared_memory_bytes` is the size of /dev/shm, None where there is none."""

    cores: int
    memory_bytes: int
    shared_memory_bytes: int | None


def tuned_settings(machine: Machine, *, lz4: bool, syncfs: bool) -> dict[str, str]:
    """Name and value of each setting; `lz4` and `syncfs` say whether the server was built with them.

    A parallel HNSW build keeps its graph, of up to maintenance_work_mem, in dynamic shared memory. Where /dev/shm
    (64 MB in a default container) cannot hold that, the segments become mapped files in the data directory.
    """
    maintenance = _between(64 * MIB, machine.memory_bytes // 16, 2 * GIB)
    parallel = max(2, machine.cores)
    shared = machine.shared_memory_bytes
    mapped = shared is not None and shared < maintenance + 256 * MIB
    return {
        "shared_buffers": _megabytes(_between(32 * MIB, machine.memory_bytes // 4, 4 * GIB)),
        "effective_cache_size": _megabytes(max(64 * MIB, machine.memory_bytes * 3 // 4)),
        "maintenance_work_mem": _megabytes(maintenance),
        "autovacuum_work_mem": _megabytes(min(maintenance, 256 * MIB)),
        "max_parallel_maintenance_workers": str(parallel),
        "max_parallel_workers": str(parallel),
        "max_worker_processes": str(parallel + 8),
        "max_connections": "200",
        "wal_level": "replica",
        "wal_compression": "lz4" if lz4 else "on",
        "max_wal_size": "4GB",
        "checkpoint_timeout": "15min",
        "synchronous_commit": "on",
        # recovery would else open and sync every file one by one before it begins
        "recovery_init_sync_method": "syncfs" if syncfs else "fsync",
        "random_page_cost": "1.1",
        "jit": "off",
        "client_connection_check_interval": "1s",
        "dynamic_shared_memory_type": "mmap" if mapped else "posix",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_checkpoints": "off",
        "cluster_name": "reshelve",
    }


def this_machine() -> Machine:
    """Cores and memory of this process: the least of the machine, its affinity and its control group's limits."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    groups = control_group_folders(_text(Path("/proc/self/cgroup")) or "")
    limits = [read_memory_limit(folder) for folder in groups]
    quotas = [read_core_quota(folder) for folder in groups]
    shm = Path("/dev/shm")
    return Machine(
        cores=min([cores, *(quota for quota in quotas if quota is not None)]),
        memory_bytes=min([memory, *(limit for limit in limits if limit is not None)]),
        shared_memory_bytes=os.statvfs(shm).f_frsize * os.statvfs(shm).f_blocks if shm.is_dir() else None,
    )


def control_group_folders(listing: str, *, mount: Path = Path("/sys/fs/cgroup")) -> list[Path]:
    """The folders whose limits hold for the process whose /proc/PID/cgroup is `listing`: its own and all above it.

    Both versions are known: in version 2 the line is `0::/path`, in version 1 `4:memory:/path` under its own mount.
    """
    folders: list[Path] = []
    for line in listing.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and controllers == "":
            root = mount
        elif "memory" in controllers.split(","):
            root = mount / "memory"
        else:
            continue
        own = root / path.lstrip("/")
        folders += [own, *(parent for parent in own.parents if parent == root or root in parent.parents)]
    return folders


def read_memory_limit(folder: Path) -> int | None:
    """Bytes; None without a limit (version 1 writes nearly 2^63 for that)."""
    for name in ("memory.max", "memory.limit_in_bytes"):
        value = _text(folder / name)
        if value is not None and value.isdigit() and int(value) < 2**60:
            return int(value)
    return None


def read_core_quota(folder: Path) -> int | None:
    """Whole cores, rounded up; None without a quota."""
    quota, _, period = (_text(folder / "cpu.max") or "").partition(" ")
    return max(1, math.ceil(int(quota) / int(period))) if quota.isdigit() and period.isdigit() else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _between(low: int, value: int, high: int) -> int:
    return max(low, min(value, high))


def _megabytes(size: int) -> str:
    return f"{size // MIB}MB"
