// Browsers whose APIs are missing, throw, hang or lie.

import assert from "node:assert/strict";
import test from "node:test";
import { loggedIn, MEMORY, refusal, settled, World } from "./world.mjs";

const MINUTE = 60_000;

const forbidden = () => { throw new DOMException("The operation is insecure.", "SecurityError"); };
const getter = (object, name, get = forbidden) => Object.defineProperty(object, name, { get, configurable: true });
const never = () => new Promise(() => {});
const channel = methods => class {
  postMessage() {}
  close() {}
  constructor() { Object.assign(this, methods); }
};

/** What is broken, and how. Each browser can still fetch, so a user is logged in. */
const BROKEN = {
  "BroadcastChannel is missing": env => { delete env.BroadcastChannel; },
  "the getter BroadcastChannel throws": env => getter(env, "BroadcastChannel"),
  "new BroadcastChannel throws": env => { env.BroadcastChannel = forbidden; },
  "postMessage throws": env => { env.BroadcastChannel = channel({ postMessage: forbidden, close: forbidden }); },
  "a channel delivers nothing": env => { env.BroadcastChannel = channel({}); },
  "the getter document throws": env => getter(env, "document"),
  "document is missing, as in a worker": env => { delete env.document; },
  "the getter document.cookie throws": env => getter(env.document, "cookie"),
  "the getter visibilityState throws": env => getter(env.document, "visibilityState"),
  "the getter localStorage throws": env => getter(env, "localStorage"),
  "localStorage is null": env => { env.localStorage = null; },
  "localStorage throws on every call": env => { env.localStorage = { getItem: forbidden, setItem: forbidden, removeItem: forbidden }; },
  "navigator is missing": env => { delete env.navigator; },
  "the getter navigator.locks throws": env => getter(env.navigator, "locks"),
  "locks.request throws": env => { env.navigator.locks.request = forbidden; },
  "locks.request is missing": env => { env.navigator.locks = {}; },
  "locks.request rejects": env => { env.navigator.locks.request = async () => forbidden(); },
  "locks.request never calls back": env => { env.navigator.locks.request = never; },
  "locks.request resolves without a callback": env => { env.navigator.locks.request = async () => {}; },
  "addEventListener throws": env => { env.addEventListener = env.document.addEventListener = forbidden; },
  "addEventListener is missing": env => { delete env.addEventListener; },
  "the getter location throws": env => getter(env, "location"),
  "setTimeout throws": env => { env.setTimeout = forbidden; },
  "setTimeout and clearTimeout are missing": env => { delete env.setTimeout; delete env.clearTimeout; },
  "clearTimeout throws": env => { env.clearTimeout = forbidden; },
  "Date.now throws": env => { env.Date = { now: forbidden }; },
  "the clock stands still": env => { env.Date = { now: () => 1_000_000 }; },
  "the console throws": env => { env.console = { error: forbidden, warn: forbidden }; },
  "fetch refuses keepalive": env => {
    const { fetch } = env;
    env.fetch = (input, init) => init?.keepalive ? Promise.reject(new TypeError("keepalive")) : fetch(input, init);
  },
  "nothing but fetch works": env => {
    for (const name of ["BroadcastChannel", "document", "localStorage", "navigator"]) getter(env, name);
    env.addEventListener = forbidden;
  },
};

