import assert from "node:assert/strict";
import test from "node:test";
import { json, loggedIn, lost, refusal, World } from "./world.mjs";

const MINUTE = 60_000;
const to = (world, path) => world.requests.filter(request => request.path === path);
const marks = requests => requests.map(({ headers }) => headers.get("auth-passive"));
const lastRefresh = world => world.refreshes.at(-1).headers.get("auth-passive");

async function answered(world, promise, ms = 100) {
  promise.catch(() => {});
  await world.pass(ms);
  return promise;
}

/** Refreshes by the timer. */
async function refreshInTime(world) {
  const before = world.refreshes.length;
  await world.pass(14 * MINUTE);
  assert.equal(world.refreshes.length, before + 1);
  return lastRefresh(world);
}

// ---- Requests ----

test("a request with the option passive has the header, and other requests do not", async () => {
  const { world, auth } = await loggedIn();
  for (const init of [undefined, { passive: true }, { passive: false }, { passive: true, headers: { "x-mine": "1" } }]) await auth.fetch("/me", init);
  await auth.fetch(new Request("https://app.example/me", { headers: { "x-mine": "1" } }), { passive: true });
  assert.deepEqual(marks(to(world, "/me")), [null, "?1", null, "?1", "?1"]);
  assert.deepEqual(to(world, "/me").slice(3).map(({ headers }) => headers.get("x-mine")), ["1", "1"]);
  assert.ok(to(world, "/me").every(({ authorization }) => authorization));
});

test("every request of a hidden page has the header, until it is visible again", async () => {
  const { world, tab, auth } = await loggedIn();
  for (const visible of [false, true]) {
    await tab.show(visible);
    await auth.fetch("/me");
    await auth.fetch("/me", { passive: false });
    await auth.sessions();
  }
  assert.deepEqual(marks(to(world, "/me")), ["?1", "?1", null, null]);
  assert.deepEqual(marks(to(world, "/auth/sessions")), ["?1", null]);
});

test("a passive request that is repeated is passive again", async () => {
  const { world, auth } = await loggedIn();
  world.instead = ({ path }) => path === "/me" && to(world, path).length === 1 ? refusal(401, "access_token_expired") : undefined;
  assert.equal((await answered(world, auth.fetch("/me", { passive: true }))).status, 200);
  assert.deepEqual(marks(to(world, "/me")), ["?1", "?1"]);
});

test("whether the page is hidden is decided when the request is sent", async () => {
  const { world, tab, auth } = await loggedIn();
  await tab.show(false);
  await world.pass(60 * MINUTE);
  let go;
  world.instead = ({ path }) => path === "/auth/refresh" ? new Promise(resolve => { go = () => resolve(json(200, world.tokens(world.cookie))); }) : undefined;
  const answer = auth.fetch("/me");
  await world.pass(100);
  await tab.show(true);
  go();
  assert.equal((await answered(world, answer)).status, 200);
  assert.deepEqual([marks(world.refreshes.slice(1)), marks(to(world, "/me"))], [["?1"], [null]]);
});

test("a request without a user can be passive too", async () => {
  const world = new World();
  const tab = world.tab();
  await world.pass(100);
  await tab.auth.fetch("/me", { passive: true });
  assert.deepEqual(marks(to(world, "/me")), ["?1"]);
});

test("another origin gets the header only if the option passiveHeader is set, and only if it gets the token", async () => {
  for (const [passiveHeader, mark] of [[undefined, null], [false, null], [true, "?1"]]) {
    const { world, auth } = await loggedIn({ origins: ["https://api.example"], passiveHeader });
    world.requests.length = 0;
    for (const url of ["/me", "https://api.example/me", "https://evil.example/me"]) await auth.fetch(url, { passive: true }).catch(() => {});
    await auth.fetch("/me", { passive: true, headers: { authorization: "Basic eA==" } }).catch(() => {});
    assert.deepEqual(marks(world.requests), ["?1", mark, null, null]);
  }
});

test("a server on another origin gets the header only if the option passiveHeader is set", async () => {
  for (const [passiveHeader, mark] of [[undefined, null], [true, "?1"]]) {
    const world = new World();
    world.logIn("alice");
    world.instead = ({ path }) => path === "https://api.example/auth/refresh" ? json(200, world.tokens(world.cookie)) : undefined;
    const tab = world.tab({ base: "https://api.example/auth", passiveHeader });
    await world.pass(14 * MINUTE);
    assert.deepEqual([tab.state, marks(world.requests)], ["in", [null, mark]]);
    await tab.show(false);
    await tab.auth.sessions().catch(() => {});
    assert.deepEqual(marks(world.requests.slice(2)), [mark]);
  }
});

