"""How much memory there is on this machine, and for this process."""

from __future__ import annotations

from pathlib import Path

SPARE = 4
"""A copy that only saves time leaves this part of all memory free: a quarter."""
_MEMINFO = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")


def has_room(nbytes: int) -> bool:
    """Whether so many bytes more would leave a part of memory free (`SPARE`), the machine's and, in
    a container, its own. False where that cannot be told: outside of Linux."""
    found = [memory for memory in (_machine(), _container()) if memory is not None]
    return bool(found) and all(free - nbytes >= total / SPARE for free, total in found)


def _machine() -> tuple[int, int] | None:
    """Bytes that can be had, and all there are."""
    try:
        lines = dict(line.split(":") for line in _MEMINFO.read_text("ascii").splitlines())
        free, total = (int(lines[name].split()[0]) for name in ("MemAvailable", "MemTotal"))
    except (OSError, ValueError, KeyError):
        return None
    return free * 1024, total * 1024


def _container() -> tuple[int, int] | None:
    """The same of a control group (version 2) with a limit; files that it has read count as
    taken."""
    try:
        total = int((_GROUP / "memory.max").read_text("ascii"))
        taken = int((_GROUP / "memory.current").read_text("ascii"))
    except (OSError, ValueError):  # no group, or its limit is the word "max"
        return None
    return total - taken, total
