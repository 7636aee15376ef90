"""The door: from what a request presents (a key, an issuer's token, a forwarded certificate) to its principal, and the slowing of those who guess."""
