"""Policies that are wrong in one way each: the text, with a mark (») right before what is wrong, and what a person is told.

A text that does not begin with `version` goes on after `START`.
"""

from __future__ import annotations

START = """version: 1
backends:
  local: {kind: llama, model: some/llama, quality: 0.4}
  mini: {kind: openai, model: gpt-5-mini}
  claude: {kind: anthropic, model: claude-sonnet-4-5, clearance: confidential, quality: {code: 0.9}}
"""

BROKEN: dict[str, tuple[str, str]] = {
    # --- YAML itself -------------------------------------------------------------------------------------------------------------------
    "an open bracket": ("default: [mini\nfallback»: [local]\n", "not valid YAML: while parsing a flow sequence"),
    "a tab as indentation": (
        "rules:\n»\t- {name: r, use: [mini]}\n",
        "not valid YAML: while scanning for the next token found character that cannot start any token",
    ),
    "a key that stands there twice": ("default: mini\nfallback: []\n»default: claude\n", "the key 'default' is already there, in line 6"),
    "a tag": ("default: »!!str mini\n", "tags are not supported"),
    "a merge key": ("default: mini\ntenants:\n  acme: {»<<: {data_class: public}}\n", "merge keys (<<) are not supported; write the keys out"),
    "a second document": ("default: mini\n»---\ndefault: claude\n", "not valid YAML: expected a single document"),
    "nothing but a version": ("»version: 1\n", "a request that no rule matches would go nowhere: set 'default'"),
    # --- keys and types ----------------------------------------------------------------------------------------------------------------
    "no version": ("»backends: {mini: {kind: openai, model: gpt-5-mini}}\ndefault: mini\n", "the key 'version' is missing"),
    "a version of the future": ("version: »2\ndefault: extractive\n", "expected one of 1; found the number 2"),
    "a section that does not exist": ("default: mini\n»falback: [local]\n", "unknown key 'falback'; did you mean 'fallback'?"),
    "a key that a rule does not have": ("default: mini\nrules:\n  - {name: r, »whem: {task: code}, use: [mini]}\n", "unknown key 'whem'; did you mean 'when'?"),
    "a condition that does not exist": (
        "default: mini\nrules:\n  - {name: r, when: {»tennant: acme}, use: [mini]}\n",
        "unknown key 'tennant'; did you mean 'tenant'?",
    ),
    "a way to choose that does not exist": (
        "default: mini\nrules:\n  - {name: r, use: {»cheepest: [mini, claude]}}\n",
        "unknown key 'cheepest'; did you mean 'cheapest'?",
    ),
    "a class of errors that does not exist": ("default: mini\nfallback: {»ratelimit: [local]}\n", "unknown key 'ratelimit'; did you mean 'rate_limit'?"),
    "a condition of a later release": ("default: mini\n»rerankers: {}\n", "'rerankers' is not supported yet"),
    "a list where a table belongs": ("default: mini\nrules:\n  - {name: r, when: »[code], use: [mini]}\n", "expected a mapping, found a list"),
    "a word where a list belongs": ("default: mini\nrules:\n  - {name: r, use: »mini}\n", "expected a list or a mapping, found 'mini'"),
    "a word where a number belongs": ("default: mini\nrules:\n  - {name: r, when: {min_turns: »many}, use: [mini]}\n", "expected a whole number, found 'many'"),
    "a number where a name belongs": ("default: mini\nrules:\n  - {name: »7, use: [mini]}\n", "put it in quotes: '7'"),
    "a number in quotes": ('default: mini\nrules:\n  - {name: r, when: {min_hits: »"3"}, use: [mini]}\n', "write it without quotes"),
    "a share above one": ("default: mini\nrules:\n  - {name: r, when: {min_top_score: »70}, use: [mini]}\n", "must be at most 1, found 70"),
    "a negative bound": ("default: mini\nrules:\n  - {name: r, when: {max_context_tokens: »-1}, use: [mini]}\n", "must be at least 0, found -1"),
    "a rule without a name": ("default: mini\nrules:\n  - »{use: [mini]}\n", "the key 'name' is missing"),
    "a rule without backends": ("default: mini\nrules:\n  - »{name: r}\n", "the key 'use' is missing"),
    # --- names -------------------------------------------------------------------------------------------------------------------------
    "a backend that does not exist": ("default: mini\nrules:\n  - {name: r, use: [mini, »cluade]}\n", "there is no backend 'cluade'; did you mean 'claude'?"),
    "one that is nothing like any other": ("default: »zzz\n", "there is no backend 'zzz'; there are claude, extractive, local, mini"),
    "one in a list of the cheapest": ("default: mini\nrules:\n  - {name: r, use: {cheapest: [»mnii]}}\n", "there is no backend 'mnii'; did you mean 'mini'?"),
    "one among weights": ("default: mini\nrules:\n  - {name: r, use: {weighted: {»mnii: 1}}}\n", "there is no backend 'mnii'; did you mean 'mini'?"),
    "one in a fallback by class": ("default: mini\nfallback: {timeout: [»lcal]}\n", "there is no backend 'lcal'; did you mean 'local'?"),
    "one in a rule's fallback": ("default: mini\nrules:\n  - {name: r, use: [mini], fallback: [»lcal]}\n", "there is no backend 'lcal'; did you mean 'local'?"),
    "one in a condition": (
        "default: mini\nrules:\n  - {name: r, when: {backend: {name: »lcal, ready: true}}, use: [mini]}\n",
        "there is no backend 'lcal'; did you mean 'local'?",
    ),
    "one in a tenant's own ladder": ("default: mini\ntenants: {acme: {default: »claud}}\n", "there is no backend 'claud'; did you mean 'claude'?"),
    "one of what holds for every tenant": ("default: mini\ntenant_defaults: {on_budget_end: »lcal}\n", "there is no backend 'lcal'; did you mean 'local'?"),
    "one in a tenant's complexity": (
        "default: mini\ntenants: {acme: {complexity: {weak: »minni, strong: claude, threshold: 0.5}}}\n",
        "there is no backend 'minni'; did you mean 'mini'?",
    ),
    "a name that stands in a list twice": ("default: [mini, »mini]\n", "'mini' stands in this list twice"),
    "a rule's name that is taken": (
        "default: mini\nrules:\n  - {name: r, when: {task: code}, use: [mini]}\n  - {name: »r, when: {task: math}, use: [mini]}\n",
        "rule 0 is called 'r' too",
    ),
    "a task that does not exist": ("default: mini\nrules:\n  - {name: r, when: {task: »coding}, use: [mini]}\n", "expected one of chat, qa, code"),
    "a language that it does not know": ("default: mini\nrules:\n  - {name: r, when: {language: »german}, use: [mini]}\n", "expected one of ar, cs, da, de"),
    "a day that is no day": (
        "default: mini\nrules:\n  - {name: r, when: {time: {days: [»monday]}}, use: [mini]}\n",
        "expected one of mon, tue, wed, thu, fri, sat, sun",
    ),
    "a zone that does not exist": (
        'default: mini\nrules:\n  - {name: r, when: {time: {from: "09:00", zone: »Europe/Berlim}}, use: [mini]}\n',
        "there is no time zone 'Europe/Berlim'; write it as Europe/Berlin; did you mean 'Europe/Berlin'?",
    ),
    "a task of a quality that does not exist": (
        "version: 1\nbackends:\n  mini: {kind: openai, model: gpt-5-mini, quality: {»coed: 0.5}}\ndefault: mini\n",
        "there is no task 'coed'; did you mean 'code'?",
    ),
    "a tag that no request can carry": (
        'default: mini\nrules:\n  - {name: r, when: {tags: [»"two words"]}, use: [mini]}\n',
        "no request can carry the tag 'two words'",
    ),
    "a role that never asks": (
        "default: mini\nrules:\n  - {name: r, when: {role: »auditor}, use: [mini]}\n",
        "the role auditor may not ask for answers, so that nothing can match",
    ),
    # --- what can never match ----------------------------------------------------------------------------------------------------------
    "an empty list of conditions": ("default: mini\nrules:\n  - {name: r, when: {any: »[]}, use: [mini]}\n", "an empty list matches nothing"),
    "not nothing": ("default: mini\nrules:\n  - {name: r, when: {not: »{}}, use: [mini]}\n", "an empty condition always holds, so that this never does"),
    "bounds the wrong way round": (
        "default: mini\nrules:\n  - {name: r, when: {min_turns: »5, max_turns: 3}, use: [mini]}\n",
        "5 is more than max_turns (3): nothing can match",
    ),
    "bounds of two conditions": (
        "default: mini\nrules:\n  - {name: r, when: {max_input_tokens: 100, all: [{min_input_tokens: »200}]}, use: [mini]}\n",
        "200 is more than max_input_tokens (100) of a condition that must hold too: nothing can match",
    ),
    "two tenants at once": (
        "default: mini\nrules:\n  - {name: r, when: {all: [{tenant: acme}, {tenant: »umbrella}]}, use: [mini]}\n",
        "a request has one tenant, and another condition that must hold too wants 'acme': nothing can match",
    ),
    "a branch that contradicts what is around it": (
        "default: mini\nrules:\n  - {name: r, when: {task: code, any: [{role: member}, {task: »math}]}, use: [mini]}\n",
        "a request has one task, and another condition that must hold too wants 'code': nothing can match",
    ),
    "a condition and its opposite": (
        "default: mini\nrules:\n  - {name: r, when: {task: code, not: »{task: [code, math]}}, use: [mini]}\n",
        "this excludes all that the conditions beside it let through",
    ),
    "a search that did not happen": (
        "default: mini\nrules:\n  - {name: r, when: {grounded: false, min_hits: »1}, use: [mini]}\n",
        "a request that is not grounded has searched nothing",
    ),
    "a time without any time in it": (
        'default: mini\nrules:\n  - {name: r, when: {time: {from: "09:00", to: »"09:00"}}, use: [mini]}\n',
        "from 09:00 to 09:00 there is no time",
    ),
    "a time that is no time": (
        'default: mini\nrules:\n  - {name: r, when: {time: {from: »"9am"}}, use: [mini]}\n',
        "expected a time of day such as 09:30, from 00:00 to 24:00; found '9am'",
    ),
    "a condition on a backend that says nothing": (
        "default: mini\nrules:\n  - {name: r, when: {backend: »{name: mini}}, use: [mini]}\n",
        "says nothing of the backend: give ready, max_queue or max_wait_s",
    ),
    # --- what can never decide ---------------------------------------------------------------------------------------------------------
    "a rule behind one without a condition": (
        "default: mini\nrules:\n  - {name: all, use: [mini]}\n  - »{name: code, when: {task: code}, use: [claude]}\n",
        "this rule can never decide: rule 'all' before it has no condition",
    ),
    "a rule behind a wider one": (
        "default: mini\nrules:\n  - {name: wide, when: {task: [code, math]}, use: [mini]}\n"
        "  - »{name: narrow, when: {task: code, tenant: acme}, use: [claude]}\n",
        "this rule can never decide: rule 'wide' before it holds whenever this one does; put it before that one",
    ),
    "a rule behind one of its alternatives": (
        "default: mini\nrules:\n  - {name: wide, when: {any: [{role: service}, {tags: batch}]}, use: [mini]}\n"
        "  - »{name: narrow, when: {tags: batch}, use: [claude]}\n",
        "this rule can never decide: rule 'wide' before it holds whenever this one does",
    ),
    "a rule about a pinned model": (
        "default: mini\nrules:\n  - {name: r, when: {model: [»gpt-5-mini]}, use: [claude]}\n",
        "a request for 'gpt-5-mini' pins that backend, so this rule can never decide it",
    ),
    # --- what can never be chosen ------------------------------------------------------------------------------------------------------
    "an empty list of backends": ("default: mini\nrules:\n  - {name: r, use: {fastest: »[]}}\n", "an empty list routes nothing"),
    "weights without weight": (
        "default: mini\nrules:\n  - {name: r, use: {weighted: »{mini: 0, claude: 0}}}\n",
        "the weights sum to 0: nothing could ever be chosen",
    ),
    "a negative weight": ("default: mini\nrules:\n  - {name: r, use: {weighted: {mini: »-1}}}\n", "must be at least 0, found -1"),
    "two ways to choose": (
        "default: mini\nrules:\n  - {name: r, use: »{cheapest: [mini], fastest: [mini]}}\n",
        "one of ordered, weighted, cheapest, fastest, best_of says which backends answer; found cheapest and fastest",
    ),
    "no way to choose": ("default: mini\nrules:\n  - {name: r, use: »{max_cost_usd: 1}}\n", "says which backends answer; found none of them"),
    "a draw that sticks where nothing is drawn": (
        "default: mini\nrules:\n  - {name: r, use: {fastest: [mini], sticky: »user}}\n",
        "does nothing without 'weighted'",
    ),
    "a quality that nobody gave": (
        "default: mini\nrules:\n  - {name: r, use: {ordered: [local, »mini], min_quality: 0.3}}\n",
        "'mini' has no quality, so min_quality always leaves it out; give it one: backends.mini.quality",
    ),
    "a quality that is never enough": (
        "default: mini\nrules:\n  - {name: r, use: {ordered: [»local, claude], min_quality: 0.5}}\n",
        "the quality of 'local' is at most 0.4, so that min_quality (0.5) always leaves it out",
    ),
    "money for nothing": (
        "default: mini\nrules:\n  - {name: r, use: {ordered: [local, »mini], max_cost_usd: 0}}\n",
        "'mini' costs money, so that max_cost_usd: 0 always leaves it out",
    ),
    "a lock on backends that may not see it": (
        "default: mini\nrules:\n  - {name: r, when: {data_class: restricted}, use: »[local, claude], lock: true}\n",
        "the rule locks restricted data to backends whose clearance is lower: 'claude' (confidential)",
    ),
    "data that none of them may see": (
        "default: mini\nrules:\n  - {name: r, when: {all: [{data_class: restricted}]}, use: »[claude]}\n",
        "none of these backends may see restricted data",
    ),
    "a tenant whose data none of them may see": (
        "default: mini\ntenants: {bank: {data_class: confidential}}\nrules:\n  - {name: r, when: {tenant: bank}, use: »[mini]}\n",
        "none of these backends may see confidential data; raise a clearance or use another backend",
    ),
    "a fallback outside the lock": (
        "default: mini\nrules:\n  - {name: r, when: {task: code}, use: [local], lock: true, fallback: {timeout: [»mini]}}\n",
        "'mini' is outside this rule's lock, so that it is never called",
    ),
    "exploration between one and the same": (
        "complexity: {weak: mini, strong: mini, threshold: 0.5, explore: »0.1}\n",
        "does nothing: weak and strong are both 'mini'",
    ),
    "a file that is not there": ("default: mini\ninclude: [»more.yaml]\n", "'more.yaml' cannot be read"),
    "nowhere to go": (
        "»version: 1\nrules:\n  - {name: r, when: {task: code}, use: [extractive]}\n",
        "a request that no rule matches would go nowhere: set 'default'",
    ),
    # --- cases -------------------------------------------------------------------------------------------------------------------------
    "a case that expects nothing": ("default: mini\ncases:\n  - {given: {task: code}, expect: »{}}\n", "a case must expect something"),
    "a case about a rule that does not exist": (
        "default: mini\nrules: [{name: code, when: {task: code}, use: [mini]}]\ncases:\n  - {given: {}, expect: {rule: »cod}}\n",
        "there is no rule 'cod'; did you mean 'code'?",
    ),
    "a case at no moment": (
        'default: mini\ncases:\n  - {given: {at: »"2026-02-30T10:00"}, expect: {backend: mini}}\n',
        "there is no such moment: 2026-02-30T10:00",
    ),
    "a case with a class of errors that does not exist": (
        "default: mini\ncases:\n  - {given: {after: [»slow]}, expect: {backend: mini}}\n",
        "expected one of rate_limit, timeout, unavailable",
    ),
}
