// Makes charts answer to pointer and keyboard: a tooltip, the requests of a step, zoom to a range.
"use strict";

function place(element, pixels) {
  for (const [name, value] of Object.entries(pixels)) element.style[name] = `${value}px`;
}

class Chart {
  constructor(figure) {
    this.figure = figure;
    this.plot = figure.querySelector(".plot");
    this.band = this.overlay("chosen");
    this.tooltip = this.overlay("tooltip");
    this.hide();
    this.plot.tabIndex = 0;
    this.plot.setAttribute("role", "slider");
    this.plot.setAttribute("aria-labelledby", figure.querySelector("figcaption").id);
    this.plot.setAttribute("aria-valuemin", 1);
    const listeners = {
      pointerdown: this.press, pointermove: this.move, pointerup: this.release, pointerleave: this.leave,
      pointercancel: this.hide, keydown: this.key, focus: this.focused, blur: this.hide,
    };
    for (const [event, listener] of Object.entries(listeners)) {
      this.plot.addEventListener(event, listener.bind(this));
    }
  }

  overlay(name) {
    const element = document.createElement("div");
    element.className = name;
    this.figure.append(element);
    return element;
  }

  get rows() {
    return document.getElementById("chart-data").tBodies[0].rows;
  }

  get legend() {
    return [...this.figure.querySelectorAll(".legend li")];
  }

  // This chart's cells of a row: those of the charts before it come first.
  cells(row) {
    const first = charts.slice(0, charts.indexOf(this)).reduce((sum, chart) => sum + chart.legend.length, 1);
    return [...row.cells].slice(first, first + this.legend.length);
  }

  // -- what is chosen: the steps `from` to `at`, where the pointer or the keyboard is

  choose(at, extend) {
    this.at = Math.max(0, Math.min(this.rows.length - 1, at));
    if (!extend) this.from = this.at;
    const [first, last] = this.chosen;
    const text = this.describe(this.at);
    this.tooltip.replaceChildren(...(first === last ? this.figures() : [text]));
    this.band.hidden = this.tooltip.hidden = false;
    const area = this.plot.querySelector("svg").getBoundingClientRect();
    const frame = this.figure.getBoundingClientRect();
    const step = area.width / this.rows.length;
    const left = area.left - frame.left + first * step;
    const right = left + (last - first + 1) * step;
    place(this.band, { left, top: area.top - frame.top, width: right - left, height: area.height });
    const fits = right + this.tooltip.offsetWidth + 8 < frame.width;
    place(this.tooltip, {
      left: fits ? right + 8 : Math.max(0, left - this.tooltip.offsetWidth - 8),
      top: area.top - frame.top,
    });
  }

  get chosen() {
    return [Math.min(this.from, this.at), Math.max(this.from, this.at)];
  }

  hide() {
    this.from = this.at = null;
    this.pressed = false;
    this.band.hidden = this.tooltip.hidden = true;
  }

  startOf(step) {
    return this.rows[step]?.cells[0].textContent ?? "end";
  }

  // The time of the step, and the value of each series.
  figures() {
    const row = this.rows[this.at];
    const time = document.createElement("div");
    time.textContent = this.startOf(this.at);
    const list = document.createElement("dl");
    this.cells(row).forEach((cell, place) => {
      const [name, value] = [document.createElement("dt"), document.createElement("dd")];
      name.className = this.legend[place].className;
      name.textContent = this.legend[place].textContent.trim();
      value.append(...cell.cloneNode(true).childNodes);
      list.append(name, value);
    });
    return [time, list];
  }

  // Says to screen readers what is chosen.
  describe(at) {
    const row = this.rows[at];
    const values = this.cells(row).map((cell, place) => `${this.legend[place].textContent.trim()} ${cell.textContent}`);
    let text = `${this.startOf(at)}: ${values.join(", ")}`;
    if (this.from !== this.at) {
      const [first, last] = this.chosen;
      text = `${this.startOf(first)} – ${this.startOf(last + 1)}`;
    }
    this.plot.setAttribute("aria-valuemax", this.rows.length);
    this.plot.setAttribute("aria-valuenow", at + 1);
    this.plot.setAttribute("aria-valuetext", text);
    return text;
  }

  // Labels come in UTC. Those of whole UTC days have no time.
  showLocalTime() {
    const { timeZone } = weir;
    if (timeZone === "UTC") return;
    let before;
    for (const label of this.plot.querySelectorAll("text[data-at]")) {
      const at = new Date(label.dataset.at * 1000);
      const time = at.toLocaleString("en", { timeZone, hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
      const day = at.toLocaleString("en", { timeZone, month: "short", day: "numeric" });
      // Few ticks are at midnight in local time.
      const isNewDay = before !== undefined && before !== day;
      label.textContent = time === "00:00" ? day : isNewDay ? `${day} ${time}` : time;
      before = day;
    }
  }

  // -- where it leads

  // The requests of the chosen step: of a series, or all.
  open(series) {
    const step = this.linkOf(this.at);
    const link = this.legend[series]?.querySelector("a");
    const url = new URL(link ?? step, location.href);
    for (const [name, value] of step.searchParams) url.searchParams.set(name, value);
    location.assign(url);
  }

  // The page of the chosen range.
  zoom() {
    const [first, last] = this.chosen.map((place) => this.linkOf(place).searchParams);
    const url = new URL(this.figure.dataset.zoom, location.href);
    url.searchParams.delete("range");
    url.searchParams.set("since", first.get("since"));
    url.searchParams.set("until", last.get("until"));
    location.assign(url);
  }

  linkOf(place) {
    return new URL(this.rows[place].querySelector("a").href);
  }

  // -- by pointer: a click opens, dragging zooms; a finger only looks

  stepAt(event) {
    const { left, width } = this.plot.querySelector("svg").getBoundingClientRect();
    return Math.floor((event.clientX - left) / width * this.rows.length);
  }

  press(event) {
    this.series = event.target.dataset.series;
    this.pressed = event.pointerType === "mouse" && event.button === 0;
    this.choose(this.stepAt(event));
    if (this.pressed) this.plot.setPointerCapture(event.pointerId);
  }

  move(event) {
    this.choose(this.stepAt(event), this.pressed);
  }

  release() {
    if (!this.pressed) return;
    this.pressed = false;
    if (this.from === this.at) this.open(this.series);
    else this.zoom();
  }

  leave(event) {
    if (!this.pressed && event.pointerType === "mouse") this.hide();
  }

  // -- by keyboard: arrows move, with Shift they choose a range; Enter opens or zooms

  focused() {
    if (this.plot.matches(":focus-visible")) this.choose(this.rows.length - 1);
  }

  key(event) {
    const at = this.at ?? this.rows.length - 1;
    const places = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: this.rows.length - 1 };
    if (event.key in places) this.choose(places[event.key], event.shiftKey);
    else if (event.key === "Escape") this.hide();
    else if (event.key !== "Enter" || this.at === null) return;
    else if (this.from === this.at) this.open();
    else this.zoom();
    event.preventDefault();
  }
}

const charts = [...document.querySelectorAll("[data-chart]")].map((figure) => new Chart(figure));

function update() {
  for (const chart of charts) {
    chart.showLocalTime();
    if (chart.at === null) chart.describe(chart.rows.length - 1);
    else chart.choose(chart.at, true);
  }
}

// page.js, which knows the time zone, runs after this.
document.addEventListener("DOMContentLoaded", update);
document.addEventListener("weir:refreshed", update);
