// The playground's chat with one of the user's keys. playground_settings.js says what is sent.
"use strict";

const talk = byId("talk");
const scroller = byId("scroller");
const AT_END = 2; // pixels
const MIN_STREAMED = 100; // ms
let running = null;

// -- the conversation --

let following = true;
let lastTop = 0;

function follow() {
  if (following) scroller.scrollTop = scroller.scrollHeight;
  byId("latest").hidden = following;
}

scroller.addEventListener("scroll", () => {
  const left = scroller.scrollHeight - scroller.clientHeight - scroller.scrollTop;
  // The answer may have grown since it was scrolled to its end: only the reader scrolls up.
  if (left < AT_END) following = true;
  else if (scroller.scrollTop < lastTop) following = false;
  lastTop = scroller.scrollTop;
  byId("latest").hidden = following;
});

function followAgain() {
  following = true;
  follow();
}

function addMessage(role, text) {
  const item = document.createElement("li");
  item.className = role;
  const name = document.createElement("strong");
  name.textContent = { user: "You", assistant: "Answer", error: "Error" }[role];
  const words = document.createElement("p");
  words.className = "words";
  words.textContent = text;
  item.append(name, words);
  talk.append(item);
  byId("empty").hidden = true;
  follow();
  return { item, words };
}

function mark(item, text) {
  const tag = document.createElement("span");
  tag.className = "tag poor";
  tag.textContent = text;
  item.querySelector("strong").after(" ", tag);
}

function linkTo(href, text) {
  const link = document.createElement("a");
  link.href = href;
  link.textContent = text;
  return link;
}

function requestLink(id) {
  return linkTo(`${root.dataset.url.replace(/playground$/, "requests")}/${encodeURIComponent(id)}`, "request");
}

function duration(milliseconds) {
  return milliseconds >= 1000 ? `${(milliseconds / 1000).toFixed(1)} s` : `${Math.round(milliseconds)} ms`;
}

function money(usd) {
  const shown = document.createElement("span");
  if (usd === null) {
    shown.textContent = "unpriced";
  } else {
    shown.title = `$${usd}`;
    shown.textContent = weir.usd(usd);
  }
  return shown;
}

// What is known of a turn, below its text.
function addFacts(item, timing, answer, response) {
  const parts = [duration(timing.ended - timing.began)];
  const cache = response && response.headers.get("X-Cache");
  const isReplay = cache === "HIT" || cache === "STALE";
  if (timing.first) parts.push(`first token ${duration(timing.first - timing.began)}`);
  if (answer) {
    const { input_tokens: input, output_tokens: output, total_tokens: total } = answer.usage;
    // Of what came nearly at once, it is not known how long it took to generate.
    const streamed = timing.first ? timing.ended - timing.first : 0;
    const generating = streamed > MIN_STREAMED ? streamed : timing.ended - timing.began;
    if (!isReplay && output && generating > 0) parts.push(`${(output / generating * 1000).toFixed(1)} tokens/s`);
    parts.push(`${total} tokens (${input} in, ${output} out)`, money(answer.cost_usd));
    parts.push(`cache ${cache || "–"}`, answer.provider, answer.model);
  }
  const id = answer ? answer.request_id : response && response.headers.get("X-Request-ID");
  if (id) parts.push(requestLink(id));
  const line = document.createElement("p");
  line.className = "quiet facts-line";
  line.append(...parts.flatMap((part, place) => (place ? [" · ", part] : [part])));
  item.append(line);
}

function addError(error) {
  const { item, words } = addMessage("error", error.message);
  if (error.isSignedOut) words.append(" ", linkTo(location.href, "Sign in"));
  else if (error.request) words.append(" ", requestLink(error.request));
}

// -- the answer --

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += value;
    const parts = rest.split("\n\n");
    rest = parts.pop();
    for (const event of parts) {
      if (event.startsWith("data: ") && event !== "data: [DONE]") yield JSON.parse(event.slice(6));
    }
  }
}

