"use strict";

// Keeps the page up to date: fetches its own address again, and patches only what differs into the
// document, so that scroll position, focus, selection, typed text and open sections stay.

(() => {
  const main = document.getElementById("live");
  const interval = 5000; // milliseconds
  const address = location.href.split("#")[0];
  const [status, pause, refreshLink, contents, connection, announcement] = [
    "status", "pause", "refresh", "contents", "connection", "announcement",
  ].map((id) => document.getElementById(id));

  const seen = new Map(); // name of each worker that answered -> when it last did, as shown
  let taken = clock(document);
  let paused = false;
  let stopped = false;
  let running = false;
  let timer = 0;

  function clock(page) {
    return page.getElementById("taken")?.dataset.clock ?? "";
  }

  // Patching: make `old` equal to `fresh`, touching only what differs.

  function identity(node) {
    if (node.nodeType !== Node.ELEMENT_NODE) return "";
    const key = node.id || node.dataset.key;
    return key ? `${node.nodeName} ${key}` : "";
  }

  // Removes the indentation between rows, so that rows are each other's neighbours. Spaces within
  // a line of text stay, because screen readers need them to tell words apart.
  function removeIndentation(root) {
    for (const parent of root.querySelectorAll("table, thead, tbody, tr, ul, dl, section")) {
      for (const child of [...parent.childNodes]) {
        if (child.nodeType === Node.TEXT_NODE && !child.data.trim()) child.remove();
      }
    }
  }

  function patch(old, fresh) {
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
      return;
    }
    if (old.isEqualNode(fresh)) return;
    for (const { name } of [...old.attributes]) {
      // The reader has opened a section, and keepingFocus() has set the tabindex of one.
      if (!fresh.hasAttribute(name) && name !== "open" && name !== "tabindex") {
        old.removeAttribute(name);
      }
    }
    for (const { name, value } of fresh.attributes) {
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    patchContent(old, [...fresh.childNodes]);
  }

  function patchContent(old, fresh) {
    const known = new Map();
    for (const child of old.childNodes) {
      const key = identity(child);
      if (key && !known.has(key)) known.set(key, child);
    }
    const wanted = new Set(fresh.map(identity));
    let here = old.firstChild;
    for (const next of fresh) {
      const key = identity(next);
      // Removes first what is gone, so that the rest need not move: a node that moves loses focus.
      while (here && identity(here) && !wanted.has(identity(here))) here = drop(here);
      let match = null;
      if (key) {
        match = known.get(key) ?? null;
        known.delete(key);
      } else if (here && !identity(here) && here.nodeName === next.nodeName) {
        match = here;
      }
      if (match) {
        if (match === here) here = here.nextSibling;
        else old.insertBefore(match, here);
        patch(match, next);
      } else {
        old.insertBefore(document.adoptNode(next), here);
      }
    }
    while (here) here = drop(here);
  }

  function drop(node) {
    const next = node.nextSibling;
    node.remove();
    return next;
  }

  function keepingFocus(change) {
    const focused = document.activeElement;
    const section = focused?.closest("section[id]");
    change();
    if (!focused || focused === document.activeElement || !main.contains(section ?? main)) return;
    if (document.contains(focused)) {
      focused.focus({ preventScroll: true });
    } else if (section) {
      section.tabIndex = -1;
      section.focus({ preventScroll: true });
    }
  }

  // Adds to the list of missing workers those that answered while this page was open, and that the
  // server does not name any more. A worker that stops normally deletes its mailbox, so that the
  // server does not know that it is missing.

  function remember(page) {
    const here = page.querySelectorAll(".worker");
    for (const worker of here) seen.set(worker.dataset.key, clock(page));
    const gone = new Map(seen);
    for (const item of page.querySelectorAll(".worker, #missing > li")) gone.delete(item.dataset.key);
    const health = page.getElementById("health");
    const list = page.getElementById("missing");
    if (!gone.size || !list || page.querySelector("[data-excerpt]")) return;
    for (const [name, last] of gone) {
      const item = document.createElement("li");
      const label = document.createElement("span");
      const words = document.createElement("span");
      const forget = document.createElement("button");
      item.dataset.key = name;
      label.className = "name";
      label.textContent = name;
      words.textContent = `was here until ${last}`;
      forget.type = "button";
      forget.dataset.forget = name;
      forget.textContent = "Forget";
      forget.setAttribute("aria-label", `Forget ${name}`);
      item.append(label, " ", words, " ", forget);
      list.append(item);
    }
    if (health.dataset.state !== "none") {
      health.dataset.state = "missing";
      page.getElementById("health-heading").textContent = "Workers are missing";
    }
    page.getElementById("missing-count").textContent = list.children.length;
  }

  // Messages to the reader

  function show() {
    const when = taken ? `updated ${taken}` : "no answer yet";
    status.textContent = stopped ? "Stopped" : `${paused ? "Paused" : "Live"}, ${when}`;
    pause.textContent = paused ? "Resume" : "Pause";
    pause.hidden = stopped;
  }

  function health() {
    const heading = document.getElementById("health-heading").textContent.trim();
    const names = [...document.querySelectorAll("#missing .name")].map((name) => name.textContent);
    return [heading, ...names.slice(0, 10)].join(", ").slice(0, 500);
  }

  function warn(text) {
    const since = taken ? ` What you see is from ${taken}.` : "";
    if (connection.textContent !== text + since) connection.textContent = text + since;
    connection.hidden = false;
    main.dataset.stale = "";
  }

  function stop(text) {
    stopped = true;
    warn(text);
  }

  function apply(fresh, broken) {
    const before = health();
    removeIndentation(fresh);
    keepingFocus(() => {
      if (broken && document.getElementById("workers")) {
        // The broker is unavailable: shows so above the last answer.
        patch(document.getElementById("health"), fresh.getElementById("health"));
        main.dataset.stale = "";
      } else {
        if (!broken) remember(fresh);
        patch(main, fresh.getElementById("live"));
        patch(contents, fresh.getElementById("contents"));
        taken = clock(fresh) || taken;
      }
    });
    connection.hidden = true;
    connection.textContent = "";
    if (health() !== before) announcement.textContent = health();
  }

  // Fetching

  async function refresh() {
    if (running || stopped) return;
    running = true;
    clearTimeout(timer);
    const began = performance.now();
    const patience = new AbortController();
    const limit = setTimeout(() => patience.abort(), 30000);
    let wait = 0;
    try {
      const response = await fetch(address, {
        headers: { Accept: "text/html" },
        cache: "no-store",
        redirect: "manual", // it leads to the log-in page
        signal: patience.signal,
      });
      const text = await response.text();
      wait = 1000 * Number(response.headers.get("Retry-After")) || 0;
      const fresh = new DOMParser().parseFromString(text, "text/html");
      const ours = fresh.getElementById("live") && fresh.getElementById("health");
      if (response.type === "opaqueredirect" || response.status === 401) {
        stop("Your session has ended. Log in again, then reload.");
      } else if (response.status === 403) {
        stop("You may no longer see this page.");
      } else if ((response.ok || response.status === 503) && ours) {
        apply(fresh, !response.ok);
      } else if (response.ok) {
        stop("The server answers with another page. Reload to see it.");
      } else {
        warn(`The server answered with an error (${response.status}). Trying again.`);
      }
    } catch (error) {
      if (!(error instanceof TypeError || error.name === "AbortError")) throw error;
      warn("The server cannot be reached. Trying again.");
    } finally {
      clearTimeout(limit);
      running = false;
      show();
      // A slow answer has much to render. The pause is longer then, so that this page alone never
      // keeps the server or the browser busy.
      schedule(Math.min(60000, Math.max(interval, wait, 10 * (performance.now() - began))));
    }
  }

  function schedule(delay) {
    clearTimeout(timer);
    if (!paused && !stopped && !document.hidden) timer = setTimeout(refresh, delay);
  }

  async function copy(button) {
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
    } catch {
      // Browsers offer no clipboard without TLS. This works there, although it is deprecated.
      const area = document.createElement("textarea");
      area.className = "unseen";
      area.value = button.dataset.copy;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
      button.focus({ preventScroll: true });
    }
    button.classList.add("done");
    announcement.textContent = "Copied";
    setTimeout(() => button.classList.remove("done"), 1500);
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-copy], [data-forget]");
    if (button?.dataset.copy) copy(button);
    if (button?.dataset.forget) {
      seen.delete(button.dataset.forget);
      refresh();
    }
  });
  document.addEventListener("visibilitychange", () => schedule(0));
  pause.addEventListener("click", () => {
    paused = !paused;
    show();
    schedule(0);
  });
  refreshLink.addEventListener("click", (event) => {
    if (stopped || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    refresh();
  });

  removeIndentation(document);
  document.documentElement.classList.add("scripted");
  pause.hidden = false;
  for (const worker of document.querySelectorAll(".worker")) seen.set(worker.dataset.key, taken);
  show();
  schedule(interval);
})();
