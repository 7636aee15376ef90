"""Backtests of this service's own log: reading it, and telling what was found."""
