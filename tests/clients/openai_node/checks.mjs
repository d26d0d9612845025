// Does with the official OpenAI SDK for Node what its users do, one behaviour per function.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { setTimeout as pause } from "node:timers/promises";

import OpenAI from "openai";
import { zodFunction, zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

import { asked, fault } from "./provider.mjs";

const { API_KEY, BASE_URL, EXHAUSTED_KEY, MODEL: model, SLOW_KEY } = process.env;
const client = new OpenAI({ baseURL: BASE_URL, apiKey: API_KEY, timeout: 20_000 });
const impatient = client.withOptions({ maxRetries: 0 });

const Event = z.object({ name: z.string(), day: z.int(), guests: z.array(z.string()) });
const Weather = z.object({ place: z.string(), days: z.int() });
const Time = z.object({ place: z.string() });
const weatherTool = () => zodFunction({ name: "get_weather", parameters: Weather });
const timeTool = () => zodFunction({ name: "get_time", parameters: Time });

/** The names of the checks as they stand in this file. */
export function inOrder() {
  const source = readFileSync(new URL(import.meta.url), "utf8");
  return [...source.matchAll(/^export async function (\w+)/gm)].map((found) => found[1]);
}

const user = (content) => [{ role: "user", content }];
const ask = (content, rest = {}, by = client) =>
  by.chat.completions.create({ model, messages: user(content), ...rest });
const joined = (chunks) =>
  chunks.flatMap((chunk) => chunk.choices.map((choice) => choice.delta.content ?? "")).join("");

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
  for (const key of ["message", "type", "param", "code"]) assert.ok(key in error.error, key);
  return error;
}

// -- chat --

export async function a_chat_is_answered() {
  const answer = await ask("a plain chat");
  assert.match(answer.choices[0].message.content, /a plain chat/);
  assert.equal(answer.choices[0].finish_reason, "stop");
  assert.equal(answer.model, model);
  const { prompt_tokens, completion_tokens, total_tokens } = answer.usage;
  assert.equal(total_tokens, prompt_tokens + completion_tokens);
}

export async function a_request_has_an_id() {
  const headers = { "X-Request-ID": "my-own-id.2" };
  const answer = await client.chat.completions.create({ model, messages: user("id") }, { headers });
  assert.equal(answer._request_id, "my-own-id.2");
}

export async function an_answer_tells_the_limits_in_headers() {
  const { response } = await ask("limits").withResponse();
  assert.equal(response.headers.get("x-ratelimit-limit-requests"), "9999");
  assert.ok(Number(response.headers.get("x-ratelimit-remaining-requests")) > 0);
  assert.ok(response.headers.get("x-ratelimit-reset-requests"));
}

export async function an_equal_question_is_answered_from_the_cache() {
  const states = [];
  for (const headers of [{}, {}, { "Cache-Control": "no-cache" }]) {
    const body = { model, messages: user("asked twice") };
    const { response } = await client.chat.completions.create(body, { headers }).withResponse();
    states.push(response.headers.get("x-cache"));
  }
  assert.deepEqual(states, ["MISS", "HIT", "BYPASS"]);
  assert.equal((await asked("asked twice")).length, 2);
}

export async function fields_that_the_sdk_does_not_know_reach_the_provider() {
  const x_future_field = { deep: [1, null, "ü"] };
  await ask("from the future", { x_future_field, seed: 7, stop: ["END"] });
  const [call] = await asked("from the future");
  const messages = user("from the future");
  assert.deepEqual(call.body, { model, messages, x_future_field, seed: 7, stop: ["END"] });
}

export async function several_choices_and_log_probabilities_come_back() {
  const answer = await ask("three of you", { n: 3, logprobs: true, top_logprobs: 2 });
  assert.deepEqual(answer.choices.map((choice) => choice.index), [0, 1, 2]);
  for (const { logprobs, message } of answer.choices) {
    assert.equal(logprobs.content.map((one) => one.token).join(""), message.content);
  }
}

// -- streams --

export async function a_stream_brings_the_answer_in_pieces_without_usage() {
  const chunks = await all(await ask("one two three four", { stream: true }));
  assert.match(joined(chunks), /one two three four/);
  assert.ok(chunks.filter((chunk) => joined([chunk])).length > 1);
  assert.ok(chunks.every((chunk) => chunk.choices.length && !("usage" in chunk)));
  assert.equal(chunks.at(-1).choices[0].finish_reason, "stop");
}

export async function a_stream_ends_with_its_usage_when_asked() {
  const options = { stream: true, stream_options: { include_usage: true } };
  const chunks = await all(await ask("usage please", options));
  const last = chunks.pop();
  assert.deepEqual(last.choices, []);
  assert.ok(last.usage.total_tokens > 0);
  assert.ok(chunks.every((chunk) => chunk.choices.length && chunk.usage === null));
}

