"""How many tokens a request's input is, counted on this machine: with OpenAI's vocabularies where they apply, else estimated with them.

`TokenCounter` is what a backend counts with. `docs/accounting.md` says how near it comes.
"""

from adapters.tokens.counter import TokenCounter
from adapters.tokens.profiles import Profile, profile_of
from adapters.tokens.vocabulary import counting_once

__all__ = ["Profile", "TokenCounter", "counting_once", "profile_of"]
