"""Alerts on budgets: what is found in their counters is written down once, and delivered by signed POSTs, away from every request.

`book` is the table, `watch` what a worker does every few seconds, `sending` the one POST, `events` what is told.
"""
