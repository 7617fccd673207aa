"""The console's built-in themes, as data files beside this module."""
