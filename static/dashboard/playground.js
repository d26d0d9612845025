// The playground: a chat with one of the user's keys, and the same request as code.
"use strict";

const root = document.querySelector(".playground");
const byId = (id) => document.getElementById(id);
const talk = byId("talk");
const scroller = byId("scroller");
// The turns that are sent along with the next message.
const history = JSON.parse(byId("history").value);
const HISTORY_MAX = 200;
const AT_END = 2; // pixels
const MIN_STREAMED = 100; // ms
const NARROW = "(max-width: 50rem)";
let running = null;

// -- the request --

function model() {
  const chosen = byId("model").selectedOptions[0];
  return chosen && "other" in chosen.dataset ? byId("other-model").value.trim() : byId("model").value;
}

function settings() {
  const number = (name) => (byId(name).value ? { [name]: Number(byId(name).value) } : {});
  return { ...number("temperature"), stream: byId("stream").checked, ...number("max_tokens") };
}

function body(message) {
  const sent = { message };
  if (model()) sent.model = model();
  if (byId("system").value.trim()) sent.system = byId("system").value.trim();
  if (history.length) sent.history = history.slice(-HISTORY_MAX);
  return { ...sent, ...settings() };
}

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

// -- the same request as code --

const unquoted = (json) => json.replace(/^(\s*)"(\w+)": /gm, "$1$2: ");
const inShell = (json) => json.replaceAll("'", "'\\''");
const inPython = (value) => (typeof value === "boolean" ? (value ? "True" : "False") : JSON.stringify(value));

function completion(message) {
  const sent = body(message);
  const system = sent.system ? [{ role: "system", content: sent.system }] : [];
  const messages = [...system, ...(sent.history || []), { role: "user", content: message }];
  return { ...(sent.model ? { model: sent.model } : {}), messages, ...settings() };
}

function code() {
  const message = byId("message").value || root.dataset.example;
  const whole = completion(message);
  const bypasses = byId("no_cache").checked;
  const json = JSON.stringify(whole, null, 2);
  const pythons = Object.entries(whole).map(([name, value]) => `${name}=${inPython(value)},`);
  if (bypasses) pythons.push('extra_headers={"Cache-Control": "no-cache"},');
  const filled = {
    python: () => pythons.join("\n    "),
    completion: (element) => (element.closest("#node") ? unquoted(json) : inShell(json)),
    chat: () => inShell(JSON.stringify(body(message), null, 2)),
    options: () => (bypasses ? ', { headers: { "Cache-Control": "no-cache" } }' : ""),
    header: () => (bypasses ? "-H 'Cache-Control: no-cache' \\\n  " : ""),
  };
  for (const element of root.querySelectorAll("[data-code]")) element.textContent = filled[element.dataset.code](element);
  for (const element of root.querySelectorAll("[data-stream]")) {
    element.textContent = whole.stream ? element.dataset.stream : element.dataset.whole;
  }
}

function makeTabs() {
  const list = document.createElement("div");
  list.setAttribute("role", "tablist");
  list.setAttribute("aria-labelledby", "code-title");
  const panels = [...root.querySelectorAll("[data-tab]")];
  const tabs = panels.map((panel, place) => {
    const title = panel.querySelector("h3");
    const tab = document.createElement("button");
    tab.type = "button";
    tab.id = `tab-${place}`;
    tab.textContent = title.textContent;
    title.hidden = true;
    panel.id = `panel-${place}`;
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-controls", panel.id);
    panel.setAttribute("role", "tabpanel");
    panel.setAttribute("aria-labelledby", tab.id);
    tab.addEventListener("click", () => select(place));
    return tab;
  });
  function select(chosen) {
    tabs.forEach((tab, place) => {
      tab.setAttribute("aria-selected", String(place === chosen));
      tab.tabIndex = place === chosen ? 0 : -1;
      panels[place].hidden = place !== chosen;
    });
  }
  list.addEventListener("keydown", (event) => {
    const place = tabs.indexOf(document.activeElement);
    const last = tabs.length - 1;
    const chosen = {
      ArrowRight: place === last ? 0 : place + 1, ArrowLeft: place === 0 ? last : place - 1, Home: 0, End: last,
    }[event.key];
    if (chosen === undefined) return;
    event.preventDefault();
    select(chosen);
    tabs[chosen].focus();
  });
  list.append(...tabs);
  byId("code").prepend(list);
  select(0);
}

// -- the controls --

async function bars() {
  const response = await fetch(`${root.dataset.url}/${byId("key").value}/bars`);
  if (!response.ok) return;
  byId("bars").innerHTML = await response.text();
  const note = byId("bars").querySelector("[data-refused]");
  const refused = note ? JSON.parse(note.dataset.refused) : [];
  for (const option of byId("model").options) option.disabled = refused.includes(option.value);
  const chosen = byId("model").selectedOptions[0];
  if (chosen && !chosen.disabled) return;
  const allowed = [...byId("model").options].find((option) => !option.disabled);
  if (allowed) allowed.selected = true;
  showOther();
  code();
}

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
byId("key").addEventListener("change", bars);
function showOther() {
  const chosen = byId("model").selectedOptions[0];
  byId("other").hidden = !chosen || !("other" in chosen.dataset);
}
byId("model").addEventListener("change", showOther);
root.addEventListener("input", code);
if (matchMedia(NARROW).matches) byId("settings").open = false;
byId("keys").hidden = byId("switches").hidden = false;
makeTabs();
// The browser may have kept what was entered before a reload.
showOther();
code();
bars();
