// What all pages share: money and times as text, copy buttons, the theme, auto-refresh.
"use strict";

const LOCAL_ZONE = Intl.DateTimeFormat().resolvedOptions().timeZone;
const isLocal = document.documentElement.dataset.time === "local";

const weir = {
  // The time zone that times are shown in.
  timeZone: isLocal ? LOCAL_ZONE : "UTC",
  // The same rule as the filter usd of webapp/dashboard/formatting.py.
  usd(value) {
    if (value === null || value === undefined) return "–";
    const sign = value < 0 ? "−" : "";
    const amount = Math.abs(value);
    if (amount > 0 && amount < 0.0001) return `${sign ? ">" : "<"}${sign}$0.0001`;
    const digits = amount === 0 || amount >= 0.99995 ? 2 : 4;
    return `${sign}$${amount.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: digits })}`;
  },
};

// The Swedish locale writes dates like ISO 8601.
function clock(at, timeZone) {
  return at.toLocaleString("sv-SE", { timeZone });
}

// Times come in UTC, with UTC as their title.
function showTimes(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    const utc = clock(at, "UTC");
    const local = clock(at, LOCAL_ZONE);
    const isRelative = time.textContent !== utc;
    if (isLocal && !isRelative) time.textContent = local;
    time.title = isLocal === isRelative ? `${local} ${LOCAL_ZONE}` : `${utc} UTC`;
  }
}

// The theme changes in place, so that nothing typed into a form and no secret is lost.
const theme = document.getElementById("theme");
theme.addEventListener("submit", async (event) => {
  event.preventDefault();
  const sent = new URLSearchParams(new FormData(theme, event.submitter));
  const response = await fetch(theme.action, { method: "POST", body: sent, headers: { Accept: "text/html" } });
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
  document.documentElement.dataset.theme = fresh.documentElement.dataset.theme;
  theme.innerHTML = fresh.getElementById("theme").innerHTML;
  theme.querySelector("button").focus();
});

for (const button of document.querySelectorAll("[data-copy]")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const title = button.textContent;
    const text = document.getElementById(button.dataset.copy).textContent.trim();
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      // Without HTTPS there is no clipboard API: select the text, so that the user can copy it.
      getSelection().selectAllChildren(document.getElementById(button.dataset.copy));
      button.textContent = "Selected, press Ctrl+C";
    }
    setTimeout(() => { button.textContent = title; }, 2000);
  });
}

const polled = document.querySelector("[data-poll]");
const live = document.getElementById("live");
// What the server sent for each element that is refreshed.
const served = new Map();
let refreshing = false;

async function refresh() {
  if (document.hidden || refreshing || !live.checked) return;
  refreshing = true;
  const response = await fetch(location.href, { headers: { Accept: "text/html" } });
  if (!response.ok || response.redirected) return;
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
  for (const element of document.querySelectorAll("[data-live]")) {
    const other = fresh.getElementById(element.id);
    // Replace only what has changed, and nothing that has the keyboard focus.
    if (other && other.innerHTML !== served.get(element.id) && !element.contains(document.activeElement)) {
      const scrolled = [...element.querySelectorAll(".scroll")].map((box) => box.scrollLeft);
      element.innerHTML = other.innerHTML;
      served.set(element.id, other.innerHTML);
      showTimes(element);
      element.querySelectorAll(".scroll").forEach((box, place) => { box.scrollLeft = scrolled[place] || 0; });
    }
  }
  document.dispatchEvent(new Event("weir:refreshed"));
}

for (const element of document.querySelectorAll("[data-live]")) served.set(element.id, element.innerHTML);
showTimes(document);
if (isLocal) document.getElementById("zone").textContent = `Times in local time (${LOCAL_ZONE}), filters and forms in UTC`;

if (polled) {
  live.closest("label").hidden = false;
  live.checked = localStorage.getItem("weir-live") !== "off";
  live.addEventListener("change", () => localStorage.setItem("weir-live", live.checked ? "on" : "off"));
  setInterval(async () => {
    if (refreshing) return;
    try {
      await refresh();
    } catch {
      // The next refresh may succeed.
    } finally {
      refreshing = false;
    }
  }, Number(polled.dataset.poll));
}
