// What all pages share: money as text, copy buttons, auto-refresh.
"use strict";

const weir = {
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
    if (other && other.innerHTML !== element.innerHTML && !element.contains(document.activeElement)) {
      const scrolled = [...element.querySelectorAll(".scroll")].map((box) => box.scrollLeft);
      element.innerHTML = other.innerHTML;
      element.querySelectorAll(".scroll").forEach((box, place) => { box.scrollLeft = scrolled[place] || 0; });
    }
  }
  document.dispatchEvent(new Event("weir:refreshed"));
}

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