for (const [name, alter] of Object.entries(BROKEN)) {
  for (const hint of [false, true]) {
    test(`${name}: a user is found, logs in, refreshes and logs out${hint ? ", with a hint cookie" : ""}`, async () => {
      const world = new World();
      world.hints = hint;
      world.logIn("alice");
      const tab = world.tab({ alter, hint, idle: { after: 60 * MINUTE } });
      await world.pass(12_000);
      assert.equal(tab.state, "in");
      assert.equal(tab.auth.user().sub, "alice");
      for (const act of [() => tab.auth.login("/login", { user: "bob" }), () => tab.auth.refresh()]) {
        const done = act();
        await world.pass(12_000);
        assert.ok(await done);
        assert.deepEqual([tab.state, tab.auth.user().sub], ["in", "bob"]);
      }
      const answer = tab.auth.fetch("https://app.example/me");
      await world.pass(100);
      assert.equal((await answer).status, 200);
      const logout = tab.auth.logout();
      await world.pass(12_000);
      await logout;
      assert.deepEqual([tab.state, world.cookie], ["out", null]);
      tab.auth.close();
    });
  }

  test(`${name}: a missing session is out, and a hint is not missed`, async () => {
    const world = new World();
    world.storage.set(MEMORY, String(world.now));
    const tab = world.tab({ alter });
    await world.pass(12_000);
    assert.equal(tab.state, "out");
    assert.ok(world.requests.length <= 2);
  });

  for (const [trouble, what] of Object.entries({
    "is unreachable": () => new TypeError("network error"),
    "does not respond": never,
    "fails": () => refusal(503, "store_unavailable"),
    "issues tokens that expire at once": undefined,
  })) {
    test(`${name}: there are at most twenty requests in a minute to a server that ${trouble}`, async () => {
      const world = new World();
      Object.assign(world, { random: 0, ...(what ? {} : { life: 0, back: 0 }) });
      world.logIn("alice");
      if (what) world.instead = what;
      const tab = world.tab({ alter, idle: { after: 60 * MINUTE } });
      tab.auth.token();
      for (let minute = 0; minute < 5; minute++) {
        const before = world.requests.length;
        for (let i = 0; i < 20; i++) {
          await world.pass(3000);
          await tab.fire("focus").catch(() => {});
          await tab.fire("online").catch(() => {});
        }
        const sent = world.requests.length - before;
        assert.ok(sent <= 21, `${sent} in minute ${minute}`);
      }
      if (what) assert.ok(["offline", "unknown"].includes(tab.state), tab.state);
    });
  }
}

for (const [name, alter] of Object.entries({
  "throws": env => { env.fetch = forbidden; },
  "is missing": env => { delete env.fetch; },
  "never settles, and ignores its signal": env => { env.fetch = never; },
  "returns nothing": env => { env.fetch = () => undefined; },
  "returns a body that never ends": env => { env.fetch = async () => ({ ok: true, status: 200, text: never }); },
  "returns a response without headers": env => { env.fetch = async () => ({ ok: false, status: 503, text: async () => "" }); },
})) {
  test(`a fetch that ${name} is a server that is unreachable`, async () => {
    const world = new World();
    let count = 0;
    const tab = world.tab({
      alter(env) {
        alter(env);
        const { fetch } = env;
        env.fetch = (...all) => {
          count++;
          return fetch(...all);
        };
      },
    });
    const token = tab.auth.token();
    const refresh = tab.auth.refresh();
    const logout = assert.rejects(tab.auth.logout(), { name: "AuthError" });
    const login = assert.rejects(tab.auth.login("/login", {}).then(({ text }) => text && Promise.reject(new Error("no tokens"))));
    await world.pass(2 * MINUTE);
    assert.deepEqual([await token, await refresh, tab.state], [null, null, "offline"]);
    await logout;
    await login;
    const before = count;
    await world.pass(MINUTE);
    assert.ok(count - before >= 1 && count - before <= 20, `${count - before}`);
  });
}

test("without AbortController a request is still given up, and a user is logged in", async t => {
  const { AbortController } = globalThis;
  t.after(() => { globalThis.AbortController = AbortController; });
  for (const broken of [undefined, forbidden]) {
    globalThis.AbortController = broken;
    const { world, tab, auth } = await loggedIn();
    assert.equal(tab.state, "in");
    world.instead = never;
    auth.refresh();
    await world.pass(10_100);
    assert.equal(tab.state, "offline");
    auth.close();
    await world.pass(60 * MINUTE);
    assert.equal(world.refreshes.length, 2);
  }
});

