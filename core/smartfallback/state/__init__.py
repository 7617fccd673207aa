"""Where state is kept over a restart: the store protocol and the SQLite file."""
