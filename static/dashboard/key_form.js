// Shows the limits of the selected tier in the fields of a key that are blank.
"use strict";

const tier = document.getElementById("field-tier");

function showDefaults() {
  const defaults = JSON.parse(tier.selectedOptions[0].dataset.defaults || "{}");
  for (const field of document.querySelectorAll("[data-default]")) {
    const text = defaults[field.dataset.default] || "";
    if (field.tagName === "OPTION") field.textContent = `Tier default: ${text}`;
    else field.placeholder = text;
  }
}

tier.addEventListener("change", showDefaults);
// The browser may have kept another tier than the page came with.
showDefaults();
