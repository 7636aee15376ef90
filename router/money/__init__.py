"""The books: reservations, settlements, the ledger and what is reported of it."""
