// Does with the official Anthropic SDK for Node what its users do, one behaviour per function.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

import Anthropic from "@anthropic-ai/sdk";

import { asked, fault } from "./provider.mjs";

const { API_KEY, ANTHROPIC_URL, ANTHROPIC_PROVIDER_URL, CLAUDE: model } = process.env;
const client = new Anthropic({ baseURL: ANTHROPIC_URL, apiKey: API_KEY, timeout: 20_000 });
const impatient = client.withOptions({ maxRetries: 0 });
const provider = new Anthropic({ baseURL: ANTHROPIC_PROVIDER_URL, apiKey: "sk-ant-none" });
const weather = {
  name: "get_weather",
  description: "The weather.",
  input_schema: { type: "object", properties: { place: { type: "string" } }, required: ["place"] },
};

/** The names of the checks as they stand in this file. */
export function inOrder() {
  const source = readFileSync(new URL(import.meta.url), "utf8");
  return [...source.matchAll(/^export async function (\w+)/gm)].map((found) => found[1]);
}

const asking = (content, rest = {}) => ({
  model,
  max_tokens: 200,
  messages: [{ role: "user", content }],
  ...rest,
});

async function all(stream) {
  const items = [];
  for await (const item of stream) items.push(item);
  return items;
}

/** The error of this class and status that the call must end with. */
async function failure(kind, status, call) {
  const error = await call().then(
    () => assert.fail("it did not fail"),
    (raised) => raised,
  );
  assert.equal(error.constructor, kind, `${error}`);
  assert.equal(error.status, status);
  assert.equal(error.error.type, "error");
  return error;
}

// -- messages --

export async function a_message_is_created() {
  const message = await client.messages.create(asking("a plain message"));
  assert.match(message.content[0].text, /a plain message/);
  assert.equal(message.stop_reason, "end_turn");
  assert.ok(message._request_id);
}

export async function answers_and_events_are_the_provider_s_own() {
  const [one, other] = await Promise.all(
    [client, provider].map((by) => by.messages.create(asking("what it is"))),
  );
  assert.deepEqual(one, other);
  for (const rest of [{}, { tools: [weather] }, { system: "Be brief." }]) {
    const [events, direct] = await Promise.all(
      [client, provider].map(async (by) =>
        all(await by.messages.create(asking("the weather", { stream: true, ...rest }))),
      ),
    );
    assert.deepEqual(events, direct);
  }
}

export async function the_stream_helper_brings_the_text() {
  const texts = [];
  const stream = client.messages.stream(asking("one two three four"));
  stream.on("text", (text) => texts.push(text));
  const message = await stream.finalMessage();
  assert.ok(texts.length > 1);
  assert.equal(texts.join(""), message.content[0].text);
}

export async function betas_reach_the_provider() {
  await client.beta.messages.create(asking("with betas", { betas: ["one-beta", "two-beta"] }));
  const [call] = await asked("with betas");
  assert.equal(call.headers["anthropic-beta"], "one-beta,two-beta");
}

export async function a_stream_that_breaks_off_is_an_error() {
  await fault({ error_event: true, pieces: 5 });
  const stream = await impatient.messages.create(asking("it breaks", { stream: true }));
  await assert.rejects(all(stream), Anthropic.APIError);
}

// -- tools, tokens and models --

export async function tools_are_called_and_their_results_taken_back() {
  const question = asking("weather in Ulm", { tools: [weather] });
  const message = await client.messages.create(question);
  const use = message.content.find((block) => block.type === "tool_use");
  assert.equal(use.name, "get_weather");
  const result = { type: "tool_result", tool_use_id: use.id, content: "sunny" };
  const messages = [
    ...question.messages,
    { role: "assistant", content: message.content },
    { role: "user", content: [result] },
  ];
  const answer = await client.messages.create({ ...question, messages });
  assert.match(answer.content[0].text, /sunny/);
}

export async function tokens_are_counted() {
  const { messages } = asking("one two three");
  const count = await client.messages.countTokens({ model, messages });
  assert.equal(count.input_tokens, 3);
}

export async function models_are_listed() {
  const names = (await all(client.models.list({ limit: 1 }))).map((one) => one.id);
  assert.ok(names.includes(model));
  assert.equal((await client.models.retrieve(model)).id, model);
}

// -- errors --

export async function errors_have_their_types() {
  const wrong = new Anthropic({ baseURL: ANTHROPIC_URL, apiKey: "sk-wrong", maxRetries: 0 });
  const create = (rest, by = impatient) => by.messages.create(asking("wrong", rest));
  await failure(Anthropic.AuthenticationError, 401, () => create({}, wrong));
  await failure(Anthropic.BadRequestError, 400, () => create({ messages: [] }));
  await fault({ status: 404, code: "model_not_found" });
  await failure(Anthropic.NotFoundError, 404, () => create({}));
  await fault({ status: 500 });
  await failure(Anthropic.InternalServerError, 502, () => create({}));
  await fault({ status: 429 });
  const busy = await create({}).catch((error) => error);
  assert.equal(busy.status, 529);
  assert.equal(busy.error.error.type, "overloaded_error");
}

export async function a_failed_call_is_tried_again() {
  await fault({ status: 529, times: 1 });
  const message = await client.messages.create(asking("later, please"));
  assert.match(message.content[0].text, /later, please/);
  assert.equal((await asked("later, please")).length, 2);
}
