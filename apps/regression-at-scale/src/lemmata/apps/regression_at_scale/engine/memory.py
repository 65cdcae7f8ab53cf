"""How much memory this process holds, and has held at most."""

import math
import sys
from pathlib import Path

__all__ = ["held_memory", "peak_memory"]


def held_memory() -> float:
    """Return how much memory this process holds, in MB; nan where the platform does not tell."""
    return _status("VmRSS")


def peak_memory() -> float:
    """Return the most memory this process has held so far, in MB; nan where the platform does not tell."""
    peak = _status("VmHWM")
    if not math.isnan(peak):
        return peak
    try:
        import resource
    except ImportError:  # Windows
        return math.nan
    # On Linux this begins with the memory of the parent, hence not first.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1024)


def _status(name: str) -> float:
    """Return a line of Linux's account of this process, in MB."""
    status = Path("/proc/self/status")
    if not status.exists():
        return math.nan
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(lines[name].split()[0]) / 1024
