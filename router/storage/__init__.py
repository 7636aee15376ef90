"""The life of the state as a whole: backups, restoring them, and archives of the ledger's closed months."""
