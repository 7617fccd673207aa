"""The terminal console of SmartFallback."""