// ---- Refreshes ----

test("a refresh by the timer is passive if the user has done nothing", async () => {
  const { world, tab } = await loggedIn();
  assert.equal(await refreshInTime(world), "?1");
  assert.equal(await refreshInTime(world), "?1");
  assert.equal(tab.state, "in");
});

for (const event of ["pointerdown", "pointermove", "keydown", "wheel", "touchstart"]) {
  test(`after ${event} the next refresh by the timer is active, and only the next one`, async () => {
    const { world, tab } = await loggedIn();
    await refreshInTime(world);
    await tab.fire(event);
    await tab.fire(event);
    assert.equal(await refreshInTime(world), null);
    assert.equal(await refreshInTime(world), "?1");
  });
}

for (const event of ["focus", "pageshow", "online", "visibilitychange"]) {
  test(`a refresh at ${event}, after the computer was asleep, is passive unless the user has done something`, async () => {
    for (const [act, mark] of [[() => {}, "?1"], [tab => tab.fire("keydown"), null]]) {
      const { world, tab } = await loggedIn();
      await act(tab);
      world.sleep(60 * MINUTE);
      await tab.fire(event);
      await world.pass(100);
      assert.deepEqual([world.refreshes.length, lastRefresh(world)], [2, mark]);
    }
  });
}

test("opening a page is active, and in the background passive; returning to it is active", async () => {
  for (const [hidden, mark] of [[false, null], [true, "?1"]]) {
    const { world, tab, auth } = await loggedIn({ hidden });
    if (hidden) await answered(world, auth.token());
    assert.deepEqual(marks(world.refreshes), [mark]);
    await tab.show(true);
    await tab.fire("pageshow", { persisted: true });
    await world.pass(100);
    assert.equal(lastRefresh(world), null);
  }
});

test("a refresh that an active request needs is active, and one for a passive request is passive", async () => {
  for (const [act, mark] of [
    [auth => auth.fetch("/me"), null],
    [auth => auth.fetch("/me", { passive: true }), "?1"],
    [auth => auth.token(), null],
    [auth => auth.token({ passive: true }), "?1"],
    [auth => auth.refresh(), null],
    [auth => auth.refresh({ passive: true }), "?1"],
  ]) {
    const { world, tab, auth } = await loggedIn();
    await refreshInTime(world);
    // Expired, and shown again without an event.
    await tab.show(false);
    await world.pass(60 * MINUTE);
    tab.document.visibilityState = "visible";
    const before = world.refreshes.length;
    await answered(world, act(auth));
    assert.deepEqual([world.refreshes.length, lastRefresh(world)], [before + 1, mark], `${act}`);
  }
});

test("the refresh of a token that is due but valid is active for an active request, and passive for a passive one", async () => {
  for (const [init, mark] of [[{}, null], [{ passive: true }, "?1"]]) {
    const { world, tab, auth } = await loggedIn();
    await refreshInTime(world);
    await tab.show(false);
    await world.pass(14 * MINUTE);
    tab.document.visibilityState = "visible";
    await answered(world, auth.fetch("/me", init));
    assert.deepEqual(marks(world.refreshes.slice(2)), [mark]);
  }
});

test("the refresh after a refusal is active for an active request, and passive for a passive one", async () => {
  for (const [init, mark] of [[{}, null], [{ passive: true }, "?1"]]) {
    const { world, auth } = await loggedIn();
    await refreshInTime(world);
    world.instead = ({ path }) => path === "/me" && to(world, path).length === 1 ? refusal(401, "access_token_expired") : undefined;
    assert.equal((await answered(world, auth.fetch("/me", init))).status, 200);
    assert.equal(lastRefresh(world), mark);
  }
});

test("every refresh of a hidden page is passive", async () => {
  for (const act of [auth => auth.fetch("/me"), auth => auth.token(), auth => auth.refresh()]) {
    const { world, tab, auth } = await loggedIn();
    await tab.fire("keydown");
    await tab.show(false);
    await world.pass(60 * MINUTE);
    await answered(world, act(auth));
    assert.deepEqual([world.refreshes.length, lastRefresh(world)], [2, "?1"]);
  }
});

test("what the user has done before the page was hidden is reported by the next refresh of the visible page", async () => {
  const { world, tab, auth } = await loggedIn();
  await tab.fire("keydown");
  await tab.show(false);
  await world.pass(60 * MINUTE);
  await answered(world, auth.refresh());
  assert.equal(lastRefresh(world), "?1");
  await tab.show(true);
  assert.deepEqual([await refreshInTime(world), await refreshInTime(world)], [null, "?1"]);
});

