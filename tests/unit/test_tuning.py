from pathlib import Path

import pytest

from reshelve.database.tuning import (
    GIB,
    MIB,
    Machine,
    control_group_folders,
    read_core_quota,
    read_memory_limit,
    this_machine,
    tuned_settings,
)


def tuned(*, cores: int, memory: int, shm: int | None = 64 * GIB) -> dict[str, str]:
    return tuned_settings(Machine(cores=cores, memory_bytes=memory, shared_memory_bytes=shm), lz4=False, syncfs=False)


@pytest.mark.parametrize(
    ("memory", "buffers", "cache", "maintenance"),
    [
        (256 * MIB, "64MB", "192MB", "64MB"),
        (2 * GIB, "512MB", "1536MB", "128MB"),
        (8 * GIB, "2048MB", "6144MB", "512MB"),
        (256 * GIB, "4096MB", f"{192 * 1024}MB", "2048MB"),
    ],
)
def test_memory(memory: int, buffers: str, cache: str, maintenance: str) -> None:
    settings = tuned(cores=4, memory=memory)
    assert settings["shared_buffers"] == buffers
    assert settings["effective_cache_size"] == cache
    assert settings["maintenance_work_mem"] == maintenance


@pytest.mark.parametrize(("cores", "parallel"), [(1, 2), (2, 2), (16, 16)])
def test_every_core_may_build_an_index(cores: int, parallel: int) -> None:
    settings = tuned(cores=cores, memory=8 * GIB)
    assert int(settings["max_parallel_maintenance_workers"]) == parallel
    assert int(settings["max_parallel_workers"]) == parallel
    assert int(settings["max_worker_processes"]) > parallel


@pytest.mark.parametrize(
    ("shm", "kind"), [(64 * MIB, "mmap"), (700 * MIB, "mmap"), (800 * MIB, "posix"), (None, "posix")]
)
def test_a_small_dev_shm_is_not_used_for_the_graph_of_a_build(shm: int | None, kind: str) -> None:
    assert tuned(cores=4, memory=8 * GIB, shm=shm)["dynamic_shared_memory_type"] == kind


def test_durability_is_never_traded() -> None:
    settings = tuned_settings(Machine(cores=2, memory_bytes=4 * GIB, shared_memory_bytes=None), lz4=True, syncfs=True)
    assert settings["synchronous_commit"] == "on"
    assert settings["wal_level"] == "replica"
    assert settings["wal_compression"] == "lz4"
    assert tuned(cores=2, memory=GIB)["wal_compression"] == "on"
    assert not {"fsync", "full_page_writes"} & set(settings)


def test_the_limits_of_all_control_groups_above_count(tmp_path: Path) -> None:
    inner = tmp_path / "user.slice" / "app.scope"
    inner.mkdir(parents=True)
    (inner / "memory.max").write_text("max\n")
    (inner / "cpu.max").write_text("150000 100000\n")
    (inner.parent / "memory.max").write_text(f"{3 * GIB}\n")
    (inner.parent / "cpu.max").write_text("max 100000\n")
    folders = control_group_folders("0::/user.slice/app.scope\n", mount=tmp_path)
    assert folders == [inner, inner.parent, tmp_path]
    assert [read_memory_limit(folder) for folder in folders] == [None, 3 * GIB, None]
    assert [read_core_quota(folder) for folder in folders] == [2, None, None]


def test_version_1_control_groups(tmp_path: Path) -> None:
    (tmp_path / "memory" / "box").mkdir(parents=True)
    (tmp_path / "memory" / "box" / "memory.limit_in_bytes").write_text(f"{GIB}\n")
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    folders = control_group_folders("7:blkio:/\n4:memory:/box\n1:cpu,cpuacct:/\n", mount=tmp_path)
    assert [read_memory_limit(folder) for folder in folders] == [GIB, None]


def test_this_machine_is_measured() -> None:
    machine = this_machine()
    assert machine.cores >= 1
    assert machine.memory_bytes > 64 * MIB
