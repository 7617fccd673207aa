"""Rehearsed outages: scenarios as data, run on a real system and judged step by step."""
