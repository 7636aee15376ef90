// Node's `openai`: chat completions and responses, its stream helpers, its tool runner, its zod formats.

import OpenAI from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import * as kit from "./kit.mjs";
import { matrix, PARAMETERS, PIXEL, PROMPTS, SCHEMA } from "./matrix.mjs";

const Person = z.object({ name: z.string(), age: z.number().int() });
const HELLO = [{ role: "user", content: "Say hello." }];
const connect = (apiKey = kit.KEY) => new OpenAI({ baseURL: kit.V1, apiKey });
const client = connect();
const weather = {
  type: "function",
  function: { name: "get_weather", description: "The weather in a city.", parameters: PARAMETERS, parse: JSON.parse, function: ({ city }) => kit.WEATHER[city] },
};
const { function: { parse: _, function: __, ...flat } } = weather;
const responsesTool = { type: "function", strict: true, ...flat };

kit.check("chat: plain", async () => {
  const answer = await client.chat.completions.create({ model: kit.MODEL, messages: HELLO });
  kit.same(answer.choices[0].message.content, kit.GREETING);
});
kit.check("chat: streamed", async () => {
  const stream = client.chat.completions.stream({ model: kit.MODEL, messages: HELLO });
  const chunks = await kit.collected(stream);
  kit.same((await stream.finalChatCompletion()).choices[0].message.content, kit.GREETING);
  return `${chunks.length} chunks`;
});
for (const stream of [false, true])
  kit.check(`chat: tools${stream ? ", streamed" : ""}`, async () => {
    const runner = client.chat.completions.runTools({ model: kit.MODEL, messages: [{ role: "user", content: kit.QUESTION }], tools: [weather], stream });
    kit.answeredWithTheWeather(await runner.finalContent());
    kit.same(runner.messages.filter((message) => message.role === "tool").length, 2);
  });
kit.check("chat: structured", async () => {
  const answer = await client.chat.completions.parse({
    model: kit.MODEL, messages: [{ role: "user", content: kit.PERSON }], response_format: zodResponseFormat(Person, "person"),
  });
  kit.same(answer.choices[0].message.parsed, kit.ADA);
});
kit.check("chat: usage", async () => {
  const { usage } = await client.chat.completions.create({ model: kit.MODEL, messages: HELLO });
  const said = await kit.sameUsage(usage.prompt_tokens, usage.completion_tokens, usage.prompt_tokens_details.cached_tokens);
  const last = (await kit.collected(await client.chat.completions.create({ model: kit.MODEL, messages: HELLO, stream: true, stream_options: { include_usage: true } }))).at(-1);
  await kit.sameUsage(last.usage.prompt_tokens, last.usage.completion_tokens);
  return said;
});

kit.check("responses: plain", async () => {
  kit.same((await client.responses.create({ model: kit.MODEL, input: "Say hello." })).output_text, kit.GREETING);
});
kit.check("responses: streamed", async () => {
  const stream = client.responses.stream({ model: kit.MODEL, input: "Say hello." });
  const events = await kit.collected(stream);
  kit.same((await stream.finalResponse()).output_text, kit.GREETING);
  kit.same(events.at(-1).type, "response.completed");
  return `${events.length} events`;
});
for (const stream of [false, true])
  kit.check(`responses: tools${stream ? ", streamed" : ""}`, async () => {
    const ask = async (body) => (stream ? await client.responses.stream(body).finalResponse() : await client.responses.create(body));
    const input = [{ role: "user", content: kit.QUESTION }];
    const first = await ask({ model: kit.MODEL, input, tools: [responsesTool] });
    const calls = first.output.filter((item) => item.type === "function_call");
    kit.same(calls.map((call) => JSON.parse(call.arguments).city), Object.keys(kit.WEATHER));
    const results = calls.map((call) => ({ type: "function_call_output", call_id: call.call_id, output: kit.WEATHER[JSON.parse(call.arguments).city] }));
    const output = first.output.map(({ parsed_arguments, ...item }) => item);
    kit.answeredWithTheWeather((await ask({ model: kit.MODEL, input: [...input, ...output, ...results], tools: [responsesTool] })).output_text);
    const kept = await ask({ model: kit.MODEL, previous_response_id: first.id, input: results, tools: [responsesTool] });
    kit.answeredWithTheWeather(kept.output_text);
    return "history sent, and by previous_response_id";
  });
