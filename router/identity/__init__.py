"""Who may ask: tenants, teams, users and keys, and from a presented key to its principal."""