test("what the user has done is reported although a refresh has failed", async () => {
  const { world, tab } = await loggedIn();
  await refreshInTime(world);
  await tab.fire("keydown");
  world.instead = lost;
  await world.pass(14 * MINUTE);
  assert.equal(tab.state, "offline");
  world.instead = () => undefined;
  await world.pass(MINUTE);
  assert.deepEqual([tab.state, lastRefresh(world)], ["in", null]);
  assert.equal(await refreshInTime(world), "?1");
});

test("what the user does in one tab counts in all of them, once", async () => {
  for (const which of [0, 1]) {
    const { world, tab } = await loggedIn();
    const tabs = [tab, world.tab()];
    await world.pass(100);
    assert.equal(await refreshInTime(world), "?1");
    const messages = [];
    const { postMessage } = tabs[which].channels[0];
    tabs[which].channels[0].postMessage = function (data) {
      messages.push(data.type);
      postMessage.call(this, data);
    };
    for (let i = 0; i < 100; i++) await tabs[which].fire("pointermove");
    assert.deepEqual(messages, ["acted"]);
    assert.equal(await refreshInTime(world), null);
    assert.equal(await refreshInTime(world), "?1");
  }
});

test("a login reports the user, so the refresh after it is passive", async () => {
  const world = new World();
  const tab = world.tab();
  await world.pass(100);
  await tab.fire("keydown");
  await answered(world, tab.auth.login("/login", { user: "alice" }));
  assert.equal(await refreshInTime(world), "?1");
});

// ---- The server's idle time ----

const IDLE = 30 * MINUTE;

/** Polls every minute; returns the code of the refusal that ends it, and after how many minutes. */
async function poll({ world, auth }, init, minutes, act = () => {}) {
  for (let minute = 1; minute <= minutes; minute++) {
    await world.pass(MINUTE);
    await act(minute);
    const response = await answered(world, auth.fetch("/me", init), 0);
    if (response.status !== 200) return [minute, (await response.json()).code];
  }
  return null;
}

test("a page that polls passively does not keep its session from being idle, nor do its refreshes", async () => {
  const world = new World();
  world.idleAfter = IDLE;
  const page = await loggedIn({}, world);
  const ended = await poll(page, { passive: true }, 60);
  assert.deepEqual(ended, [30, "session_idle"]);
  assert.equal(page.tab.reasons.at(-1), "out session_idle");
  assert.ok(world.refreshes.length >= 3);
});

test("a hidden page that polls does not keep its session from being idle", async () => {
  const world = new World();
  world.idleAfter = IDLE;
  const page = await loggedIn({}, world);
  await page.tab.show(false);
  assert.deepEqual(await poll(page, {}, 60), [30, "session_idle"]);
});

test("a user who only moves the mouse is not idle, and one who only sends requests neither", async () => {
  for (const [init, act] of [[{ passive: true }, (minute, tab) => tab.fire("pointermove")], [{}, () => {}]]) {
    const world = new World();
    world.idleAfter = IDLE;
    const page = await loggedIn({}, world);
    assert.equal(await poll(page, init, 240, minute => act(minute, page.tab)), null);
    await world.pass(60 * MINUTE);
    assert.equal(page.tab.reasons.at(-1), "out session_idle");
  }
});

test("a user who works in one of two visible tabs is not idle, whichever of them refreshes, until the work ends", async () => {
  for (const which of [0, 1]) {
    const world = new World();
    world.idleAfter = IDLE;
    const page = await loggedIn({}, world);
    const tabs = [page.tab, world.tab()];
    await world.pass(100);
    assert.equal(await poll(page, { passive: true }, 240, () => tabs[which].fire("keydown")), null);
    assert.ok(await poll(page, { passive: true }, 45));
  }
});

// ---- Where there is no document ----

test("in a worker, nothing is known about the user: its refreshes are active, and only what says so is passive", async () => {
  for (const alter of [env => { delete env.document; }, env => Object.defineProperty(env, "document", { get() { throw new Error("no"); } })]) {
    const { world, tab, auth } = await loggedIn({ alter });
    assert.equal(await refreshInTime(world), null);
    assert.equal(await refreshInTime(world), null);
    for (const passive of [false, true]) await auth.fetch("https://app.example/me", { passive });
    assert.deepEqual(marks(to(world, "/me")), [null, "?1"]);
    assert.equal(tab.state, "in");
  }
});
