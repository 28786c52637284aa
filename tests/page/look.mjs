// What the page must do in a browser. Each claim is a named test; they run in this order with one daemon.

import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createServer, request as forward } from "node:http";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";

const { CALRY_GITOPS: binary, PLAYWRIGHT, AXE, SHOTS, README_PICTURE, ROOT } = process.env;
const { chromium } = createRequire(import.meta.url)(PLAYWRIGHT);
const axe = readFileSync(AXE, "utf8");
const work = mkdtempSync(join(tmpdir(), "calry-page-"));
const definitions = join(work, "definitions");
const PATIENCE = 20_000;
/** Text that would act if any of it were interpreted as HTML. */
const HOSTILE = `<img src=x onerror="window.hit=1"><script>window.hit=1</script>"'>`;

const processes = [];
/** Starts a program, waits for a line of its output, and returns the match. */
function start(args, line) {
  const env = { ...process.env, CALRY_API_KEY: key, NO_COLOR: "1" };
  const child = spawn(binary, args, { env, cwd: work, stdio: ["ignore", "pipe", "pipe"] });
  processes.push(child);
  let said = "";
  return new Promise((done, fail) => {
    const hear = (data) => {
      said += data;
      const match = said.match(line);
      if (match) done({ child, match });
    };
    child.stdout.on("data", hear);
    child.stderr.on("data", hear);
    child.on("exit", (code) => fail(new Error(`${args[0]} ended with ${code}:\n${said}`)));
    setTimeout(() => fail(new Error(`${args[0]} did not print ${line}:\n${said}`)), PATIENCE).unref();
  });
}
async function stop(child) {
  child.removeAllListeners("exit");
  const gone = new Promise((done) => child.once("exit", done));
  child.kill("SIGTERM");
  await gone;
}
function git(...args) {
  const author = ["-c", "user.name=Maria", "-c", "user.email=m@example.com"];
  const { status, stderr } = spawnSync("git", [...author, ...args], { cwd: work });
  assert.equal(status, 0, String(stderr));
}

const names = Array.from({ length: 20 }, (_, n) => (n ? `PROVIDER_${n}` : "HOSTAWAY"));
const key = "zepl.sandbox-write.not-a-secret.acme-production";
const file = (name) => join(definitions, `${name.toLowerCase()}.yaml`);
const wanted = (name) => `provider: ${name}\nfieldsToSync:\n  listing: [name, rooms]\n`;
const page_of = (port) => `http://127.0.0.1:${port}`;

let sandbox, daemon, port, browser;
const drift = async (name, icon, listing) => {
  const response = await fetch(`${sandbox}/api/v1/integration-definition/${name}`, {
    method: "PATCH",
    headers: { "x-calry-api-key": key, "content-type": "application/json" },
    body: JSON.stringify(listing ? { fieldsToSync: { listing } } : { icon }),
  });
  assert.equal(response.status, 200, await response.text());
};
const run = async (listen) => {
  const args = ["run", "--definitions", "definitions", "--api-url", sandbox, "--listen", `127.0.0.1:${listen}`,
    "--interval", "1s", "--mode", "observe", "--admin-rate", "6000"];
  const { child, match } = await start(args, /http:\/\/127\.0\.0\.1:(\d+)\/[^]*reconciliation 1 /);
  daemon = child;
  port = match[1];
};

async function set_up() {
  mkdirSync(definitions);
  for (const name of names.slice(0, 18)) writeFileSync(file(name), wanted(name));
  const quoted = HOSTILE.replaceAll("'", "''");
  writeFileSync(file(names[17]), `${wanted(names[17])}hold: {until: 2099-12-31, reason: '${quoted}'}\n`);
  git("init", "-q");
  git("add", ".");
  git("commit", "-qm", `sync ${HOSTILE}`);
  const live = names.map((provider, n) => ({
    id: `5f0c1f7e-0000-4000-8000-0000000000${10 + n}`, name: provider, provider,
    fieldsToSync: { listing: { name: true, rooms: true, pictures: false, [`x${HOSTILE}`]: false } },
    createdAt: "2026-01-01T00:00:00.000Z", updatedAt: "2026-01-01T00:00:00.000Z",
  }));
  const workspace = {
    id: "4e551557-b685-5ec0-a8fa-cae52500c5a7", name: HOSTILE, slug: "acme-production", defaultCurrency: "EUR",
    defaultDiscountPercentage: 0, createdAt: "2026-01-01T00:00:00.000Z", updatedAt: "2026-01-01T00:00:00.000Z",
  };
  writeFileSync(join(work, "seed.json"), JSON.stringify({ workspace, definitions: live }));
  const args = ["sandbox", "--listen", "127.0.0.1:0", "--seed", "seed.json"];
  const started = await start(args, /(http:\/\/127\.0\.0\.1:\d+)\s/);
  sandbox = started.match[1];
  await run(0);
  await launch();
}

