// The playground: a chat with one of the user's keys, and the same request as code.
"use strict";

const root = document.querySelector(".playground");
const byId = (id) => document.getElementById(id);
const talk = byId("talk");
const history = [];
const HISTORY_MAX = 200;
let running = null;

function body(message) {
  const sent = { message, temperature: Number(byId("temperature").value), stream: byId("stream").checked };
  if (byId("model").value.trim()) sent.model = byId("model").value.trim();
  if (byId("system").value.trim()) sent.system = byId("system").value.trim();
  if (byId("max_tokens").value) sent.max_tokens = Number(byId("max_tokens").value);
  if (history.length) sent.history = history.slice(-HISTORY_MAX);
  return sent;
}

function addMessage(role, text) {
  const item = document.createElement("li");
  item.className = role;
  const name = document.createElement("strong");
  name.textContent = { user: "You", assistant: "Answer", error: "Error" }[role];
  const words = document.createElement("p");
  words.textContent = text;
  item.append(name, words);
  talk.append(item);
  item.scrollIntoView({ block: "nearest" });
  return { item, words };
}

function facts(item, answer, cache) {
  const line = document.createElement("p");
  line.className = "quiet";
  const cost = answer.cost_usd === null ? "unpriced" : `$${answer.cost_usd}`;
  line.textContent = `${answer.usage.total_tokens} tokens (${answer.usage.input_tokens} in, `
    + `${answer.usage.output_tokens} out) · ${cost} · cache ${cache} · ${answer.provider} · ${answer.model} · `;
  const link = document.createElement("a");
  link.href = `${root.dataset.url.replace(/playground$/, "requests")}/${answer.request_id}`;
  link.textContent = "request";
  line.append(link);
  item.append(line);
}

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

async function receive(response, words, shown) {
  if (!response.headers.get("Content-Type").startsWith("text/event-stream")) {
    const answer = await response.json();
    words.textContent = answer.response;
    return answer;
  }
  for await (const event of events(response)) {
    if (event.error) throw new Error(event.error.message);
    if (event.done) return event;
    words.textContent += event.content;
    shown();
  }
  throw new Error("The stream ended early.");
}

async function ask(message) {
  const sent = body(message);
  addMessage("user", message);
  const { item, words } = addMessage("assistant", "");
  item.classList.add("running");
  // Screen readers announce the complete answer, not each chunk.
  talk.setAttribute("aria-busy", "true");
  running = new AbortController();
  const headers = { "Content-Type": "application/json", Accept: "text/event-stream, application/json", "X-CSRF-Token": root.dataset.token };
  if (byId("no_cache").checked) headers["Cache-Control"] = "no-cache";
  try {
    const response = await fetch(`${root.dataset.url}/${byId("key").value}`, {
      method: "POST", headers, body: JSON.stringify(sent), signal: running.signal,
    });
    if (!response.ok) throw new Error((await response.json()).message);
    const answer = await receive(response, words, () => item.scrollIntoView({ block: "nearest" }));
    facts(item, answer, response.headers.get("X-Cache") || "–");
    // "New chat" may have been pressed meanwhile.
    if (item.isConnected) history.push({ role: "user", content: message }, { role: "assistant", content: words.textContent });
  } catch (error) {
    if (!words.textContent) item.remove();
    addMessage("error", error.name === "AbortError" ? "Stopped." : error.message);
  } finally {
    item.classList.remove("running");
    talk.removeAttribute("aria-busy");
    running = null;
  }
}

function code() {
  const sent = body(byId("message").value || "What is a weir?");
  const url = `${root.dataset.base}/chat`;
  const json = JSON.stringify(sent, null, 2);
  const indented = json.replaceAll("\n", "\n    ");
  const python = indented.replace(/"stream": (true|false)/, (_, flag) => `"stream": ${flag === "true" ? "True" : "False"}`);
  byId("curl").textContent = `curl -N ${url} \\\n  -H "X-API-Key: $WEIR_KEY" \\\n  -H 'Content-Type: application/json' \\\n  -d '${json.replaceAll("'", "'\\''")}'`;
  byId("python").textContent = `import os, requests\n\nanswer = requests.post(\n    "${url}",\n    headers={"X-API-Key": os.environ["WEIR_KEY"]},\n    json=${python},\n    stream=${sent.stream ? "True" : "False"},\n)\nfor line in answer.iter_lines():\n    print(line.decode())`;
  byId("javascript").textContent = `const answer = await fetch("${url}", {\n  method: "POST",\n  headers: { "X-API-Key": process.env.WEIR_KEY, "Content-Type": "application/json" },\n  body: JSON.stringify(${json.replaceAll("\n", "\n  ")}),\n});\nfor await (const chunk of answer.body.pipeThrough(new TextDecoderStream())) console.log(chunk);`;
}

async function bars() {
  const response = await fetch(`${root.dataset.url}/${byId("key").value}/bars`);
  if (response.ok) byId("bars").innerHTML = await response.text();
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
  bars();
});
byId("message").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    byId("ask").requestSubmit();
  }
});
byId("stop").addEventListener("click", () => running && running.abort());
byId("clear").addEventListener("click", () => { if (running) running.abort(); history.length = 0; talk.replaceChildren(); code(); });
byId("key").addEventListener("change", bars);
root.addEventListener("input", code);
code();
bars();
