"""Decisions as data: routing, complexity, moderation, limits and access, all pure."""
