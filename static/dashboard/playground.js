// The playground: a chat with one of the person's keys, and the same request as code.
"use strict";

const room = document.querySelector(".playground");
const part = (id) => document.getElementById(id);
const talk = part("talk");
const history = [];
const MOST_HISTORY = 200;
let running = null;

function body(message) {
  const sent = { message, temperature: Number(part("temperature").value), stream: part("stream").checked };
  if (part("model").value.trim()) sent.model = part("model").value.trim();
  if (part("system").value.trim()) sent.system = part("system").value.trim();
  if (part("max_tokens").value) sent.max_tokens = Number(part("max_tokens").value);
  if (history.length) sent.history = history.slice(-MOST_HISTORY);
  return sent;
}

function say(who, text) {
  const item = document.createElement("li");
  item.className = who;
  const name = document.createElement("strong");
  name.textContent = { user: "You", assistant: "Answer", error: "Error" }[who];
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
  const cost = answer.cost_usd === null ? "no price" : `$${answer.cost_usd}`;
  line.textContent = `${answer.usage.total_tokens} tokens (${answer.usage.input_tokens} in, `
    + `${answer.usage.output_tokens} out) · ${cost} · cache ${cache} · ${answer.provider} · ${answer.model} · `;
  const link = document.createElement("a");
  link.href = `${room.dataset.url.replace(/playground$/, "requests")}/${answer.request_id}`;
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
  throw new Error("The stream ended before its time.");
}

async function ask(message) {
  const sent = body(message);
  say("user", message);
  const { item, words } = say("assistant", "");
  item.classList.add("running");
  // Read out once it is whole, not piece by piece.
  talk.setAttribute("aria-busy", "true");
  running = new AbortController();
  const headers = { "Content-Type": "application/json", Accept: "text/event-stream, application/json", "X-CSRF-Token": room.dataset.token };
  if (part("no_cache").checked) headers["Cache-Control"] = "no-cache";
  try {
    const response = await fetch(`${room.dataset.url}/${part("key").value}`, {
      method: "POST", headers, body: JSON.stringify(sent), signal: running.signal,
    });
    if (!response.ok) throw new Error((await response.json()).message);
    const answer = await receive(response, words, () => item.scrollIntoView({ block: "nearest" }));
    facts(item, answer, response.headers.get("X-Cache") || "–");
    // Another chat may have begun meanwhile.
    if (item.isConnected) history.push({ role: "user", content: message }, { role: "assistant", content: words.textContent });
  } catch (error) {
    if (!words.textContent) item.remove();
    say("error", error.name === "AbortError" ? "Stopped." : error.message);
  } finally {
    item.classList.remove("running");
    talk.removeAttribute("aria-busy");
    running = null;
  }
}

function code() {
  const sent = body(part("message").value || "What is a weir?");
  const url = `${room.dataset.base}/chat`;
  const json = JSON.stringify(sent, null, 2);
  const indented = json.replaceAll("\n", "\n    ");
  const python = indented.replace(/"stream": (true|false)/, (_, flag) => `"stream": ${flag === "true" ? "True" : "False"}`);
  part("curl").textContent = `curl -N ${url} \\\n  -H "X-API-Key: $WEIR_KEY" \\\n  -H 'Content-Type: application/json' \\\n  -d '${json.replaceAll("'", "'\\''")}'`;
  part("python").textContent = `import os, requests\n\nanswer = requests.post(\n    "${url}",\n    headers={"X-API-Key": os.environ["WEIR_KEY"]},\n    json=${python},\n    stream=${sent.stream ? "True" : "False"},\n)\nfor line in answer.iter_lines():\n    print(line.decode())`;
  part("javascript").textContent = `const answer = await fetch("${url}", {\n  method: "POST",\n  headers: { "X-API-Key": process.env.WEIR_KEY, "Content-Type": "application/json" },\n  body: JSON.stringify(${json.replaceAll("\n", "\n  ")}),\n});\nfor await (const piece of answer.body.pipeThrough(new TextDecoderStream())) console.log(piece);`;
}

async function bars() {
  const response = await fetch(`${room.dataset.url}/${part("key").value}/bars`);
  if (response.ok) part("bars").innerHTML = await response.text();
}

part("ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  const message = part("message").value.trim();
  if (!message || running) return;
  part("message").value = "";
  part("send").disabled = true;
  part("stop").hidden = false;
  await ask(message);
  const elsewhere = ![document.body, part("stop"), part("send")].includes(document.activeElement);
  part("send").disabled = false;
  part("stop").hidden = true;
  if (!elsewhere) part("message").focus();
  bars();
});
part("message").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    part("ask").requestSubmit();
  }
});
part("stop").addEventListener("click", () => running && running.abort());
part("clear").addEventListener("click", () => { if (running) running.abort(); history.length = 0; talk.replaceChildren(); code(); });
part("key").addEventListener("change", bars);
room.addEventListener("input", code);
code();
bars();
