"use strict";

// Hides the rows of all lists that do not contain every word of the filter box. The words are kept
// in the address after "#", which browsers do not send to the server.

(() => {
  const ROWS = ".worker, #missing > li, .queues > tbody > tr, .tasks > tbody > tr, .revoked .id";
  const PREFIX = "#filter=";

  const main = document.getElementById("live");
  const box = document.getElementById("filter");
  const status = document.getElementById("filter-status");

  // Returns the text that is searched. Of a worker, it is the name, the pool and the names of its
  // tasks; of other rows, everything. Tooltips are included, because they hold what was cut.
  function text(row) {
    const parts = [row.dataset.key];
    const worker = row.classList.contains("worker");
    for (const part of worker ? row.querySelectorAll("tr:first-child .wrap, .more dt") : [row]) {
      parts.push(part.textContent);
      for (const cut of [part, ...part.querySelectorAll("[title]")]) parts.push(cut.title);
    }
    return parts.join(" ").toLowerCase();
  }

  function narrow() {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = [...main.querySelectorAll(ROWS)];
    const lists = new Map(); // table or ids -> whether a row of it is shown
    let shown = 0;
    for (const row of rows) {
      const content = words.length ? text(row) : "";
      row.hidden = !words.every((word) => content.includes(word));
      if (!row.hidden) shown += 1;
      const list = row.closest("table, .revoked");
      if (list) lists.set(list, lists.get(list) || !row.hidden);
    }
    // An empty table would look as if there was no row.
    for (const [list, matches] of lists) {
      const classes = list.previousElementSibling.classList;
      if (list.hidden === matches) list.hidden = !matches;
      if (list.matches("details") && words.length) list.open = matches;
      if (classes.contains("unmatched") === matches) classes.toggle("unmatched", !matches);
    }
    const said = words.length ? `${shown} of ${rows.length} rows` : "";
    if (status.textContent !== said) status.textContent = said;
  }

  function read() {
    if (location.hash.startsWith(PREFIX)) {
      try {
        box.value = decodeURIComponent(location.hash.slice(PREFIX.length));
      } catch {
        box.value = ""; // The address is not one that this page has written.
      }
    } else {
      write(); // A link within the page has replaced it.
    }
    narrow();
  }

  function write() {
    const wanted = box.value.trim() ? PREFIX + encodeURIComponent(box.value.trim()) : "";
    if (!wanted && !location.hash.startsWith(PREFIX)) return;
    history.replaceState(history.state, "", wanted || location.pathname + location.search);
  }

  box.addEventListener("input", () => {
    write();
    narrow();
  });
  window.addEventListener("hashchange", read);
  new MutationObserver(narrow).observe(main, { subtree: true, childList: true });
  document.getElementById("filter-tools").hidden = false;
  box.value = "";
  read();
})();
