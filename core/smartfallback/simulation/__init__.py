"""Simulated upstreams on real sockets, faults, background traffic, and the demo made of them."""
