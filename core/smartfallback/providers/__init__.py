"""Adapters: one file a kind of upstream; a call becomes a stream of chunks or a typed error."""
