"""What things are: frozen values without I/O, clocks or randomness.

Times named ``*_at`` or ``until`` are seconds since the Unix epoch; names ending in ``_s`` are
durations in seconds.
"""
