// Node's `@anthropic-ai/sdk`: messages, its stream helper, its tool runner, its zod format, and counting tokens.

import Anthropic from "@anthropic-ai/sdk";
import { betaZodTool } from "@anthropic-ai/sdk/helpers/beta/zod";
import { zodOutputFormat } from "@anthropic-ai/sdk/helpers/zod";
import { z } from "zod";
import * as kit from "./kit.mjs";
import { matrix, PARAMETERS, PIXEL, PROMPTS, SCHEMA } from "./matrix.mjs";

const Person = z.object({ name: z.string(), age: z.number().int() });
const HELLO = { model: kit.CLAUDE, max_tokens: 500, messages: [{ role: "user", content: "Say hello." }] };
const connect = (apiKey = kit.KEY) => new Anthropic({ baseURL: kit.URL_, apiKey });
const client = connect();
const tool = { name: "get_weather", description: "The weather in a city.", input_schema: PARAMETERS };
const textOf = (message) => message.content.filter((block) => block.type === "text").map((block) => block.text).join("");

kit.check("messages: plain", async () => kit.same(textOf(await client.messages.create(HELLO)), kit.GREETING));
kit.check("messages: streamed", async () => {
  const stream = client.messages.stream(HELLO);
  const events = await kit.collected(stream);
  kit.same(await stream.finalText(), kit.GREETING);
  kit.same(events.at(-1).type, "message_stop");
  return `${events.length} events`;
});
for (const stream of [false, true])
  kit.check(`messages: tools${stream ? ", streamed" : ""}`, async () => {
    const ask = async (messages) => {
      const body = { ...HELLO, messages, tools: [tool] };
      return stream ? await client.messages.stream(body).finalMessage() : await client.messages.create(body);
    };
    const messages = [{ role: "user", content: kit.QUESTION }];
    const first = await ask(messages);
    kit.same(first.stop_reason, "tool_use");
    const uses = first.content.filter((block) => block.type === "tool_use");
    kit.same(uses.map((use) => use.input.city), Object.keys(kit.WEATHER));
    messages.push({ role: "assistant", content: first.content });
    messages.push({ role: "user", content: uses.map((use) => ({ type: "tool_result", tool_use_id: use.id, content: kit.WEATHER[use.input.city] })) });
    kit.answeredWithTheWeather(textOf(await ask(messages)));
  });
kit.check("messages: tool runner", async () => {
  const weather = betaZodTool({ name: "get_weather", description: "The weather in a city.", inputSchema: z.object({ city: z.string() }), run: ({ city }) => kit.WEATHER[city] });
  const last = await client.beta.messages.toolRunner({ ...HELLO, messages: [{ role: "user", content: kit.QUESTION }], tools: [weather] });
  kit.answeredWithTheWeather(textOf(last));
});
kit.check("messages: structured", async () => {
  const answer = await client.messages.parse({ ...HELLO, messages: [{ role: "user", content: kit.PERSON }], output_config: { format: zodOutputFormat(Person) } });
  kit.same(answer.parsed_output, kit.ADA);
});
kit.check("messages: tokens counted", async () => {
  const { input_tokens } = await client.messages.countTokens({ model: kit.CLAUDE, messages: HELLO.messages });
  kit.same(input_tokens > 0, true);
  return `${input_tokens} tokens`;
});
kit.check("messages: wrong key", () => kit.refused(Anthropic.AuthenticationError, () => connect(kit.WRONG_KEY).messages.create(HELLO), "API key"));
kit.check("messages: bad request", () => kit.refused(Anthropic.BadRequestError, () => client.messages.create({ ...HELLO, max_tokens: -1 }), "max_tokens"));
kit.check("messages: usage", async () => {
  const read = async ({ usage }) => kit.sameUsage(usage.input_tokens + usage.cache_read_input_tokens, usage.output_tokens, usage.cache_read_input_tokens);
  const said = await read(await client.messages.create(HELLO));
  await read(await client.messages.stream(HELLO).finalMessage());
  return said;
});

async function ask(_, model, stream, kind) {
  const text = PROMPTS[kind];
  const body = { model, max_tokens: 4000, messages: [{ role: "user", content: text }] };
  if (kind.endsWith("tools")) body.tools = [tool];
  if (kind === "image") body.messages[0].content = [{ type: "image", source: { type: "base64", media_type: "image/png", data: PIXEL } }, { type: "text", text }];
  if (kind === "JSON schema") body.output_config = { format: { type: "json_schema", schema: SCHEMA } };
  if (kind === "reasoning") body.thinking = { type: "enabled", budget_tokens: 1024 };
  let answer, headgate;
  if (stream) {
    const helper = client.messages.stream(body);
    const events = await kit.collected(helper);
    answer = await helper.finalMessage();
    headgate = events.findLast((event) => event.headgate)?.headgate;
  } else {
    answer = await client.messages.create(body);
    headgate = answer.headgate;
  }
  const { usage } = answer;
  return {
    text: textOf(answer), reasoning: answer.content.filter((block) => block.type === "thinking").map((block) => block.thinking).join(""),
    refused: answer.stop_reason === "refusal", cut: answer.stop_reason === "max_tokens",
    calls: answer.content.filter((block) => block.type === "tool_use").map((use) => [use.name, use.input]),
    input: usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens, output: usage.output_tokens, cost: headgate?.cost_usd,
  };
}

matrix(["messages"], ask);
await kit.run();