export async function the_stream_helper_collects_the_answer() {
  const stream = client.chat.completions.stream({ model, messages: user("collect this") });
  const deltas = [];
  stream.on("content", (delta) => deltas.push(delta));
  const answer = await stream.finalChatCompletion();
  assert.match(answer.choices[0].message.content, /collect this/);
  assert.equal(deltas.join(""), answer.choices[0].message.content);
}

export async function a_stream_that_breaks_off_is_an_error() {
  for (const wrong of ["cut", "error_event"]) {
    await fault({ [wrong]: true, pieces: 5 });
    const stream = await ask(`it breaks: ${wrong}`, { stream: true }, impatient);
    await assert.rejects(all(stream), OpenAI.APIError);
  }
}

export async function a_stream_that_is_aborted_ends_at_the_provider() {
  await fault({ gap: 0.2, pieces: 100 });
  const stream = await ask("I hang up early", { stream: true });
  for await (const chunk of stream) {
    if (joined([chunk])) break;
  }
  for (let tries = 0; tries < 100; tries += 1) {
    const [call] = await asked("I hang up early");
    if (call.hung_up) return;
    await pause(50);
  }
  assert.fail("the provider goes on");
}

// -- tools --

export async function tools_are_called_in_parallel() {
  const answer = await ask("weather and time in Ulm", { tools: [weatherTool(), timeTool()] });
  const [choice] = answer.choices;
  assert.equal(choice.finish_reason, "tool_calls");
  const names = choice.message.tool_calls.map((call) => call.function.name);
  assert.deepEqual(names, ["get_weather", "get_time"]);
}

export async function tool_calls_are_streamed_piece_by_piece() {
  const tools = [weatherTool(), timeTool()];
  const chunks = await all(await ask("weather and time in Bonn", { tools, stream: true }));
  const deltas = chunks.flatMap((chunk) => chunk.choices[0].delta.tool_calls ?? []);
  const names = deltas.map((delta) => delta.function.name).filter(Boolean);
  assert.deepEqual(names, ["get_weather", "get_time"]);
  for (const index of [0, 1]) {
    const pieces = deltas.filter((delta) => delta.index === index);
    assert.ok(pieces.length > 1);
    JSON.parse(pieces.map((delta) => delta.function.arguments ?? "").join(""));
  }
}

export async function the_stream_helper_collects_tool_calls() {
  const stream = client.chat.completions.stream({
    model,
    messages: user("weather in Linz"),
    tools: [weatherTool()],
  });
  const [call] = (await stream.finalChatCompletion()).choices[0].message.tool_calls;
  assert.equal(call.function.name, "get_weather");
  Weather.parse(call.function.parsed_arguments);
}

export async function the_arguments_of_a_tool_are_parsed() {
  const answer = await client.chat.completions.parse({
    model,
    messages: user("weather in Graz"),
    tools: [weatherTool()],
  });
  Weather.parse(answer.choices[0].message.tool_calls[0].function.parsed_arguments);
}

export async function the_result_of_a_tool_is_taken_back() {
  const { message } = (await ask("weather in Wien", { tools: [weatherTool()] })).choices[0];
  const result = { role: "tool", tool_call_id: message.tool_calls[0].id, content: "sunny in Wien" };
  const messages = [...user("weather in Wien"), message, result];
  await client.chat.completions.create({ model, messages });
  const [call] = await asked("sunny in Wien");
  assert.deepEqual(call.body.messages, messages);
}

// -- structured output --

export async function a_structured_answer_is_parsed() {
  const answer = await client.chat.completions.parse({
    model,
    messages: user("a party"),
    response_format: zodResponseFormat(Event, "event"),
  });
  Event.parse(answer.choices[0].message.parsed);
}

export async function a_structured_answer_is_streamed_and_parsed() {
  const stream = client.chat.completions.stream({
    model,
    messages: user("a concert"),
    response_format: zodResponseFormat(Event, "event"),
  });
  Event.parse((await stream.finalChatCompletion()).choices[0].message.parsed);
}

// -- embeddings and models --

export async function an_embedding_is_the_same_in_both_encodings() {
  // The SDK asks for base64 where its user does not choose, and decodes it.
  const compact = await client.embeddings.create({ model, input: "embed me" });
  const encoding_format = "float";
  const plain = await client.embeddings.create({ model, input: "embed me", encoding_format });
  const numbers = plain.data[0].embedding;
  assert.ok(numbers.length > 0);
  assert.equal(compact.data[0].embedding.length, numbers.length);
  compact.data[0].embedding.forEach((number, index) => {
    assert.ok(Math.abs(number - numbers[index]) < 1e-6);
  });
}

