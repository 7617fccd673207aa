"""Projections of events: latency, rates and fairness over time."""
