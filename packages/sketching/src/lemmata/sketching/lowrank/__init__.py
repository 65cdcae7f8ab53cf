"""Low-rank approximation from random probes."""
