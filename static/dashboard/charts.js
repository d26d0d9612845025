// Draws each chart from the table below it, and redraws when the table or the window changes.
"use strict";

// The Okabe-Ito palette, safe for colour blindness; dashes distinguish the lines as well.
const STROKES = ["--series-1", "--series-2", "--series-3", "--series-4"];
const DASHES = [[], [6, 3], [2, 3], [8, 3, 2, 3]];

function colour(name) {
  const probe = document.createElement("span");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

function dataOf(table) {
  const rows = [...table.tBodies[0].rows];
  const columns = rows.length ? rows[0].cells.length : 0;
  const times = rows.map((row) => Number(row.cells[0].dataset.at));
  const series = [];
  for (let column = 1; column < columns; column += 1) {
    series.push(rows.map((row) => {
      const value = row.cells[column].dataset.value;
      return value === "" ? null : Number(value);
    }));
  }
  return [times, ...series];
}

function formatted(value, unit) {
  if (value === null || value === undefined) return "–";
  if (unit === "%") return `${value.toFixed(1)} %`;
  const text = value.toLocaleString("en", { maximumSignificantDigits: unit === "$" ? 4 : 12 });
  return unit === "$" ? `$${text}` : text;
}

function times(_, ticks, __, ___, step) {
  return ticks.map((tick) => {
    const iso = new Date(tick * 1000).toISOString();
    return step >= 86400 || tick % 86400 === 0 ? iso.slice(5, 10) : iso.slice(11, 16);
  });
}

function options(figure, table, width) {
  const unit = figure.dataset.unit;
  const names = [...table.tHead.rows[0].cells].slice(1).map((cell) => cell.textContent);
  const quiet = colour("--quiet");
  const grid = { stroke: colour("--line"), width: 1 };
  const axis = { stroke: quiet, grid, ticks: grid, font: "12px system-ui" };
  return {
    width,
    height: 200,
    // Weir's days are UTC.
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
    scales: { y: { range: (_, low, high) => [0, unit === "%" ? 100 : high > 0 ? high * 1.1 : 1] } },
    axes: [{ ...axis, values: times }, { ...axis, size: 64, values: (_, ticks) => ticks.map((tick) => formatted(tick, unit)) }],
    series: [
      { value: "{YYYY}-{MM}-{DD} {HH}:{mm} UTC" },
      ...names.map((label, index) => ({
        label,
        stroke: colour(STROKES[index]),
        width: 2,
        dash: DASHES[index],
        points: { show: true, size: 4 },
        value: (_, value) => formatted(value, unit),
      })),
    ],
  };
}

class Chart {
  constructor(figure) {
    this.figure = figure;
    this.table = figure.querySelector("table");
    this.plot = figure.querySelector(".plot");
    this.draw();
    new ResizeObserver(() => this.resize()).observe(this.plot);
  }

  draw() {
    this.plot.replaceChildren();
    const data = dataOf(this.table);
    this.chart = new uPlot(options(this.figure, this.table, this.plot.clientWidth), data, this.plot);
    this.plot.dataset.drawn = String(data[0].length);
  }

  update() {
    this.chart.setData(dataOf(this.table));
  }

  resize() {
    const width = this.plot.clientWidth;
    if (width && width !== this.chart.width) this.chart.setSize({ width, height: 200 });
  }
}

const charts = [...document.querySelectorAll("[data-chart]")].map((figure) => new Chart(figure));
document.addEventListener("weir:refreshed", () => charts.forEach((chart) => chart.update()));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => charts.forEach((chart) => chart.draw()));