test("without atob a user is in, with empty claims", async t => {
  const { atob } = globalThis;
  t.after(() => { globalThis.atob = atob; });
  globalThis.atob = forbidden;
  const { tab, auth } = await loggedIn();
  assert.deepEqual([tab.state, auth.user()], ["in", {}]);
});

test("a lock that is never granted delays one refresh and not the next ones", async () => {
  const { world, auth, tab } = await loggedIn();
  tab.env.navigator.locks.request = never;
  auth.refresh();
  await world.pass(11_100);
  assert.equal(world.refreshes.length, 2);
  auth.refresh();
  await world.pass(100);
  assert.equal(world.refreshes.length, 3);
});

test("where locks are refused a login waits for the refresh of its own tab", async () => {
  const { world, auth, tab } = await loggedIn();
  tab.env.navigator.locks.request = async () => forbidden();
  let go;
  world.instead = ({ path }) => path === "/auth/refresh" ? new Promise(resolve => { go = resolve; }) : undefined;
  auth.refresh();
  await world.pass(100);
  const login = auth.login("/login", { user: "bob" });
  await world.pass(100);
  assert.ok(!world.requests.some(({ path }) => path === "/login"));
  world.instead = () => undefined;
  go(refusal(503, "store_unavailable"));
  await world.pass(100);
  assert.equal((await login).status, 200);
});

test("a user who may be active in another tab is not logged out when messages cannot be sent", async () => {
  const { world, tab } = await loggedIn({ idle: { after: 10 * MINUTE }, alter: BROKEN["postMessage throws"] });
  await world.pass(60 * MINUTE);
  assert.equal(tab.state, "in");
});

test("a clock that jumps back and forth causes no storm", async () => {
  for (const jump of [MINUTE, 60 * MINUTE]) {
    const world = new World();
    world.logIn("alice");
    let calls = 0;
    const tab = world.tab({ alter: env => { env.Date = { now: () => world.now - (calls++ % 3) * jump }; } });
    for (let minute = 0; minute < 5; minute++) {
      const before = world.requests.length;
      for (let i = 0; i < 30; i++) {
        await tab.fire("focus");
        await world.pass(2000);
      }
      assert.ok(world.requests.length - before <= 41, `${world.requests.length - before}`);
    }
  }
});

test("a closed module sends nothing, even if a refresh was answered late", async () => {
  const { world, auth } = await loggedIn();
  let go;
  world.instead = ({ path }) => path === "/auth/refresh" ? new Promise(resolve => { go = resolve; }) : undefined;
  auth.refresh();
  await world.pass(100);
  const answer = world.tokens(world.cookie);
  auth.close();
  world.instead = () => undefined;
  go(new Response(JSON.stringify(answer)));
  await world.pass(MINUTE);
  assert.equal(world.refreshes.length, 2);
});

// ---- Where the page is ----

const inFrame = (href, more = {}) => env => Object.assign(env, { location: { href }, ...more });

for (const href of ["about:srcdoc", "about:blank", "blob:https://app.example/2c5a", "data:text/html,x", ""]) {
  test(`a frame at ${href || "no URL"} finds the server by the document's base URL`, async () => {
    const world = new World();
    world.logIn("alice");
    const tab = world.tab({ alter: inFrame(href, { origin: "https://app.example" }) });
    await world.pass(100);
    assert.equal(tab.state, "in");
    assert.equal(world.refreshes[0].init.credentials, "same-origin");
    assert.equal((await tab.auth.fetch("/me")).status, 200);
  });
}

test("a blob: page without a usable base URL finds the server by its origin", async () => {
  const world = new World();
  world.logIn("alice");
  const baseURI = "blob:https://app.example/2c5a";
  const tab = world.tab({ baseURI, alter: inFrame(baseURI, { origin: "https://app.example", fetch: world.fetch }) });
  await world.pass(100);
  assert.equal(tab.state, "in");
});

