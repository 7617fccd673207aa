"""State that several instances share on a Redis server; redis-py is loaded when a store starts."""
