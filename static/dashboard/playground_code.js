// The playground's request as code, in tabs. playground_settings.js says what is sent.
"use strict";

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

root.addEventListener("input", code);
makeTabs();
code();