test("a page that finds no server is offline, and does not throw", async () => {
  const world = new World();
  const baseURI = "data:text/html,x";
  const tab = world.tab({ baseURI, alter: inFrame(baseURI, { origin: "null", fetch: async input => void new URL(input, baseURI) }) });
  await world.pass(MINUTE);
  assert.equal(tab.state, "offline");
  await assert.rejects(tab.auth.sessions());
});

test("a frame with an opaque origin includes the cookie, and gives the token to the server alone", async () => {
  const world = new World();
  world.logIn("alice");
  const tab = world.tab({ alter: inFrame("https://app.example/frame", { origin: "null" }) });
  await world.pass(100);
  assert.equal(tab.state, "in");
  assert.equal(world.refreshes[0].init.credentials, "include");
  await tab.auth.fetch("/me");
  for (const url of ["data:text/plain,x", "custom://host/me"]) await tab.auth.fetch(url).catch(() => {});
  assert.deepEqual(world.requests.slice(1).map(({ path, authorization }) => [path, !!authorization]), [
    ["/me", true],
    ["data:text/plain,x", false],
    ["custom://host/me", false],
  ]);
});

for (const [base, credentials] of [["/auth", "same-origin"], ["https://app.example/auth", "same-origin"], ["https://api.example/auth", "include"], ["https://app.example:8443/auth", "include"]]) {
  test(`the credentials of requests to ${base} are ${credentials} by default, and can be set`, async () => {
    for (const [options, expected] of [[{}, credentials], [{ credentials: "omit" }, "omit"]]) {
      const world = new World();
      world.tab({ base, ...options });
      await world.pass(100);
      assert.equal(world.requests[0].init.credentials, expected);
    }
  });
}

// ---- A refresh cookie that does not come back ----

async function withWarnings(job) {
  const warnings = [];
  const alter = env => { env.console = { warn: text => warnings.push(text), error() {} }; };
  const world = new World();
  const tab = world.tab({ alter });
  await world.pass(100);
  await job(world, tab, alter);
  return warnings;
}

async function logInAndRefresh(world, { auth }, tokens = world.logIn("alice")) {
  auth.accept(tokens);
  world.cookie = null;
  auth.refresh();
  await world.pass(100);
}

test("a login whose cookie does not come back is reported once, with what to look at", async () => {
  const warnings = await withWarnings(async (world, tab) => {
    await logInAndRefresh(world, tab);
    assert.equal(tab.state, "out");
    tab.auth.refresh();
    await world.pass(MINUTE);
  });
  assert.equal(warnings.length, 1);
  for (const word of ["path", "Secure", "SameSite=None", "credentials", "third-party"]) assert.match(warnings[0], new RegExp(word));
});

test("a cookie that came back once, a login by body, a logout and a revoked session are not reported", async () => {
  const none = [
    async (world, tab) => {
      tab.auth.accept(world.logIn("alice"));
      tab.auth.refresh();
      await world.pass(100);
      world.cookie = null;
      tab.auth.refresh();
      await world.pass(100);
    },
    (world, tab) => logInAndRefresh(world, tab, { ...world.logIn("alice"), refresh_token: "x" }),
    async (world, tab) => {
      tab.auth.accept(world.logIn("alice"));
      tab.auth.logout();
      await world.pass(100);
      tab.auth.refresh();
      await world.pass(100);
    },
    async (world, tab) => {
      tab.auth.accept(world.logIn("alice"));
      world.sessions.clear();
      tab.auth.refresh();
      await world.pass(100);
    },
    async world => world.pass(MINUTE),
  ];
  for (const job of none) assert.deepEqual(await withWarnings(job), []);
});

test("the tab of the login reports a cookie that another tab missed", async () => {
  const warnings = await withWarnings(async (world, tab, alter) => {
    const other = world.tab({ alter });
    await world.pass(100);
    tab.auth.accept(world.logIn("alice"));
    await settled();
    world.cookie = null;
    other.auth.refresh();
    await world.pass(100);
    assert.deepEqual([tab.state, other.state], ["out", "out"]);
  });
  assert.equal(warnings.length, 1);
});
