"""What may be said of an account's credentials, and texts without them."""

from __future__ import annotations

from hashlib import blake2b

from smartfallback.engine.roster import AccountRuntime
from smartfallback.model.secrets import redact


def credentials_mark(account: AccountRuntime) -> str:
    """Sixteen bits of a hash of the credentials: enough to see that they were replaced."""
    spec = account.spec
    secret = "" if spec.api_key is None else spec.api_key.reveal()
    text = "\0".join((account.id, secret, spec.base_url or account.pool.spec.base_url or ""))
    return blake2b(text.encode(), digest_size=2).hexdigest()


def without_secrets(text: str, account: AccountRuntime) -> str:
    """``text`` without the account's key, and without whatever else looks like one."""
    key = account.spec.api_key
    return redact(text, () if key is None else (key,)) if text else text
