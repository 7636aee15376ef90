"""What of its tenant's documents a principal's key may touch."""

from __future__ import annotations

from policies.access import Principal
from retrieval.values import EVERYTHING, Reach


def documents_reach(principal: Principal) -> Reach:
    """By the key's stores and data class. A file counts as a key's own by the key that uploaded it."""
    if principal.stores is None and principal.max_data_class == EVERYTHING.max_data_class:
        return EVERYTHING
    return Reach(stores=principal.stores, max_data_class=principal.max_data_class, uploader=principal.key_id)
