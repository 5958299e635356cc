"""What this process may use of the machine: cores and memory, within the limits of its cgroup (versions 1 and 2)."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

CGROUPS = Path("/sys/fs/cgroup")
PROC = Path("/proc")
UNLIMITED = 1 << 60  # bytes; version 1 writes the largest multiple of a page where there is no limit


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes. total: of the machine, or the limit where that is less; limit: the cgroup's, None: there is none."""

    total: int
    available: int
    limit: int | None


def usable_cores() -> int:
    """Return how many cores this process may run on; macOS cannot tell them from those of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_quota() -> float | None:
    """Return how many cores' worth of time the cgroup may take; None: there is no such limit."""
    found = []
    for folder in folders("cpu"):
        if text := read(folder / "cpu.max"):
            quota, _, period = text.partition(" ")
        else:
            quota, period = read(folder / "cpu.cfs_quota_us"), read(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period):
            found.append(int(quota) / int(period))
    return min(found, default=None)


def memory() -> Memory:
    """Return the memory that this process may still take."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    available = next((a for a in (field(PROC / "meminfo", "MemAvailable:"),) if a), total // 1024) * 1024
    limit = None
    for folder in folders("memory"):
        most = read(folder / "memory.max") or read(folder / "memory.limit_in_bytes")
        if not most.isdigit() or int(most) >= min(UNLIMITED, total):
            continue
        used = read(folder / "memory.current") or read(folder / "memory.usage_in_bytes")
        cached = field(folder / "memory.stat", "inactive_file") or 0  # given back when it is needed
        left = int(most) - (int(used) if used.isdigit() else 0) + cached
        limit, available = min(limit or int(most), int(most)), max(0, min(available, left))
    return Memory(total=limit or total, available=available, limit=limit)


def folders(controller: str) -> Iterator[Path]:
    """Yield the cgroup of this process and those above it, as far as they can be seen."""
    for line in read(PROC / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = CGROUPS / controller if controllers else CGROUPS
        inside = root / path.lstrip("/")
        yield from (place for place in (inside, *inside.parents) if place.is_relative_to(root) and place.is_dir())


def read(file: Path) -> str:
    """Return what a file of the system says; empty where it is not there."""
    with contextlib.suppress(OSError):
        return file.read_text(encoding="utf-8").strip()
    return ""


def field(file: Path, name: str) -> int | None:
    """Return the number after a name, in a file of names and numbers."""
    for line in read(file).splitlines():
        parts = line.split()
        if parts[:1] == [name] and len(parts) > 1 and parts[1].isdigit():
            return int(parts[1])
    return None