kit.check("responses: structured", async () => {
  const answer = await client.responses.parse({ model: kit.MODEL, input: kit.PERSON, text: { format: zodTextFormat(Person, "person") } });
  kit.same(answer.output_parsed, kit.ADA);
});
kit.check("responses: usage", async () => {
  const { usage } = await client.responses.create({ model: kit.MODEL, input: "Say hello." });
  const said = await kit.sameUsage(usage.input_tokens, usage.output_tokens, usage.input_tokens_details.cached_tokens);
  const streamed = (await client.responses.stream({ model: kit.MODEL, input: "Say hello." }).finalResponse()).usage;
  await kit.sameUsage(streamed.input_tokens, streamed.output_tokens);
  return said;
});

const calls = {
  chat: (connection, more) => connection.chat.completions.create({ model: kit.MODEL, messages: HELLO, ...more }),
  responses: (connection, more) => connection.responses.create({ model: kit.MODEL, input: "Say hello.", ...more }),
};
for (const [dialect, call] of Object.entries(calls)) {
  kit.check(`${dialect}: wrong key`, () => kit.refused(OpenAI.AuthenticationError, () => call(connect(kit.WRONG_KEY), {}), "API key"));
  kit.check(`${dialect}: bad request`, () => kit.refused(OpenAI.BadRequestError, () => call(client, { top_p: 9 }), "top_p"));
}

const image = `data:image/png;base64,${PIXEL}`;

async function askChat(model, stream, kind) {
  const text = PROMPTS[kind];
  const body = { model, messages: [{ role: "user", content: text }], stream };
  if (kind.endsWith("tools")) body.tools = [{ type: "function", function: flat }];
  if (kind === "image") body.messages[0].content = [{ type: "text", text }, { type: "image_url", image_url: { url: image } }];
  if (kind === "JSON schema") body.response_format = { type: "json_schema", json_schema: { name: "person", schema: SCHEMA, strict: true } };
  if (kind === "reasoning") body.reasoning_effort = "low";
  if (kind === "max tokens") body.max_completion_tokens = 2000;
  let answer, headgate, reasoning;
  if (stream) {
    const helper = client.chat.completions.stream({ ...body, stream_options: { include_usage: true } });
    const chunks = await kit.collected(helper);
    answer = await helper.finalChatCompletion();
    headgate = chunks.findLast((chunk) => chunk.headgate).headgate;
    reasoning = chunks.map((chunk) => chunk.choices[0]?.delta.reasoning_content ?? "").join("");
  } else {
    answer = await client.chat.completions.create(body);
    headgate = answer.headgate;
    reasoning = answer.choices[0].message.reasoning_content;
  }
  const [{ message, finish_reason }] = answer.choices;
  return {
    text: message.content, reasoning, refused: Boolean(message.refusal) || finish_reason === "content_filter", cut: finish_reason === "length",
    calls: (message.tool_calls ?? []).map((call) => [call.function.name, JSON.parse(call.function.arguments)]),
    input: answer.usage.prompt_tokens, output: answer.usage.completion_tokens, cost: headgate.cost_usd,
  };
}

async function askResponses(model, stream, kind) {
  const text = PROMPTS[kind];
  const body = { model, input: text };
  if (kind.endsWith("tools")) body.tools = [responsesTool];
  if (kind === "image") body.input = [{ role: "user", content: [{ type: "input_text", text }, { type: "input_image", image_url: image, detail: "auto" }] }];
  if (kind === "JSON schema") body.text = { format: { type: "json_schema", name: "person", schema: SCHEMA, strict: true } };
  if (kind === "reasoning") body.reasoning = { effort: "low", summary: "auto" };
  if (kind === "max tokens") body.max_output_tokens = 2000;
  const answer = stream ? await client.responses.stream(body).finalResponse() : await client.responses.create(body);
  const parts = answer.output.flatMap((item) => (item.type === "message" ? item.content : []));
  const thoughts = answer.output.flatMap((item) => (item.type === "reasoning" ? [...(item.summary ?? []), ...(item.content ?? [])] : []));
  const why = answer.incomplete_details?.reason;
  return {
    text: parts.filter((part) => part.type === "output_text").map((part) => part.text).join(""),
    reasoning: thoughts.map((thought) => thought.text).join(""),
    refused: parts.some((part) => part.type === "refusal") || why === "content_filter",
    cut: why === "max_output_tokens",
    calls: answer.output.filter((item) => item.type === "function_call").map((call) => [call.name, JSON.parse(call.arguments)]),
    input: answer.usage.input_tokens, output: answer.usage.output_tokens, cost: answer.headgate.cost_usd,
  };
}

matrix(["chat", "responses"], (dialect, ...rest) => (dialect === "chat" ? askChat : askResponses)(...rest));
await kit.run();
