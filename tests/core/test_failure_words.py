"""A failure in words."""

from __future__ import annotations

import pytest

from smartfallback import ErrorCategory, Failure


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (None, "malformed_response: cut off"),
        (200, "malformed_response: cut off"),
        (502, "malformed_response 502: cut off"),
    ],
)
def test_trouble_inside_a_good_response_is_not_called_200(status: int | None, told: str) -> None:
    assert str(Failure(ErrorCategory.MALFORMED_RESPONSE, "cut off", http_status=status)) == told