async function receive(response, received) {
  if (!response.headers.get("Content-Type").startsWith("text/event-stream")) {
    const answer = await response.json();
    received(answer.response);
    return answer;
  }
  for await (const event of events(response)) {
    if (event.error) throw new Error(event.error.message);
    if (event.done) return event;
    received(event.content);
  }
  throw new Error("The stream ended early.");
}

// What is wrong with each field, at whatever depth.
function reasons(details) {
  return typeof details === "object" ? Object.values(details || {}).flatMap(reasons) : [String(details)];
}

async function refusal(response) {
  let words = `Weir answered with status ${response.status}.`;
  try {
    const { error, message, details } = await response.json();
    words = error === "ValidationError" ? [message, ...reasons(details)].join(" ") : message;
  } catch {
    // A proxy before Weir answers in words of its own.
  }
  const wait = Number(response.headers.get("Retry-After"));
  if (wait && !/try again in/i.test(words)) words += ` Try again in ${wait} s.`;
  return Object.assign(new Error(words), { isSignedOut: response.status === 401 });
}

async function ask(message) {
  const sent = body(message);
  addMessage("user", message);
  const { item, words } = addMessage("assistant", "");
  item.classList.add("running");
  followAgain();
  // Screen readers announce the complete answer, not each chunk.
  talk.setAttribute("aria-busy", "true");
  running = new AbortController();
  const headers = { "Content-Type": "application/json", Accept: "text/event-stream, application/json", "X-CSRF-Token": root.dataset.token };
  if (byId("no_cache").checked) headers["Cache-Control"] = "no-cache";
  const timing = { began: performance.now(), first: null, ended: null };
  let response = null, answer = null, failure = null;
  try {
    response = await fetch(`${root.dataset.url}/${byId("key").value}`, {
      method: "POST", headers, body: JSON.stringify(sent), signal: running.signal,
    });
    if (!response.ok) throw await refusal(response);
    answer = await receive(response, (text) => {
      if (sent.stream && text) timing.first = timing.first || performance.now();
      words.textContent += text;
      follow();
    });
  } catch (error) {
    failure = error;
    if (error instanceof TypeError && !response) failure = new Error("Weir cannot be reached.");
  }
  timing.ended = performance.now();
  item.classList.remove("running");
  talk.removeAttribute("aria-busy");
  running = null;
  // "New chat" may have been pressed meanwhile.
  if (!item.isConnected) return;
  finish(message, item, words.textContent, { timing, answer, response, failure });
  follow();
}

// Show how a turn ended. What the reader sees of an answer is what the next request says of it.
function finish(message, item, text, { timing, answer, response, failure }) {
  const isStopped = failure && failure.name === "AbortError";
  if (isStopped) mark(item, "stopped");
  else if (failure && text) mark(item, "incomplete");
  if (answer || text) history.push({ role: "user", content: message }, { role: "assistant", content: text });
  if (answer || text || isStopped) addFacts(item, timing, answer, response);
  else item.remove();
  if (failure && !isStopped) {
    failure.request = response && response.headers.get("X-Request-ID");
    addError(failure);
  }
  // A message that has no answer can be sent again.
  if (!answer && !text && !byId("message").value) byId("message").value = message;
}

// -- the controls --

byId("ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  const message = byId("message").value.trim();
  if (!message || running) return;
  byId("message").value = "";
  byId("send").disabled = true;
  byId("stop").hidden = false;
  await ask(message);
  const elsewhere = ![document.body, byId("stop"), byId("send")].includes(document.activeElement);
  byId("send").disabled = false;
  byId("stop").hidden = true;
  if (!elsewhere) byId("message").focus();
  code();
  bars();
});
byId("message").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    byId("ask").requestSubmit();
  }
});
byId("stop").addEventListener("click", () => running && running.abort());
byId("latest").addEventListener("click", () => {
  followAgain();
  scroller.focus();
});
byId("clear").addEventListener("click", (event) => {
  event.preventDefault();
  if (running) running.abort();
  history.length = 0;
  talk.replaceChildren();
  byId("empty").hidden = false;
  followAgain();
  code();
});
byId("keys").hidden = false;
