"use strict";

// Draws a small line for each total, for the busy slots of each worker and for each queue: how the
// figure has changed since the page was opened. Reads the figures from the page after page.js has updated it,
// and sends no request to the server.

(() => {
  const POINTS = 240; // of a line; when there are more, every two become one
  const LINES = 500; // one for each total, worker and queue; the page shows 300 and 100
  const SVG = "http://www.w3.org/2000/svg";

  const main = document.getElementById("live");
  const opened = document.getElementById("taken")?.dataset.clock;

  const times = []; // milliseconds
  const lines = new Map(); // key -> values, one for each of the times, null where there was none
  let step = 0; // milliseconds that one point stands for
  let read = 0; // milliseconds; when the figures were read last
  let processed = new Map(); // worker -> tasks that it had processed then
  let recent = []; // [from, to, tasks processed between], of the last minute

  function number(text) {
    return text === undefined || text === "" || Number.isNaN(Number(text)) ? null : Number(text);
  }

  function higher(one, other) {
    return one === null || other === null ? (one ?? other) : Math.max(one, other);
  }

  // Reading

  function figures(time) {
    const found = new Map();
    for (const name of ["active", "reserved", "scheduled"]) {
      found.set(name, number(document.getElementById(`total-${name}`)?.getAttribute("value")));
    }
    found.set("processed", processedPerMinute(time));
    for (const worker of document.querySelectorAll(".worker")) {
      found.set(`worker ${worker.dataset.key}`, number(worker.dataset.busy));
    }
    for (const { dataset } of document.querySelectorAll(".queues [data-key]")) {
      found.set(`queue ${dataset.key}`, number(dataset.waiting));
    }
    return found;
  }

  // Returns the rate over the last minute. Compares each worker with itself, so that the tasks of a
  // worker that did not answer for a while do not count as new ones. A restarted worker begins at 0.
  function processedPerMinute(time) {
    const now = new Map();
    let tasks = 0;
    for (const { dataset } of document.querySelectorAll(".worker")) {
      const total = number(dataset.processed);
      const before = processed.get(dataset.key);
      if (total === null) continue;
      now.set(dataset.key, total);
      if (before !== undefined) tasks += total >= before ? total - before : total;
    }
    const compared = [...now.keys()].some((key) => processed.has(key));
    processed = now;
    if (!compared || document.querySelector("[data-excerpt]")) return null;
    recent.push([read, time, tasks]);
    recent = recent.filter(([from]) => from >= time - 60000);
    if (!recent.length) recent.push([read, time, tasks]); // the page was not up to date for long
    const all = recent.reduce((sum, [, , some]) => sum + some, 0);
    return all / ((time - recent[0][0]) / 60000);
  }

  // Keeping

  function keep(time) {
    const found = figures(time);
    read = time;
    const merge = times.length > 1 && time - times.at(-1) < step;
    if (!merge) times.push(time);
    for (const key of found.keys()) {
      if (!lines.has(key)) lines.set(key, Array(times.length - 1).fill(null));
    }
    for (const [key, values] of lines) {
      const value = found.get(key) ?? null;
      if (merge) values[times.length - 1] = higher(values[times.length - 1] ?? null, value);
      else values.push(value);
      if (lines.size > LINES && !found.has(key)) lines.delete(key);
    }
    if (times.length > POINTS) halve();
  }

  // Keeps the higher of every two points, so that a short peak stays visible.
  function halve() {
    const half = (values, join) =>
      values.filter((_, at) => at % 2 === 0).map((value, at) => join(value, values[2 * at + 1]));
    times.splice(0, times.length, ...half(times, (time) => time));
    for (const [key, values] of lines) {
      lines.set(key, half(values, (one, other) => higher(one, other ?? null)));
    }
    step = (times.at(-1) - times[0]) / (times.length - 1);
  }

  // Drawing

  function written(value) {
    return value.toLocaleString("en", { maximumFractionDigits: value < 10 ? 1 : 0 });
  }

  function drawing(name, values, most) {
    const known = values.filter((value) => value !== null);
    const svg = document.createElementNS(SVG, "svg");
    const title = document.createElementNS(SVG, "title");
    const path = document.createElementNS(SVG, "path");
    const top = Math.max(most, ...known);
    const span = times.at(-1) - times[0];
    const now = values.at(-1);
    svg.setAttribute("class", "trend");
    svg.setAttribute("viewBox", "0 0 100 20");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("role", "img");
    title.textContent =
      `${name} since ${opened}: lowest ${written(Math.min(...known))}, ` +
      `highest ${written(Math.max(...known))}, ` +
      (now === null ? "not known now" : `now ${written(now)}`);
    let gap = true;
    const points = values.map((value, at) => {
      const command = gap ? "M" : "L";
      gap = value === null;
      if (gap) return "";
      const x = (100 * (times[at] - times[0])) / span;
      return `${command}${x.toFixed(1)} ${(19 - (18 * value) / top).toFixed(1)}`;
    });
    path.setAttribute("d", points.join(""));
    path.setAttribute("vector-effect", "non-scaling-stroke");
    svg.append(title, path);
    return svg;
  }

  function draw() {
    for (const old of main.querySelectorAll(".trend, .rate")) old.remove();
    if (times.length < 2) return;
    for (const total of document.querySelectorAll("#totals [data-key]")) {
      const name = total.querySelector("dt").textContent.trim();
      const cell = total.querySelector("dd");
      const key = total.dataset.key;
      const values = lines.get(key);
      if (!values?.some((value) => value !== null)) continue;
      if (key === "processed" && values.at(-1) !== null) {
        const rate = document.createElement("span");
        rate.className = "rate";
        rate.textContent = `${written(values.at(-1))} a minute`;
        total.querySelector("dt").append(" ", rate);
      }
      cell.append(drawing(key === "processed" ? `${name} a minute` : name, values, 1));
    }
    for (const row of document.querySelectorAll(".worker, .queues [data-key]")) {
      const worker = row.classList.contains("worker");
      const values = lines.get(`${worker ? "worker" : "queue"} ${row.dataset.key}`);
      if (!values?.some((value) => value !== null)) continue;
      const cell = row.querySelector(worker ? ".busy > span" : ".waiting");
      const most = worker ? number(row.dataset.slots) || 1 : 1;
      cell.append(drawing(worker ? "Busy" : "Waiting", values, most));
    }
  }

  function update() {
    const time = Date.parse(document.getElementById("taken")?.dateTime);
    if (time > read) keep(time);
    draw();
    observer.takeRecords(); // discards the changes that drawing has made
  }

  const observer = new MutationObserver(update);
  observer.observe(main, {
    subtree: true,
    childList: true,
    attributes: true,
    attributeFilter: ["datetime"],
  });
  update();
})();