async function launch() {
  const flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking " +
    "--disable-component-update --disable-sync";
  browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: flags.split(" ") });
}

/** Makes the picture of the README: the examples of the repository, with a change in git and drift. */
async function picture() {
  cpSync(join(ROOT, "definitions"), definitions, { recursive: true });
  for (const name of readdirSync(definitions).filter((name) => name.endsWith(".yaml"))) {
    const text = readFileSync(join(definitions, name), "utf8");
    for (const [, secret] of text.matchAll(/\$\{secret:([a-z0-9-]+)\}/g)) {
      process.env[`CALRY_SECRET_${secret.toUpperCase().replaceAll("-", "_")}`] = `not-a-secret-${secret}`;
    }
  }
  const commit = (subject) => { git("add", "."); git("commit", "-qm", subject); };
  git("init", "-q");
  commit("Add the definitions");
  const started = await start(["sandbox", "--listen", "127.0.0.1:4010"], /(http:\/\/127\.0\.0\.1:\d+)\s/);
  sandbox = started.match[1];
  const options = ["--definitions", "definitions", "--api-url", sandbox];
  const { status, stderr } = spawnSync(binary, ["apply", "--yes", ...options], {
    cwd: work, env: { ...process.env, CALRY_API_KEY: key },
  });
  assert.equal(status, 0, String(stderr));
  const args = ["run", ...options, "--listen", "127.0.0.1:8080", "--interval", "60s", "--mode", "observe"];
  const { child } = await start(args, /reconciliation 1 /);
  daemon = child;
  port = 8080;
  const guesty = readFileSync(file("guesty"), "utf8");
  writeFileSync(file("guesty"), guesty.replace("startPrice: false # Guesty sends prices without cleaning fees", "startPrice: true"));
  commit("Show Guesty's prices again");
  await drift("HOSTAWAY", "https://cdn.example.com/icons/new.png");
  await drift("HOSTAWAY", null, { name: true, type: true, rooms: true, address: true });
  const headers = { "content-type": "application/json" };
  await fetch(`${page_of(port)}/api/v1/reconcile`, { method: "POST", headers, body: "{}" });
  await launch();
  const page = await open({ viewport: { width: 1100, height: 820 } });
  await verdict(page, "2 providers out of sync");
  await says(page, "live", "#contact");
  await page.screenshot({ path: README_PICTURE });
  await page.context().close();
}

/** Axe finds nothing, and the page does not scroll sideways. */
async function accessible(page, what) {
  await page.evaluate(axe);
  const found = await page.evaluate(async () => (await window.axe.run()).violations.map(({ id, nodes }) =>
    `${id}: ${nodes.map(({ target, failureSummary }) => `${target} ${failureSummary}`).join("; ")}`));
  assert.deepEqual(found, [], what);
  const wider = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  assert.ok(wider <= 0, `${wider} pixels too wide: ${what}`);
}

const complaints = [];
/** Opens a tab and records everything that must not happen in it. */
async function open(options = {}, path = "/") {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE);
  page.on("console", (message) => {
    // The browser itself reports lost and refused requests.
    if (["error", "warning"].includes(message.type()) && !/Failed to load resource|ERR_/.test(message.text())) {
      complaints.push(message.text());
    }
  });
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("request", (request) => {
    if (new URL(request.url()).host !== `127.0.0.1:${port}`) complaints.push(`requested ${request.url()}`);
  });
  await page.goto(page_of(port) + path);
  return page;
}
const says = (page, text, where = "main") => page.locator(where, { hasText: text }).first().waitFor();
const verdict = (page, text) => page.locator("h1", { hasText: text }).waitFor();

