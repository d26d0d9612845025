// The playground's settings, and the request that they make; what the chosen key may and has left.
"use strict";

const root = document.querySelector(".playground");
const byId = (id) => document.getElementById(id);
// The turns that are sent along with the next message.
const history = JSON.parse(byId("history").value);
const HISTORY_MAX = 200;
const NARROW = "(max-width: 50rem)";

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

function showOther() {
  const chosen = byId("model").selectedOptions[0];
  byId("other").hidden = !chosen || !("other" in chosen.dataset);
}

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
  root.dispatchEvent(new Event("input"));
}

byId("key").addEventListener("change", bars);
byId("model").addEventListener("change", showOther);
if (matchMedia(NARROW).matches) byId("settings").open = false;
byId("switches").hidden = false;
// The browser may have kept what was entered before a reload.
showOther();
bars();
