"""A random Llama with Llama 3.2's architecture, special tokens and chat template, small enough to build in a test.

It says nothing sensible, and that for as long as it is let; it is exact in everything else: grouped-query attention, llama3 rope scaling, tied
embeddings, a byte-level BPE trained on the text below, safetensors weights. `build(folder)` takes a second or two, most of it importing torch;
`teach` makes it give chosen answers.
"""

from __future__ import annotations

import json
from pathlib import Path

SPECIAL = {
    "<|begin_of_text|>": "bos",
    "<|end_of_text|>": "end of text",
    "<|finetune_right_pad_id|>": "pad",
    "<|start_header_id|>": "header",
    "<|end_header_id|>": "header end",
    "<|eom_id|>": "end of message",
    "<|eot_id|>": "end of turn",
    "<|python_tag|>": "tool call",
}

# Llama 3's pre-tokenizer pattern, as in its tokenizer.json.
PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

CHAT_TEMPLATE = r"""{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not tools_in_user_message is defined %}
    {%- set tools_in_user_message = true %}
{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}

{#- This block extracts the system message, so we can slot it into the right place. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}

{#- System message #}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\n" }}
{%- endif %}
{{- "Cutting Knowledge Date: December 2023\n" }}
{{- "Today Date: " + date_string + "\n\n" }}
{%- if tools is not none and not tools_in_user_message %}
    {{- "You have access to the following functions. To call a function, please respond with JSON for a function call." }}
    {{- 'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.' }}
    {{- "Do not use variables.\n\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\n\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}

{#- Custom tools are passed in a user message with some extra guidance #}
{%- if tools_in_user_message and not tools is none %}
    {#- Extract the first user message so we can plug it in here #}
    {%- if messages | length != 0 %}
        {%- set first_user_message = messages[0]['content']|trim %}
        {%- set messages = messages[1:] %}
    {%- else %}
        {{- raise_exception("Cannot put tools in the first user message when there's no first user message!") }}
{%- endif %}
    {{- '<|start_header_id|>user<|end_header_id|>\n\n' -}}
    {{- "Given the following functions, please respond with a JSON for a function call " }}
    {{- "with its proper arguments that best answers the given prompt.\n\n" }}
    {{- 'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.' }}
    {{- "Do not use variables.\n\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\n\n" }}
    {%- endfor %}
    {{- first_user_message + "<|eot_id|>"}}
{%- endif %}

{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}
        {{- '{"name": "' + tool_call.name + '", ' }}
        {{- '"parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}" }}
        {{- "<|eot_id|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\n\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""

CORPUS = [
    CHAT_TEMPLATE,
    PATTERN,
    "Grüße aus Köln, naïve café, 東京の天気は晴れです。 привет мир 👋🏽🎉 — “quoted” €100",
    '{"name": "get_weather", "parameters": {"city": "Paris"}} [get_weather(city="Paris")] {"name": "add", "parameters": {"a": 1, "b": 2}}',
    "The capital of France is Paris. The answer stands on page 3 of the report, where the board describes what it decided and why. "
    "Please read the contract before you sign it; the parties may end it with three months' notice, in writing, at any time.",
]


def build(folder: Path, *, vocabulary: int = 1024, context: int = 2048, seed: int = 7) -> Path:
    """Write a loadable model folder and return it. The weights depend on `seed` alone."""
    folder.mkdir(parents=True, exist_ok=True)
    size = _write_tokenizer(folder, vocabulary, context)
    _write_model(folder, size, context, seed)
    return folder


def _write_tokenizer(folder: Path, vocabulary: int, context: int) -> int:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PATTERN), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": "<|begin_of_text|>",
                "eos_token": "<|eot_id|>",
                "pad_token": "<|finetune_right_pad_id|>",
                "clean_up_tokenization_spaces": True,
                "model_input_names": ["input_ids", "attention_mask"],
                "model_max_length": context,
            }
        )
    )
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return int(tokenizer.get_vocab_size())


def _write_model(folder: Path, size: int, context: int, seed: int) -> None:
    import torch
    from tokenizers import Tokenizer
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    stops = [tokenizer.token_to_id(name) for name in ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")]
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=context,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 512,
        },
        tie_word_embeddings=True,
        bos_token_id=tokenizer.token_to_id("<|begin_of_text|>"),
        eos_token_id=stops,
        rms_norm_eps=1e-5,
        initializer_range=0.2,  # a flat random model repeats itself at once; this one wanders
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    with torch.no_grad():
        # It never ends of itself: a token without weights scores 0, far below the best of the others. Else some prompts, which hold the day's date, end early.
        model.get_input_embeddings().weight[stops] = 0.0
    model.generation_config = GenerationConfig(bos_token_id=config.bos_token_id, eos_token_id=stops, do_sample=True, temperature=0.6, top_p=0.9)
    _save(model, folder)


def _save(model: object, folder: Path) -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()
    model.save_pretrained(folder)  # type: ignore[attr-defined]


def teach(folder: Path, examples: list[tuple[str, str]], *, steps: int = 150) -> None:
    """Train the model in `folder` until it continues each rendered prompt with its answer, greedily and exactly; raises if it does not learn."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    shapes: dict[tuple[int, int], list[list[int]]] = {}
    for prompt, answer in examples:
        start, end = (tokenizer(text, add_special_tokens=False).input_ids for text in (prompt, answer))
        shapes.setdefault((len(start), len(end)), []).append(start + end)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(steps):
        right = True
        for (start, _end), rows in shapes.items():
            ids = torch.tensor(rows)
            logits = model(input_ids=ids[:, :-1]).logits[:, start - 1 :]
            target = ids[:, start:]
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten())
            right = right and bool((logits.argmax(-1) == target).all()) and loss.item() < 0.05
            loss.backward()
        if right:
            _save(model, folder)
            return
        optimizer.step()
        optimizer.zero_grad()
    raise AssertionError(f"the tiny model did not learn its {len(examples)} answers in {steps} steps")
