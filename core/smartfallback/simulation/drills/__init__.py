"""Drills: faults injected on the client side into the real code path, against any upstream."""
