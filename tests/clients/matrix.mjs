// Three dialects, streamed and not, eight kinds of answer, three providers: the same text, calls, usage and cost, whoever answers.
//
// A client gives `ask(dialect, model, streamed, kind)`, which returns {text, calls, reasoning, refused, cut, input, output, cost}; `cost` may be
// undefined where the client does not show it. `unread` names the cells, "dialect/kind", that the client has no word for.

import { ADA, GREETING, check, ledger, same } from "./kit.mjs";

const PROVIDERS = { openai: process.env.HEADGATE_OPENAI, anthropic: process.env.HEADGATE_ANTHROPIC, gemini: process.env.HEADGATE_GEMINI };

export const PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

export const SCHEMA = {
  type: "object",
  properties: { name: { type: "string" }, age: { type: "integer" } },
  required: ["name", "age"],
  additionalProperties: false,
};

export const PARAMETERS = { type: "object", properties: { city: { type: "string" } }, required: ["city"], additionalProperties: false };

export const PROMPTS = {
  text: "Say hello.",
  tools: "What is the weather in Paris?",
  "parallel tools": "What is the weather in Paris and in Oslo?",
  image: "What is in the image?",
  "JSON schema": "Who is the person? Ada is 36.",
  reasoning: "Please think, then say hello.",
  refusal: "Please refuse.",
  "max tokens": "Say hello in at most five tokens.",
};

const WANTED = {
  text: (answer) => same(answer.text, GREETING),
  tools: (answer) => same(answer.calls, [["get_weather", { city: "Paris" }]]),
  "parallel tools": (answer) => same(answer.calls, [["get_weather", { city: "Paris" }], ["get_weather", { city: "Oslo" }]]),
  image: (answer) => same(answer.text, GREETING + " I see 1 image."),
  "JSON schema": (answer) => same(JSON.parse(answer.text), ADA),
  reasoning: (answer) => {
    same(answer.text, GREETING);
    same(answer.reasoning, "They want a greeting.");
  },
  refusal: (answer) => same(answer.refused, true),
  "max tokens": (answer) => same([answer.text, answer.cut], [GREETING, true]),
};

export function matrix(dialects, ask, unread = []) {
  if (!process.env.HEADGATE_MATRIX) return;
  for (const dialect of dialects)
    for (const [provider, model] of Object.entries(PROVIDERS))
      check(`${dialect}: matrix, ${provider}`, async () => {
        const failures = [];
        let cells = 0;
        for (const streamed of [false, true])
          for (const [kind, wanted] of Object.entries(WANTED)) {
            if (unread.includes(`${dialect}/${kind}`)) continue;
            cells++;
            try {
              const answer = await ask(dialect, model, streamed, kind);
              wanted(answer);
              const [row] = await ledger();
              same([answer.input, answer.output, row.backend], [row.input_tokens, row.output_tokens, provider]);
              if (answer.cost !== undefined) same(answer.cost, row.cost_usd);
            } catch (error) {
              failures.push(`${kind}${streamed ? " (streamed)" : ""}: ${error.message}`);
            }
          }
        if (failures.length) throw new Error(`${failures.length} of ${cells} cells: ${failures.join(" | ")}`);
        return `${cells} cells`;
      });
}
