"""What ledger rows are sealed with where a test books some without a service."""

from __future__ import annotations

from router.money.sealing import SealKey

SECRET = b"a secret of the tests, long enough"
SEALS = SealKey(SECRET)
