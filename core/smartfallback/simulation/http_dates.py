"""HTTP's date format."""

from email.utils import formatdate


def http_date(at: float) -> str:
    """Epoch seconds in the form of RFC 9110, section 5.6.7 (whole seconds, GMT)."""
    return formatdate(at, usegmt=True)