export async function the_models_are_listed_and_retrieved() {
  const ids = (await all(client.models.list())).map((one) => one.id);
  assert.ok(ids.includes(model), `${ids}`);
  assert.equal((await client.models.retrieve(model)).id, model);
}

export async function a_model_that_does_not_exist_is_not_found() {
  const error = await failure(OpenAI.NotFoundError, 404, () =>
    impatient.models.retrieve("no-such/model"),
  );
  assert.equal(error.code, "model_not_found");
}

// -- responses --

/** What a client gets in the course of one script. */
async function scripted(by) {
  const { parameters } = weatherTool().function;
  const tools = [{ type: "function", name: "get_weather", parameters, strict: true }];
  const first = await by.responses.create({ model, input: "weather in Rom", tools });
  const results = first.output
    .filter((item) => item.type === "function_call")
    .map(({ call_id }) => ({ type: "function_call_output", call_id, output: "It rains." }));
  const previous_response_id = first.id;
  const second = await by.responses.create({ model, previous_response_id, input: results });
  const reasoning = { effort: "low" };
  const input = "think it over";
  const events = await all(await by.responses.create({ model, input, reasoning, stream: true }));
  const stream = by.responses.stream({ model, input: "piece after piece" });
  const helped = await all(stream);
  const final = await stream.finalResponse();
  const text = { format: zodTextFormat(Event, "event") };
  const parsed = await by.responses.parse({ model, input: "a feast", text });
  assert.ok(Event.safeParse(parsed.output_parsed).success);
  const found = await by.responses.retrieve(second.id);
  const items = await all(by.responses.inputItems.list(second.id, { order: "asc", limit: 1 }));
  await by.responses.delete(second.id);
  await assert.rejects(by.responses.retrieve(second.id), OpenAI.NotFoundError);
  return [first, second, ...events, ...helped, final, parsed, found, ...items];
}

export async function a_script_of_responses_gets_the_provider_s_own_in_every_field() {
  const direct = await scripted(client.withOptions({ baseURL: process.env.PROVIDER_URL }));
  const through = await scripted(client);
  assert.ok(through.length > 25);
  const plain = (values) => JSON.parse(JSON.stringify(values));
  assert.deepEqual(plain(through), plain(direct));
}

export async function a_response_that_breaks_off_has_failed() {
  await fault({ cut: true, pieces: 5 });
  const events = await all(await client.responses.create({ model, input: "cut me", stream: true }));
  assert.equal(events.at(-1).type, "response.failed");
  assert.equal(events.at(-1).response.error.code, "server_error");
}

export async function errors_of_responses_have_their_types() {
  await failure(OpenAI.NotFoundError, 404, () => impatient.responses.retrieve("resp_nothing"));
  await failure(OpenAI.BadRequestError, 400, () =>
    impatient.responses.create({ model, input: "later", background: true }),
  );
}

// -- errors and retries --

export async function a_bad_key_is_an_authentication_error() {
  const stranger = impatient.withOptions({ apiKey: "sk-not-a-key-of-yours" });
  await failure(OpenAI.AuthenticationError, 401, () => ask("let me in", {}, stranger));
}

export async function a_bad_request_names_the_parameter() {
  const error = await failure(OpenAI.BadRequestError, 400, () =>
    impatient.chat.completions.create({ model, messages: "not a list" }),
  );
  assert.equal(error.type, "invalid_request_error");
  assert.equal(error.param, "messages");
}

export async function a_limit_is_a_rate_limit_error() {
  const limited = impatient.withOptions({ apiKey: EXHAUSTED_KEY });
  for (const number of [1, 2]) await ask(`within the limit ${number}`, {}, limited);
  const error = await failure(OpenAI.RateLimitError, 429, () => ask("too many", {}, limited));
  assert.ok(Number(error.headers.get("retry-after")) > 0);
}

export async function a_provider_that_fails_is_a_server_error() {
  await fault({ status: 500 });
  await failure(OpenAI.InternalServerError, 502, () => ask("fail over there", {}, impatient));
  await failure(OpenAI.InternalServerError, 502, () =>
    ask("fail over there", { stream: true }, impatient),
  );
}

export async function a_failure_is_tried_again_by_the_client() {
  await fault({ status: 500, times: 1 });
  const answer = await ask("second time lucky");
  assert.match(answer.choices[0].message.content, /second time lucky/);
  assert.equal((await asked("second time lucky")).length, 2);
}

export async function a_limit_is_waited_for_by_the_client() {
  const slow = client.withOptions({ apiKey: SLOW_KEY });
  const began = performance.now();
  await ask("the first of this second", {}, slow);
  const answer = await ask("the second of this second", {}, slow);
  assert.match(answer.choices[0].message.content, /the second of this second/);
  assert.ok(performance.now() - began > 500);
}