const claims = {
  async "the page is complete without a script"() {
    const page = await open({ javaScriptEnabled: false });
    await verdict(page, "In sync · 1 on hold");
    await says(page, "17 of 18 managed providers are in sync");
    assert.equal(await page.locator(".rows.short tbody tr").count(), 17);
    assert.equal(await page.locator("#reconcile").isVisible(), false);
    await page.context().close();
  },

  async "it updates itself after drift, and shows the differences"() {
    const page = await open();
    await says(page, "live", "#contact");
    await drift("HOSTAWAY", "https://cdn.example.com/x.png");
    await drift("PROVIDER_1", null, { name: true });
    await verdict(page, "1 provider out of sync");
    const card = page.locator('[data-k="c-PROVIDER_1"]');
    assert.match(await card.innerText(), /drift/);
    assert.match(await card.locator("del").innerText(), /rooms: false/);
    assert.match(await card.locator("ins").innerText(), /rooms: true/);
    assert.match(await page.title(), /^1 provider out of sync/);
    assert.equal(await page.locator("link[rel=icon]").getAttribute("href"), "assets/differs.svg");
    assert.match(await page.locator("#announcement").innerText(), /1 provider out of sync/);
    await says(page, "PROVIDER_1 has drifted", ".events");
    await drift("PROVIDER_1", null, { name: true, rooms: true });
    await verdict(page, "In sync");
    await page.context().close();
  },

  async "open, typed and focused elements stay so through updates"() {
    await drift("PROVIDER_2", null, { name: true });
    const page = await open();
    const card = page.locator('[data-k="c-PROVIDER_2"]');
    await card.locator("summary").click();
    assert.equal(await card.evaluate((one) => one.open), false);
    await page.locator(".filter input").fill("provider_1");
    const id = await page.locator("main").getAttribute("data-id");
    await page.waitForFunction((id) => document.getElementById("main").dataset.id !== id, id);
    assert.equal(await card.evaluate((one) => one.open), false);
    assert.equal(await page.locator(".filter input").inputValue(), "provider_1");
    assert.equal(await page.evaluate(() => document.activeElement.type), "search");
    // PROVIDER_1 and 10 to 16, one on hold, and two without a file.
    assert.equal(await page.locator(".rows.short tbody tr:visible").count(), 8);
    assert.match(await page.locator(".found").innerText(), /^11 of 20$/);
    await drift("PROVIDER_2", null, { name: true, rooms: true });
    await verdict(page, "In sync");
    await page.context().close();
  },

  async "it shows a lost connection, and continues after a restart"() {
    const page = await open();
    await says(page, "live", "#contact");
    await page.evaluate(() => { window.same = true; });
    await stop(daemon);
    await says(page, "connection lost", "#contact");
    await says(page, /Connection to the daemon lost \d+s ago \(\d.*last known state/, "#lost");
    assert.match(await page.locator("#announcement").innerText(), /^Connection to the daemon lost$/);
    if (SHOTS) await page.screenshot({ path: join(SHOTS, "lost.png") });
    await drift("PROVIDER_3", null, { name: true });
    await run(port);
    await verdict(page, "1 provider out of sync");
    await says(page, "live", "#contact");
    assert.equal(await page.locator("#lost").isVisible(), false);
    assert.equal(await page.evaluate(() => window.same), true, "it did not reload");
    await drift("PROVIDER_3", null, { name: true, rooms: true });
    await page.context().close();
  },

  async "another version of the daemon reloads the page"() {
    const page = await open();
    await page.route("**/*part*", async (route) => {
      const response = await route.fetch();
      const body = (await response.text()).replace(/data-version="[^"]*"/, 'data-version="9"');
      await route.fulfill({ response, body });
    });
    await page.evaluate(() => { window.same = true; });
    await page.waitForFunction(() => !window.same);
    await page.unrouteAll({ behavior: "ignoreErrors" });
    await page.context().close();
  },

  async "without a free stream it polls, and is up to date"() {
    const page = await open();
    await page.context().close();
    const poor = await browser.newContext();
    const tab = await poor.newPage();
    await tab.route("**/api/v1/events", (route) => route.fulfill({ status: 503, body: "{}" }));
    await tab.goto(page_of(port));
    await says(tab, "up to date", "#contact");
    await drift("PROVIDER_4", null, { name: true });
    await verdict(tab, "1 provider out of sync");
    assert.equal(await tab.locator("#lost").isVisible(), false);
    await drift("PROVIDER_4", null, { name: true, rooms: true });
    await poor.close();
  },

  async "reconcile now sends a request, and every answer is shown"() {
    const page = await open();
    const answers = [];
    const asked = [];
    await page.route("**/api/v1/reconcile", async (route) => {
      const request = route.request();
      const { "content-type": type, authorization } = request.headers();
      asked.push([request.method(), type, authorization, request.postData()]);
      const answer = answers.shift();
      await (answer ? route.fulfill({ contentType: "application/json", ...answer }) : route.abort());
    });
    const button = page.locator("#reconcile");
    const press = async (answer, text) => {
      if (answer) answers.push(answer);
      await button.click();
      await says(page, text, "#answer");
    };
    await press({ status: 202, body: "{}" }, "Reconcile requested");
    assert.deepEqual(asked.pop(), ["POST", "application/json", undefined, '{"workspace":"acme-production"}']);
    await press({ status: 403, body: '{"error":"only here"}' }, "does not accept this from here: only here");
    await press({ status: 429, headers: { "retry-after": "7" }, body: "{}" }, "try again in 7 s");
    await press(null, "did not answer");
    // A token is requested, sent, and kept in memory only.
    answers.push(...[401, 401, 202, 202].map((status) => ({ status, body: "{}" })));
    await button.click();
    await page.locator("#ask-token").fill("wrong");
    await page.keyboard.press("Enter");
    await says(page, "Wrong token", "#ask");
    await page.locator("#ask-token").fill("right");
    await page.locator("#ask-yes").click();
    await says(page, "Reconcile requested", "#answer");
    await button.click();
    await page.waitForFunction(() => !document.getElementById("reconcile").hasAttribute("aria-disabled"));
    assert.deepEqual(asked.slice(-2).map((one) => one[2]), ["Bearer right", "Bearer right"]);
    assert.equal(await page.evaluate(() => localStorage.length + sessionStorage.length + document.cookie.length), 0);
    await page.context().close();
  },

  async "reconcile now starts a reconciliation of the real daemon"() {
    const page = await open();
    await page.locator("#reconcile").click();
    await says(page, "Reconcile requested", "#answer");
    const requested = async () => {
      const { workspaces: [{ lastPass, pass }] } = await (await fetch(`${page_of(port)}/api/v1/status`)).json();
      return [lastPass, pass].some((one) => one?.trigger === "request");
    };
    const deadline = Date.now() + PATIENCE;
    while (!(await requested())) assert.ok(Date.now() < deadline, "no reconciliation was started");
    await page.context().close();
  },

  async "a refused plan is approved by its digest, after a confirmation"() {
    const digest = "sha256:" + "a".repeat(64);
    const context = await browser.newContext();
    const page = await context.newPage();
    const approved = [];
    await page.route("**/api/v1/approve", (route) => {
      approved.push(route.request().postData());
      return route.fulfill({ status: 202, contentType: "application/json", body: "{}" });
    });
    await page.route("**/", async (route) => {
      const response = await route.fetch();
      const approve = `<button type="button" hidden data-approve="${digest}">Approve this plan</button>`;
      await route.fulfill({ response, body: (await response.text()).replace("</main>", `${approve}</main>`) });
    });
    await page.route("**/api/v1/events", (route) => route.abort());
    await page.route("**/*part*", (route) => route.abort());
    await page.goto(page_of(port));
    const button = page.locator("[data-approve]");
    await button.click();
    await page.locator("dialog button", { hasText: "Cancel" }).click();
    assert.deepEqual(approved, []);
    await button.click();
    const shown = await page.locator("dialog").innerText();
    assert.ok(shown.includes("sha256:aaaaaaaaaaaa…") && !shown.includes(digest), shown);
    await page.locator("#ask-yes").click();
    await says(page, "Plan approved", "#answer");
    assert.deepEqual(approved, [JSON.stringify({ digest, workspace: "acme-production" })]);
    await context.close();
  },

  async "a click shows its result within half a second, and a failing API greys what is old"() {
    // A daemon that writes, behind a proxy that can refuse the key.
    let refuse = false;
    const proxy = createServer((request, response) => {
      if (refuse) return response.writeHead(401, { "content-type": "application/json" }).end("{}");
      const { method, url, headers } = request;
      request.pipe(forward(new URL(url, sandbox), { method, headers }, (answer) => {
        response.writeHead(answer.statusCode, answer.headers);
        answer.pipe(response);
      }));
    });
    await new Promise((done) => proxy.listen(0, "127.0.0.1", done));
    const api = `http://127.0.0.1:${proxy.address().port}`;
    const undo = (n) => drift(`PROVIDER_${n}`, null, { name: true, rooms: true });
    for (const n of [6, 7, 8, 9, 10]) await drift(`PROVIDER_${n}`, null, { name: true });
    const args = ["run", "--definitions", "definitions", "--api-url", api, "--listen", "127.0.0.1:0", "--interval", "1h",
      "--max-changes", "2", "--admin-rate", "6000"];
    const { child, match } = await start(args, /http:\/\/127\.0\.0\.1:(\d+)\/[^]*reconciliation 1 /);
    const before = port;
    port = match[1];
    const page = await open({ permissions: ["clipboard-read", "clipboard-write"] });
    await verdict(page, "Waiting for approval: 5 providers to update (limit 2)");
    await says(page, "live", "#contact");

    // Five cards are closed; a filter that leaves few of them opens these.
    const opened = () => page.locator(".card.differs[open]").count();
    assert.equal(await opened(), 0);
    assert.match(await page.locator('[data-k="c-PROVIDER_6"] summary').innerText(), /1 field on/);
    await page.locator(".filter input").fill("provider_6");
    assert.equal(await opened(), 1);
    await page.locator(".filter input").fill("");
    assert.equal(await opened(), 0);
    if (SHOTS) await page.screenshot({ path: join(SHOTS, "refused.png"), fullPage: true });

    // The clipboard, and without it a selected text.
    const digest = await page.locator("[data-approve]").getAttribute("data-approve");
    const copied = () => page.evaluate(() => navigator.clipboard.readText());
    await page.getByRole("button", { name: "Copy the digest" }).click();
    await page.locator("#announcement", { hasText: /^Copied$/ }).waitFor({ state: "attached" });
    assert.equal(await copied(), digest);
    await page.evaluate(async () => {
      const { clipboard } = navigator;
      window.clipboardOfTest = clipboard;
      await clipboard.writeText("");
      Object.defineProperty(navigator, "clipboard", { value: undefined, configurable: true });
    });
    await page.getByRole("button", { name: "Copy the digest" }).click();
    await page.waitForFunction((digest) => window.clipboardOfTest.readText().then((text) => text === digest), digest);

    /** The seconds from a click to the new view, without those of the reconciliation. */
    const timed = async (click, text) => {
      const shown = page.evaluate((text) => new Promise((done) => {
        const look = () => document.querySelector("#main").textContent.includes(text);
        const watch = new MutationObserver(() => { if (look()) { watch.disconnect(); done(performance.now()); } });
        watch.observe(document.getElementById("main"), { subtree: true, childList: true, characterData: true, attributes: true });
      }), text);
      const clicked = await page.evaluate((where) => {
        const at = performance.now();
        document.querySelector(where).click();
        return at;
      }, click);
      const took = (await shown) - clicked;
      const { workspaces: [{ lastPass }] } = await (await fetch(`${page_of(port)}/api/v1/status`)).json();
      return took / 1000 - lastPass.durationSeconds;
    };
    await page.locator("[data-approve]").click();
    const facts = await page.locator("dialog dl").innerText();
    for (const fact of ["acme-production", "“sync ", "5 providers", "5 fields on", digest.slice(0, 19) + "…"]) {
      assert.ok(facts.includes(fact), facts);
    }
    assert.equal(facts.includes("Switches off"), false, facts);
    await accessible(page, "the approval");
    if (SHOTS) await page.screenshot({ path: join(SHOTS, "approval.png") });
    const approved = await timed("#ask-yes", "Reconciliation 2");
    await verdict(page, "In sync");
    await says(page, "Reconciliation 2: 5 ", ".events");
    if (SHOTS) await page.screenshot({ path: join(SHOTS, "approved.png"), fullPage: true });
    const times = [];
    for (const n of [6, 7, 8]) {
      await drift(`PROVIDER_${n}`, null, { name: true });
      times.push(await timed("#reconcile", `PROVIDER_${n} drifted, drift undone`));
    }
    const seconds = (all) => all.map((one) => one.toFixed(2)).join(", ");
    console.log(`    approve: ${seconds([approved])} s, reconcile: ${seconds(times)} s`);
    assert.ok(Math.min(...times) < 0.5, seconds(times));
    assert.ok(approved < 0.5, seconds([approved]));

    refuse = true;
    await page.locator("#reconcile").click();
    await verdict(page, "The last reconciliation failed");
    await says(page, /as of \d\d:\d\d.*, (just now|\d+s ago)/, ".asof");
    assert.equal(await page.locator(".tiles.old").count(), 1);
    for (const colorScheme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme });
      await accessible(page, `failing, ${colorScheme}`);
      if (SHOTS) await page.screenshot({ path: join(SHOTS, `failing-${colorScheme}.png`), fullPage: true });
    }
    await page.context().close();
    await stop(child);
    proxy.close();
    for (const n of [6, 7, 8, 9, 10]) await undo(n);
    port = before;
  },

  async "hostile text does not act, and nothing may be loaded or run from other hosts"() {
    const field = `'${HOSTILE.replaceAll("'", "''")}'`;
    writeFileSync(file(names[16]), `${wanted(names[16]).replace("rooms", field)}icn: x\n`);
    await drift("PROVIDER_5", null, { name: true, [`x${HOSTILE}`]: true });
    const page = await open();
    await verdict(page, "1 invalid definition");
    await says(page, "sync <img src=x onerror");
    await says(page, "<img src=x", ".problems");
    await says(page, `x<img src=x`, ".diff");
    assert.equal(await page.evaluate(() => window.hit), undefined);
    assert.equal(await page.locator("main img, main script, body > script").count(), 0);
    if (SHOTS) await page.screenshot({ path: join(SHOTS, "hostile.png"), fullPage: true });
    await page.context().close();

    const response = await fetch(page_of(port));
    const policy = response.headers.get("content-security-policy");
    for (const part of ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "form-action 'self'"]) {
      assert.ok(policy.includes(part), policy);
    }
    assert.ok(!policy.includes("unsafe"), policy);
    assert.ok((await response.text()).length < 100_000);
  },

  async "in both themes and at every width it is accessible, and does not scroll sideways"() {
    for (const colorScheme of ["light", "dark"]) {
      for (const width of [360, 1920]) {
        const page = await open({ colorScheme, viewport: { width, height: 900 } });
        await verdict(page, "1 invalid definition");
        await page.evaluate(() => document.querySelectorAll("details").forEach((one) => { one.open = true; }));
        await accessible(page, `${colorScheme}, ${width}`);
        if (SHOTS) await page.screenshot({ path: join(SHOTS, `real-${width}-${colorScheme}.png`), fullPage: true });
        await page.context().close();
      }
    }
  },

  async "a repository is shown with its last fetch, and why it cannot be fetched"() {
    let status = 401;
    const server = createServer((request, answer) => {
      if (status !== 200) return answer.writeHead(status).end();
      const type = request.method === "GET" ? "advertisement" : "result";
      answer.writeHead(200, { "content-type": `application/x-git-upload-pack-${type}` });
      const env = { ...process.env, GIT_PROTOCOL: request.headers["git-protocol"] ?? "" };
      const advertise = type === "advertisement" ? ["--advertise-refs"] : [];
      if (advertise.length) answer.write("001e# service=git-upload-pack\n0000");
      const git = spawn("git", ["upload-pack", "--stateless-rpc", ...advertise, work], { env });
      request.pipe(git.stdin);
      git.stdout.pipe(answer);
    });
    await new Promise((done) => server.listen(0, "127.0.0.1", done));
    server.unref();
    const url = `http://127.0.0.1:${server.address().port}/acme/a-long-name-of-a-repository-with-definitions.git`;
    const args = ["run", "--git-url", url, "--api-url", sandbox, "--listen", "127.0.0.1:0", "--interval", "1s", "--git-interval",
      "1s", "--mode", "observe", "--admin-rate", "6000"];
    const before = port;
    const run = async () => {
      const { child, match } = await start(args, /listening on http:\/\/127\.0\.0\.1:(\d+)\/[^]*reconciliation 1 /);
      port = match[1];
      return child;
    };
    const look = async (name) => {
      for (const width of [320, 768, 1400]) {
        const page = await open({ colorScheme: width === 768 ? "dark" : "light", viewport: { width, height: 900 } });
        await says(page, "Last fetch");
        await accessible(page, `${name}, ${width}`);
        if (SHOTS) await page.screenshot({ path: join(SHOTS, `${name}-${width}.png`), fullPage: true });
        await page.context().close();
      }
    };
    let child = await run();
    let page = await open();
    await verdict(page, "Git cannot be fetched; nothing is in force yet");
    await says(page, "The git server asks for credentials (401)");
    await look("git-failing");
    await page.context().close();
    await stop(child);

    status = 200;
    child = await run();
    page = await open();
    await says(page, "of " + url, ".facts");
    await page.locator(".facts .badge.good", { hasText: "ok" }).last().waitFor();
    await look("git");
    // A short outage is no headline.
    status = 503;
    await page.locator(".facts .badge.bad", { hasText: "failed" }).waitFor();
    await says(page, "The git server failed with status 503", ".facts");
    assert.equal((await page.locator("h1").innerText()).includes("Git"), false);
    await page.context().close();
    await stop(child);
    server.close();
    port = before;
  },

  async "every control is reached by the keyboard, with a visible focus"() {
    const page = await open();
    await verdict(page, "1 invalid definition");
    await page.keyboard.press("Tab");
    assert.equal(await page.evaluate(() => document.activeElement.className), "skip");
    await page.keyboard.press("Enter");
    assert.equal(await page.evaluate(() => document.activeElement.id), "main");
    const reached = new Set();
    for (let n = 0; n < 60; n++) {
      await page.keyboard.press("Tab");
      const [what, seen] = await page.evaluate(() => {
        const one = document.activeElement, { outlineStyle, outlineWidth } = getComputedStyle(one);
        const seen = outlineStyle !== "none" && parseFloat(outlineWidth) >= 2;
        return [`${one.nodeName}.${one.className || one.type || ""}`, seen];
      });
      if (what.startsWith("BODY")) break;
      assert.ok(seen, `${what} has no visible focus`);
      reached.add(what.split(" ")[0]);
    }
    for (const what of ["A.good", "SUMMARY.", "PRE.diff", "PRE.excerpt", "INPUT.search"]) {
      assert.ok(reached.has(what), `${what} among ${[...reached]}`);
    }
    await page.keyboard.press("/");
    await page.context().close();
  },
};

const keep = setInterval(() => {}, 1000);
let failed = "";
try {
  if (README_PICTURE) failed = "the picture of the README";
  await (README_PICTURE ? picture() : set_up());
  for (const [claim, test] of Object.entries(README_PICTURE ? {} : claims)) {
    failed = claim;
    await test();
    assert.deepEqual(complaints, [], "complaints of the browser, or requests to other hosts");
    console.log(`ok: ${claim}`);
  }
  failed = "";
} catch (error) {
  console.error(`FAILED: ${failed || "set-up"}\n`, error);
  process.exitCode = 1;
} finally {
  clearInterval(keep);
  await browser?.close();
  for (const child of processes) { child.removeAllListeners("exit"); child.kill("SIGKILL"); }
  rmSync(work, { recursive: true, force: true });
}
