"""The clients that are tried: what is installed for each, which script tries it, and what cannot hold."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Client:
    """`packages` are installed at their newest; the versions of `shown` stand in the table. `excused`: checks that cannot hold, and why.
    `notes`: what its users should know, and what was left out of its checks.
    """

    name: str
    script: str
    packages: tuple[str, ...]
    shown: tuple[str, ...]
    configured: str
    excused: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def node(self) -> bool:
        return self.script.endswith(".mjs")


CLIENTS = (
    Client(
        "langchain",
        "try_langchain.py",
        ("langchain", "langchain-openai", "langchain-anthropic"),
        ("langchain", "langchain-openai", "langchain-anthropic"),
        "`ChatOpenAI(base_url=…/v1, api_key=…)`, also with `use_responses_api=True`; `ChatAnthropic(base_url=…, api_key=…)`",
    ),
    Client(
        "llamaindex",
        "try_llamaindex.py",
        # its Anthropic package does not say that it fails with newer releases of the SDK (`temperature`, a union that it calls)
        ("llama-index-core", "llama-index-llms-openai", "llama-index-llms-openai-like", "llama-index-llms-anthropic", "anthropic<1"),
        ("llama-index-core", "llama-index-llms-openai", "llama-index-llms-openai-like", "llama-index-llms-anthropic", "anthropic"),
        "`OpenAI`, `OpenAILike`, `OpenAIResponses` with `(api_base=…/v1, api_key=…)`; `Anthropic(base_url=…, api_key=…)`",
        notes=(
            "`OpenAI` and `Anthropic` know their providers' model names only; `OpenAILike` takes any name, `auto` too.",
            "`llama-index-llms-anthropic` fails by itself with newer releases of Anthropic's SDK; `anthropic<1` was installed.",
        ),
    ),
    Client(
        "pydantic-ai",
        "try_pydantic_ai.py",
        ("pydantic-ai-slim[openai,anthropic]",),
        ("pydantic-ai-slim",),
        "`OpenAIProvider(base_url=…/v1, api_key=…)`, `AnthropicProvider(base_url=…, api_key=…)`",
    ),
    Client(
        "instructor",
        "try_instructor.py",
        ("instructor", "anthropic"),
        ("instructor", "openai", "anthropic"),
        '`instructor.from_provider("openai/…", base_url=…/v1, api_key=…)`, `instructor.from_anthropic(Anthropic(base_url=…, api_key=…))`',
    ),
    Client(
        "openai-agents",
        "try_openai_agents.py",
        ("openai-agents",),
        ("openai-agents", "openai"),
        "`AsyncOpenAI(base_url=…/v1, api_key=…)` in `OpenAIResponsesModel` and `OpenAIChatCompletionsModel`",
    ),
    Client(
        "litellm",
        "try_litellm.py",
        ("litellm", "mcp"),  # without mcp its release fails to import as soon as tools are given
        ("litellm",),
        '`completion("openai/…", api_base=…/v1, api_key=…)`, `completion("anthropic/…", api_base=…)`, `responses("openai/…", api_base=…/v1)`',
        notes=("this release fails to import as soon as tools are given, unless `mcp` is installed beside it; so does dspy's.",),
    ),
    Client(
        "dspy",
        "try_dspy.py",
        ("dspy", "mcp"),  # for its litellm
        ("dspy", "litellm"),
        '`dspy.LM("openai/…", api_base=…/v1, api_key=…)`, also with `model_type="responses"`',
    ),
    Client(
        "llm",
        "try_llm.py",
        ("llm",),
        ("llm",),
        "`extra-openai-models.yaml` with `api_base: …/v1`, also with `responses: true`; `llm keys set`",
    ),
    Client(
        "aider",
        "try_aider.py",
        ("aider-chat",),
        ("aider-chat", "litellm"),
        "`OPENAI_API_BASE=…/v1`, `OPENAI_API_KEY=…`, `aider --model openai/…`",
    ),
    Client(
        "node-openai",
        "try_node_openai.mjs",
        ("openai", "zod"),
        ("openai", "zod"),
        "`new OpenAI({baseURL: …/v1, apiKey})`",
    ),
    Client(
        "node-anthropic",
        "try_node_anthropic.mjs",
        ("@anthropic-ai/sdk", "zod"),
        ("@anthropic-ai/sdk", "zod"),
        "`new Anthropic({baseURL: …, apiKey})`",
    ),
    Client(
        "vercel-ai",
        "try_vercel_ai.mjs",
        ("ai", "@ai-sdk/openai", "@ai-sdk/openai-compatible", "@ai-sdk/anthropic", "zod"),
        ("ai", "@ai-sdk/openai", "@ai-sdk/openai-compatible", "@ai-sdk/anthropic"),
        "`createOpenAI`, `createOpenAICompatible`, `createAnthropic` with `({baseURL: …/v1, apiKey})`",
        notes=("`createOpenAICompatible` does not read a refusal's text; `createOpenAI(…).chat` does not read reasoning: these cells are not in its matrix.",),
    ),
)
