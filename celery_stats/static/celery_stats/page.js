"use strict";

// Keeps the page up to date: fetches its own address again, and changes only what differs in the
// document, so that scroll position, focus, selection, typed text and open sections stay.

(() => {
  const main = document.getElementById("live");
  const interval = 5000; // milliseconds
  const address = location.href.split("#")[0];
  const [status, pause, refreshLink, connection, announcement] = [
    "status", "pause", "refresh", "connection", "announcement",
  ].map((id) => document.getElementById(id));

  const seen = new Map(); // name of each worker that answered -> when it last did, as shown
  const held = new Map(); // key of each task that is looked up -> who held it, and until when
  let taken = clock(document);
  let broken = !document.getElementById("taken"); // whether the last answer is not here
  let paused = false;
  let stopped = false;
  let running = false;
  let wait = interval; // milliseconds until the next refresh
  let timer = 0;

  function clock(page) {
    return page.getElementById("taken")?.dataset.clock ?? "";
  }

  // Changing the document

  // Rows have ids, by which idiomorph finds them again. Names can be anything, and equal, so that
  // the ids are set here, and begin with a word that no other id begins with.
  function nameRows(page) {
    const times = new Map();
    for (const row of page.querySelectorAll("main [data-key]")) {
      const id = `row ${row.closest("section[id]")?.id} ${row.dataset.key}`;
      times.set(id, (times.get(id) ?? 0) + 1);
      row.id = times.get(id) === 1 ? id : `${id} ${times.get(id)}`;
    }
  }

  function change(old, fresh) {
    const kept = { open: "DETAILS", tabindex: "SECTION", value: "INPUT" };
    Idiomorph.morph(old, fresh, {
      callbacks: {
        // The reader has opened a section or typed a text; keepingFocus() has set a tabindex.
        beforeAttributeUpdated: (name, element) => kept[name] !== element.nodeName,
      },
    });
  }

  function keepingFocus(work) {
    const focused = document.activeElement;
    const section = focused?.closest("section[id]");
    work();
    if (!focused || focused === document.activeElement || !main.contains(section ?? main)) return;
    if (document.contains(focused)) {
      focused.focus({ preventScroll: true });
    } else if (section) {
      section.tabIndex = -1;
      section.focus({ preventScroll: true });
    }
  }

  function element(name, text, properties = {}) {
    return Object.assign(document.createElement(name), { textContent: text }, properties);
  }

  // Adds to the list of missing workers those that answered while this page was open, and that the
  // server does not name any more. A worker that stops normally deletes its mailbox, so that the
  // server does not know that it is missing.
  function rememberWorkers(page) {
    for (const worker of page.querySelectorAll(".worker")) {
      seen.set(worker.dataset.key, clock(page));
    }
    const gone = new Map(seen);
    for (const item of page.querySelectorAll(".worker, #missing > li")) gone.delete(item.dataset.key);
    const health = page.getElementById("health");
    const list = page.getElementById("missing");
    if (!gone.size || !list || page.querySelector("[data-excerpt]")) return;
    for (const [name, last] of gone) {
      const item = element("li", "");
      const forget = element("button", "Forget", { type: "button", ariaLabel: `Forget ${name}` });
      item.dataset.key = name;
      forget.dataset.forget = name;
      const words = element("span", `was here until ${last}`);
      item.append(element("bdi", name, { className: "name" }), " ", words, " ", forget);
      list.append(item);
    }
    if (health.dataset.state !== "none") {
      health.dataset.state = "missing";
      page.getElementById("health-heading").textContent = "Workers are missing";
    }
    page.getElementById("missing-count").textContent = list.children.length;
  }

  // Says of tasks that are looked up who held them, once no worker does any more.
  function rememberTasks(page) {
    for (const task of page.querySelectorAll(".looked-up")) {
      const { key, held: now } = task.dataset;
      if (now) held.set(key, [now, clock(page)]);
      const [who, until] = held.get(key) ?? [];
      if (who && !now) {
        const text = `It was ${who} until ${until}.`;
        task.querySelector("h3").after(element("p", text, { className: "ended" }));
      }
    }
  }

  // Messages to the reader

  function show() {
    const last = taken ? `last answer ${taken}` : "no answer yet";
    const slow = wait > interval && !broken ? `, every ${Math.round(wait / 1000)} s` : "";
    let text = `Live, updated ${taken}${slow}`;
    if (broken) text = `Trying again, ${last}`;
    if (paused) text = `Paused, ${last}`;
    if (stopped) text = `Stopped, ${last}`;
    if (status.textContent !== text) status.textContent = text;
    pause.textContent = paused ? "Resume" : "Pause";
    pause.hidden = stopped;
    const state = connection.hidden ? heading() : "No answer";
    document.title = `${state} – Celery workers`;
  }

  function heading() {
    return document.getElementById("health-heading").textContent.trim();
  }

  function news() {
    const names = [...document.querySelectorAll("#missing .name")].map((name) => name.textContent);
    const ended = [...document.querySelectorAll(".ended")].map((one) => one.textContent);
    return [heading(), ...names.slice(0, 10), ...ended].join(", ").slice(0, 500);
  }

  function warn(text, link = "") {
    const since = taken ? ` What you see is from ${taken}.` : "";
    if (connection.dataset.text !== text + since) {
      connection.dataset.text = text + since;
      connection.textContent = `${text}${since} `;
      if (link) connection.append(element("a", link, { href: address }));
    }
    connection.hidden = false;
    main.dataset.stale = "";
    broken = true;
  }

  function stop(text, link) {
    stopped = true;
    warn(text, link);
  }

  function apply(fresh, failed) {
    const before = news();
    broken = failed;
    nameRows(fresh);
    keepingFocus(() => {
      if (failed && document.getElementById("workers")) {
        // Says so above the last answer.
        change(document.getElementById("health"), fresh.getElementById("health"));
        main.dataset.stale = "";
      } else {
        if (!failed) {
          rememberWorkers(fresh);
          rememberTasks(fresh);
        }
        change(main, fresh.getElementById("live"));
        taken = clock(fresh) || taken;
      }
    });
    connection.hidden = true;
    connection.textContent = connection.dataset.text = "";
    if (news() !== before) announcement.textContent = news();
  }

  // Fetching

  function read(response, text) {
    const fresh = new DOMParser().parseFromString(text, "text/html");
    const ours = fresh.getElementById("live") && fresh.getElementById("health");
    if (response.type === "opaqueredirect" || response.status === 401) {
      stop("Your session has ended.", "Log in again");
    } else if (response.status === 403) {
      stop("You may no longer see this page.", "Reload");
    } else if ((response.ok || response.status === 503) && ours) {
      apply(fresh, !response.ok);
    } else if (response.ok) {
      stop("The server answers with another page.", "Reload");
    } else {
      warn(`The server answered with an error (${response.status}). Trying again.`);
    }
  }

  async function refresh() {
    if (running || stopped) return;
    running = true;
    clearTimeout(timer);
    const began = performance.now();
    const patience = new AbortController();
    const late = setTimeout(() => warn("The server has not answered yet."), 2 * interval);
    const limit = setTimeout(() => patience.abort(), 6 * interval);
    let retryAfter = 0;
    try {
      const response = await fetch(address, {
        headers: { Accept: "text/html" },
        cache: "no-store",
        redirect: "manual", // it leads to the log-in page
        signal: patience.signal,
      });
      const text = await response.text();
      retryAfter = 1000 * Number(response.headers.get("Retry-After")) || 0;
      read(response, text);
    } catch (error) {
      if (!(error instanceof TypeError || error.name === "AbortError")) throw error;
      warn("The server cannot be reached. Trying again.");
    } finally {
      clearTimeout(late);
      clearTimeout(limit);
      running = false;
      // A slow answer has much to render. The pause is longer then, so that this page alone never
      // keeps the server or the browser busy. After a failure it is not, so that the page is soon
      // there again.
      const pace = broken ? retryAfter : 10 * (performance.now() - began);
      wait = Math.min(60000, Math.max(interval, pace));
      show();
      schedule(wait);
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
      const area = element("textarea", "", { className: "unseen", value: button.dataset.copy });
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
      button.focus({ preventScroll: true });
    }
    button.textContent = announcement.textContent = "Copied";
    setTimeout(() => (button.textContent = "copy"), 1500);
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

  nameRows(document);
  document.documentElement.classList.add("scripted");
  pause.hidden = false;
  rememberWorkers(document);
  rememberTasks(document);
  show();
  schedule(interval);
})();
