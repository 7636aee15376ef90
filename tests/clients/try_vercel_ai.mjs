// Vercel's `ai`, with @ai-sdk/openai-compatible and @ai-sdk/openai (chat and responses) and @ai-sdk/anthropic.

import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, generateText, jsonSchema, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import * as kit from "./kit.mjs";
import { matrix, PARAMETERS, PIXEL, PROMPTS, SCHEMA } from "./matrix.mjs";

globalThis.AI_SDK_LOG_WARNINGS = false;
const Person = z.object({ name: z.string(), age: z.number().int() });
const providers = {
  "chat (openai-compatible)": (apiKey = kit.KEY) =>
    createOpenAICompatible({ name: "headgate", baseURL: kit.V1, apiKey, includeUsage: true, supportsStructuredOutputs: true }),
  chat: (apiKey = kit.KEY) => createOpenAI({ baseURL: kit.V1, apiKey }).chat,
  responses: (apiKey = kit.KEY) => createOpenAI({ baseURL: kit.V1, apiKey }),
  messages: (apiKey = kit.KEY) => createAnthropic({ baseURL: kit.V1, apiKey }),
};
const get_weather = tool({
  description: "The weather in a city.", inputSchema: z.object({ city: z.string() }), execute: async ({ city }) => kit.WEATHER[city],
});
const quiet = { onError: () => {} };

for (const [dialect, provider] of Object.entries(providers)) {
  const name = dialect === "messages" ? kit.CLAUDE : kit.MODEL;
  const model = provider()(name);
  kit.check(`${dialect}: plain`, async () => kit.same((await generateText({ model, prompt: "Say hello." })).text, kit.GREETING));
  kit.check(`${dialect}: streamed`, async () => {
    const pieces = await kit.collected(streamText({ model, prompt: "Say hello.", ...quiet }).textStream);
    kit.same(pieces.join(""), kit.GREETING);
    if (pieces.length < 2) throw new Error("one piece only");
    return `${pieces.length} pieces`;
  });
  kit.check(`${dialect}: tools`, async () => {
    const { text, steps, response } = await generateText({ model, prompt: kit.QUESTION, tools: { get_weather }, stopWhen: stepCountIs(3) });
    kit.answeredWithTheWeather(text);
    kit.same(steps[0].toolCalls.length, 2);
    const messages = [{ role: "user", content: kit.QUESTION }, ...response.messages, { role: "user", content: "Say hello." }];
    kit.same((await generateText({ model, messages })).text, kit.GREETING);
  });
  kit.check(`${dialect}: tools, streamed`, async () => {
    const result = streamText({ model, prompt: kit.QUESTION, tools: { get_weather }, stopWhen: stepCountIs(3), ...quiet });
    kit.answeredWithTheWeather(await result.text);
    kit.same((await result.steps)[0].toolCalls.length, 2);
  });
  kit.check(`${dialect}: structured`, async () => {
    const output = Output.object({ schema: Person });
    kit.same((await generateText({ model, prompt: kit.PERSON, output })).output, kit.ADA);
    kit.same(await streamText({ model, prompt: kit.PERSON, output, ...quiet }).output, kit.ADA);
  });
  kit.check(`${dialect}: wrong key`, async () => {
    const error = await caught(() => generateText({ model: provider(kit.WRONG_KEY)(name), prompt: "Say hello.", maxRetries: 0 }));
    kit.same([APICallError.isInstance(error), error.statusCode, error.isRetryable], [true, 401, false]);
    kit.within("API key", error.message);
    return "APICallError 401";
  });
  kit.check(`${dialect}: bad request`, async () => {
    const error = await caught(() => generateText({ model, prompt: "Say hello.", topP: 9 }));
    kit.same([APICallError.isInstance(error), error.statusCode, error.isRetryable], [true, 400, false]);
    kit.within("top_p", error.message);
    return "APICallError 400";
  });
  kit.check(`${dialect}: usage`, async () => {
    const read = (usage) => kit.sameUsage(usage.inputTokens, usage.outputTokens, usage.inputTokenDetails.cacheReadTokens);
    const said = await read((await generateText({ model, prompt: "Say hello." })).usage);
    await read(await streamText({ model, prompt: "Say hello.", ...quiet }).usage);
    return said;
  });
}

async function caught(action) {
  try {
    await action();
  } catch (error) {
    return error;
  }
  throw new Error("it was not refused");
}

async function ask(dialect, name, stream, kind) {
  const text = PROMPTS[kind];
  const body = { model: providers[dialect]()(name), messages: [{ role: "user", content: text }], ...quiet };
  if (kind.endsWith("tools")) body.tools = { get_weather: tool({ description: "The weather in a city.", inputSchema: jsonSchema(PARAMETERS) }) };
  if (kind === "image") body.messages[0].content = [{ type: "text", text }, { type: "image", image: PIXEL, mediaType: "image/png" }];
  if (kind === "JSON schema") body.output = Output.object({ schema: jsonSchema(SCHEMA) });
  if (kind === "reasoning")
    body.providerOptions = {
      openai: { reasoningEffort: "low", reasoningSummary: "auto" }, headgate: { reasoningEffort: "low" }, anthropic: { thinking: { type: "enabled", budgetTokens: 1024 } },
    };
  if (kind === "max tokens") body.maxOutputTokens = 2000;
  const result = stream ? streamText(body) : await generateText(body);
  if (stream) await result.consumeStream();
  const usage = await result.usage;
  const finish = await result.finishReason;
  return {
    text: await result.text, reasoning: await result.reasoningText, refused: finish === "content-filter" || (await result.text) === "I will not.", cut: finish === "length",
    calls: (await result.toolCalls).map((call) => [call.toolName, call.input]), input: usage.inputTokens, output: usage.outputTokens,
  };
}

matrix(Object.keys(providers), ask, ["chat (openai-compatible)/refusal", "chat/reasoning"]);
await kit.run();
