"""The panels of the dashboard, one file a widget."""
