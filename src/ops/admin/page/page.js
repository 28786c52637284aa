// Keeps the page current: replaces <main> when the state changes, shows when the connection is lost, and sends the
// requests of the buttons. Without it the page is complete, but does not refresh.
"use strict";
(() => {
  const by = (id) => document.getElementById(id);
  const contact = by("contact"), lost = by("lost"), answer = by("answer"), announcement = by("announcement"), button = by("reconcile");
  // The pause between two refreshes: together with a terminal that follows the status, it stays below the rate limit.
  const BETWEEN = 4000, QUIET = 25000, SLOWEST = 15000;
  const version = by("main").dataset.version;
  let events = null, timer = 0, tries = 0, heard = Date.now(), since = 0, asking = false, again = false;
  // After a click: how many refreshes follow without the pause.
  let quick = 0, wake = null;
  let token = "", skew = Date.parse(by("main").dataset.now) - Date.now();

  // Times

  const now = () => Date.now() + skew;
  const rough = (ms) => {
    const s = Math.max(0, Math.floor(ms / 1000));
    if (s < 60) return s + "s";
    if (s < 3600) return Math.floor(s / 60) + "m";
    return s < 172800 ? Math.floor(s / 3600) + "h" : Math.floor(s / 86400) + "d";
  };
  const put = (element, text) => { if (element.textContent !== text) element.textContent = text; };
  const tick = () => {
    for (const time of document.querySelectorAll("time.ago, time.in")) {
      const at = Date.parse(time.dateTime), passed = now() - at;
      if (time.className === "in") put(time, passed < 0 ? "in " + rough(999 - passed) : "now");
      else put(time, passed < 5000 ? "just now" : rough(passed) + " ago");
    }
    for (const time of document.querySelectorAll("time.clock")) {
      put(time, new Date(time.dateTime).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }));
    }
    if (since) put(lost, `Connection to the daemon lost ${rough(Date.now() - since)} ago (` +
      `${new Date(since).toLocaleTimeString()}). Showing the last known state; reconnecting…`);
  };

  // Replaces <main> in place: open, focused, selected and scrolled elements stay as they are.

  const key = (node) => node.nodeType === 1 ? node.id || node.dataset.k || "" : "";
  const alike = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName && key(a) === key(b);
  const morph = (old, fresh) => {
    if (old.nodeType !== 1) {
      if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
      return;
    }
    if (old.classList.contains("filter")) return;
    const stays = (name) => name === "hidden" || name === "data-sifted" || (name === "open" && old.nodeName === "DETAILS");
    for (const { name } of [...old.attributes]) {
      if (!stays(name) && !fresh.hasAttribute(name)) old.removeAttribute(name);
    }
    for (const { name, value } of fresh.attributes) {
      if (!stays(name) && old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    const keyed = new Map();
    for (const child of old.childNodes) if (key(child)) keyed.set(key(child), child);
    let at = old.firstChild;
    for (const next of [...fresh.childNodes]) {
      let same = key(next) ? keyed.get(key(next)) : at;
      if (!same || !alike(same, next)) same = null;
      if (same) {
        if (same === at) at = at.nextSibling;
        else old.insertBefore(same, at);
        morph(same, next);
      } else {
        old.insertBefore(next, at);
      }
    }
    while (at) {
      const gone = at;
      at = at.nextSibling;
      gone.remove();
    }
  };

  const adopt = (text) => {
    const fresh = new DOMParser().parseFromString(text, "text/html").getElementById("main");
    const main = by("main");
    if (!fresh) throw new Error("no page");
    if (fresh.dataset.version !== version) return location.reload();
    const news = fresh.dataset.headline !== main.dataset.headline;
    skew = Date.parse(fresh.dataset.now) - Date.now();
    morph(main, fresh);
    // Screen readers get only the verdict; more would be noise.
    if (news) put(announcement, main.dataset.headline);
    dress();
  };

  // The controls that need a script, and the tab's title and icon.
  const dress = () => {
    const { title, level } = by("main").dataset;
    if (document.title !== title) document.title = title;
    const icon = document.querySelector("link[rel=icon]"), wanted = `assets/${level}.svg`;
    if (icon.getAttribute("href") !== wanted) icon.setAttribute("href", wanted);
    for (const hidden of document.querySelectorAll(".filter[hidden], [data-approve][hidden], [data-copy][hidden]")) hidden.hidden = false;
    document.querySelectorAll(".filter input").forEach(sift);
    tick();
  };

  // One request at a time; the pause grows with the time that a refresh takes.
  const refresh = async () => {
    if (asking) { again = true; return; }
    asking = true;
    again = false;
    const began = Date.now();
    let pause = 0;
    try {
      const address = new URL(location.href);
      address.searchParams.set("part", "");
      address.hash = "";
      const response = await fetch(address, { cache: "no-store", signal: AbortSignal.timeout(10000) });
      if (response.status === 429) {
        // A rate-limited page is connected; a minute later more requests are accepted.
        pause = 1000 * Math.min(60, Number(response.headers.get("retry-after")) || 15);
        again = true;
      } else {
        adopt(await response.text());
      }
      reached();
    } finally {
      const wait = pause || (quick > 0 ? 100 : Math.min(SLOWEST, Math.max(BETWEEN, 10 * (Date.now() - began))));
      if (quick > 0) quick--;
      const next = () => {
        clearTimeout(sleeping);
        wake = null;
        asking = false;
        if (again) refresh().catch(missed);
      };
      const sleeping = setTimeout(next, wait);
      // A server that limits the rate is not hurried.
      if (!pause) wake = next;
    }
  };
  // The results of a click are shown at once: a few refreshes do not wait for the pause.
  const hurry = () => {
    quick = 5;
    if (wake) wake();
  };

  // Connection

  const show = (state, text) => {
    if (contact.dataset.state !== state) contact.dataset.state = state;
    put(contact.querySelector(".text"), text);
  };
  const reached = () => {
    heard = Date.now();
    tries = 0;
    if (since) { since = 0; put(announcement, "Connected to the daemon again"); }
    lost.hidden = true;
    document.body.classList.remove("stale");
    show("live", events ? "live" : "up to date");
  };
  const missed = () => {
    // Announced once; the visible text counts the seconds.
    if (!since) { since = heard; put(announcement, "Connection to the daemon lost"); }
    show("lost", "connection lost");
    document.body.classList.add("stale");
    lost.hidden = false;
    tick();
  };
  const close = () => { if (events) events.close(); events = null; };
  const later = (wait) => { clearTimeout(timer); timer = setTimeout(connect, wait); };
  // Without a stream, an answer to a plain request proves the connection.
  const failed = () => {
    close();
    later(Math.min(SLOWEST, 500 * 2 ** tries++) * (0.75 + Math.random() / 2));
    refresh().catch(missed);
  };
  const connect = () => {
    close();
    // Browsers open few connections to one host: a hidden tab polls.
    if (document.hidden) { refresh().catch(missed); return later(30000); }
    events = new EventSource("api/v1/events" + location.search);
    events.addEventListener("beat", reached);
    events.addEventListener("state", (event) => {
      const news = JSON.parse(event.data);
      if (news.version !== version) return location.reload();
      reached();
      if (news.id !== by("main").dataset.id) refresh().catch(failed);
    });
    events.onerror = failed;
  };
  setInterval(() => {
    tick();
    if (events && Date.now() - heard > QUIET) failed();
  }, 1000);
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) later(60000);
    else if (!events) connect();
    else clearTimeout(timer);
  });
  addEventListener("pagehide", close);
  addEventListener("pageshow", (event) => { if (event.persisted) connect(); });

  // Filters

  const FEW = 3;
  const sift = (input, typed) => {
    const words = input.value.trim().toLowerCase(), all = input.closest("main");
    let found = 0, count = 0;
    for (const list of all.querySelectorAll("[data-filtered]")) {
      const rows = list.tBodies ? list.tBodies[0].rows : list.children;
      for (const row of rows) {
        const fits = (row.querySelector(".name, th") || row).textContent.toLowerCase().includes(words);
        row.hidden = !fits;
        count++;
        found += fits;
      }
      const fold = list.closest("details");
      if (fold && words) fold.open = true;
    }
    // Few cards are read at once: those that the filter leaves are opened, and closed again after it.
    if (typed) {
      const cards = [...all.querySelectorAll(".card:not([hidden])")];
      for (const card of all.querySelectorAll(".card[data-sifted]")) {
        card.open = false;
        delete card.dataset.sifted;
      }
      if (words && cards.length <= FEW) {
        for (const card of cards.filter((one) => !one.open)) { card.open = true; card.dataset.sifted = ""; }
      }
    }
    put(input.closest(".filter").querySelector(".found"), words ? `${found} of ${count}` : "");
  };
  document.addEventListener("input", (event) => { if (event.target.closest(".filter")) sift(event.target, true); });
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, textarea, dialog");
    if (event.key === "Escape" && event.target.closest(".filter")) { event.target.value = ""; sift(event.target, true); }
    if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const box = document.querySelector(".filter input");
    if (box) { event.preventDefault(); box.focus(); }
  });

  // Requests

  /** A confirmation. `facts` are names and values, with `bad` where a user should look twice. */
  const ask = (title, text, yes, secret, facts = []) => new Promise((done) => {
    const dialog = by("ask"), input = by("ask-token");
    put(by("ask-title"), title);
    put(by("ask-text"), text);
    put(by("ask-yes"), yes);
    by("ask-facts").hidden = !facts.length;
    by("ask-facts").replaceChildren(...facts.flatMap(([name, value, level]) => {
      const term = document.createElement("dt"), fact = document.createElement("dd");
      term.textContent = name;
      fact.textContent = value;
      if (level) fact.className = level;
      return [term, fact];
    }));
    by("ask-label").hidden = !secret;
    input.value = "";
    input.required = secret;
    dialog.returnValue = "";
    dialog.addEventListener("close", () => {
      const value = input.value;
      input.value = "";
      done(dialog.returnValue === "yes" ? value || "yes" : "");
    }, { once: true });
    dialog.showModal();
    if (secret) input.focus();
  });
  by("ask-no").addEventListener("click", () => by("ask").close());
  const say = (level, text) => { answer.className = "answer " + level; put(answer, text); };
  const post = async (path, body, done) => {
    try {
      for (;;) {
        const headers = { "content-type": "application/json" };
        // Kept in this variable only: closing the page forgets it.
        if (token) headers.authorization = "Bearer " + token;
        const response = await fetch(path, {
          method: "POST", headers, body: JSON.stringify(body), signal: AbortSignal.timeout(10000),
        });
        if (response.ok) {
          hurry();
          return say("good", done);
        }
        if (response.status === 401) {
          const wrong = token !== "";
          token = await ask(wrong ? "Wrong token" : "Admin token required",
            "Enter the token from --admin-token-file. This page forgets it when it is closed or reloaded.",
            "Continue", true);
          if (token) continue;
          return say("bad", "Nothing was sent: an admin token is required.");
        }
        let why = "";
        try { why = (await response.json()).error || ""; } catch { /* not JSON */ }
        if (response.status === 429) {
          const wait = response.headers.get("retry-after");
          return say("bad", `Too many requests${wait ? `; try again in ${wait} s` : ""}.`);
        }
        why = why ? ": " + why : ".";
        if (response.status === 403) return say("bad", "The daemon does not accept this from here" + why);
        return say("bad", `The daemon refused the request (${response.status})${why}`);
      }
    } catch {
      say("bad", "The daemon did not answer. The result is unknown; you can try again.");
    }
  };
  // Browsers offer the clipboard only over HTTPS and on the local machine; a selected text is copied everywhere.
  const copy = async (pressed) => {
    const text = pressed.dataset.copy, word = pressed.querySelector(".word");
    let copied = false;
    try {
      await navigator.clipboard.writeText(text);
      copied = true;
    } catch {
      const area = document.createElement("textarea");
      area.className = "unseen";
      area.value = text;
      pressed.after(area);
      area.select();
      copied = document.execCommand("copy");
      area.remove();
      pressed.focus();
    }
    put(word, copied ? "Copied" : "Not copied");
    // Cleared first: a second copy is announced as well.
    announcement.textContent = "";
    setTimeout(() => put(announcement, copied ? "Copied" : "Not copied"), 50);
    setTimeout(() => put(word, "Copy"), 2000);
  };
  const scope = () => { const slug = by("main").dataset.workspace; return slug ? { workspace: slug } : {}; };
  const busy = async (element, work) => {
    element.setAttribute("aria-disabled", "true");
    try { await work(); } finally { element.removeAttribute("aria-disabled"); }
  };
  document.addEventListener("click", (event) => {
    const pressed = event.target.closest("button");
    if (!pressed || pressed.getAttribute("aria-disabled")) return;
    const digest = pressed.dataset.approve;
    if (pressed.dataset.copy) {
      copy(pressed);
    } else if (pressed === button) {
      const all = by("workspaces") ? " for all workspaces" : "";
      const done = `Reconcile requested${all}. Results will appear here.`;
      busy(button, () => post("api/v1/reconcile", scope(), done));
    } else if (digest) {
      busy(pressed, async () => {
        const facts = [...JSON.parse(pressed.dataset.plan || "[]"), ["Digest", digest.slice(0, 19) + "…"]];
        const sure = await ask("Approve this plan?", "The daemon makes exactly these changes.", "Approve", false, facts);
        const done = "Plan approved. Results will appear here.";
        if (sure) await post("api/v1/approve", { digest, ...scope() }, done);
      });
    }
  });

  button.hidden = false;
  show("live", "connecting");
  dress();
  connect();
})();
