import assert from "node:assert/strict";
import test from "node:test";
import { json, loggedIn, lost, refusal, settled, World } from "./world.mjs";

const MINUTE = 60_000;

async function tabs(count, options = {}, world = new World()) {
  world.logIn("alice");
  const all = [];
  for (let i = 0; i < count; i++) {
    all.push(world.tab(options));
    await world.pass(100);
  }
  world.requests.length = 0;
  return { world, all };
}

/** Holds responses of this path until the returned function is called. */
function hold(world, path) {
  const waiting = [];
  world.instead = request => {
    if (request.path !== path) return undefined;
    world.instead = () => undefined;
    const answer = world.serve(request);
    return new Promise(resolve => waiting.push(() => resolve(answer)));
  };
  return async () => {
    waiting.splice(0).forEach(go => go());
    await settled();
  };
}

test("a new tab refreshes itself, and the others get its token", async () => {
  const { world, all: [one] } = await tabs(1);
  const two = world.tab();
  await world.pass(100);
  assert.equal(world.refreshes.length, 1);
  assert.deepEqual(two.reasons, ["in refresh"]);
  assert.equal(one.reasons.at(-1), "in refresh elsewhere");
});

test("a page after a login without the module gets its user from the cookie, whatever old tabs have", async () => {
  const { world, all: [old] } = await tabs(1);
  // A login form without the module, while the old tab's session is live.
  world.logIn("bob");
  const page = world.tab();
  await world.pass(100);
  assert.deepEqual([page, old].map(tab => tab.auth.user().sub), ["bob", "bob"]);
});

test("a refusal of a refresh from before a page was opened does not log the page out", async () => {
  const { world, all: [old] } = await tabs(1);
  let go;
  world.instead = ({ path }) => {
    if (path !== "/auth/refresh") return undefined;
    world.instead = () => undefined;
    return new Promise(resolve => { go = () => resolve(refusal(401, "session_revoked")); });
  };
  old.auth.refresh();
  await world.pass(100);
  world.logIn("bob");
  const page = world.tab();
  await world.pass(100);
  go();
  await world.pass(1000);
  assert.deepEqual([page, old].map(tab => tab.auth.user()?.sub), ["bob", "bob"]);
  assert.ok(!page.reasons.some(reason => reason.startsWith("out")));
});

test("a page that is restored from the back/forward cache refreshes again", async () => {
  const { world, all: [page] } = await tabs(1);
  world.sessions.clear();
  await page.fire("pageshow", { persisted: true });
  await world.pass(2000);
  assert.equal(page.state, "out");
});

test("ten tabs whose token expires at the same time send one refresh", async () => {
  const { world, all } = await tabs(10);
  const old = all[0].auth.user().jti;
  await world.pass(15 * MINUTE);
  assert.equal(world.refreshes.length, 1);
  assert.equal(new Set(all.map(tab => tab.auth.user().jti)).size, 1);
  assert.notEqual(all[0].auth.user().jti, old);
});

test("ten tabs that are opened at the same time send one refresh", async () => {
  const world = new World();
  world.logIn("alice");
  const all = Array.from({ length: 10 }, () => world.tab());
  await world.pass(1000);
  assert.equal(world.refreshes.length, 1);
  assert.ok(all.every(tab => tab.state === "in"));
});

test("ten tabs that are refused at the same time send one refresh, and another one before they are out", async () => {
  const { world, all } = await tabs(10);
  world.sessions.clear();
  const answers = Promise.all(all.map(tab => tab.auth.fetch("/me")));
  await world.pass(2000);
  assert.ok((await answers).every(answer => answer.status === 401));
  assert.equal(world.refreshes.length, 2);
  assert.ok(all.every(tab => tab.state === "out"));
});

test("a token that arrives while a tab waits for the lock is used, and the tab does not refresh", async () => {
  const { world, all: [one, two] } = await tabs(2);
  const go = hold(world, "/auth/refresh");
  const first = one.auth.refresh();
  await world.pass(10);
  const second = two.auth.refresh();
  await world.pass(3000);
  assert.equal(world.refreshes.length, 1);
  await go();
  await settled();
  assert.equal(await first, await second);
  await world.pass(100);
  assert.equal(world.refreshes.length, 1);
});

test("the wait for a lock that is not released is longer than that for a response, and limited", async () => {
  const { world, tab, auth } = await loggedIn();
  world.request("axum-refresh:https://app.example/auth", {}, () => new Promise(() => {}));
  auth.refresh();
  await world.pass(10_900);
  assert.equal(world.refreshes.length, 1);
  await world.pass(200);
  assert.equal(world.refreshes.length, 2);
  assert.equal(tab.state, "in");
});

test("a tab that gets the lock after another gave up its request sends its own", async () => {
  const { world, all: [one, two] } = await tabs(2);
  hold(world, "/auth/refresh");
  one.auth.refresh();
  await world.pass(10);
  two.auth.refresh();
  await world.pass(9900);
  assert.equal(world.refreshes.length, 1);
  await world.pass(200);
  assert.equal(world.refreshes.length, 2);
  await world.pass(100);
  assert.deepEqual([one.state, two.state], ["in", "in"]);
});

test("a browser that refuses locks works without them", async () => {
  const { world, tab, auth } = await loggedIn();
  tab.env.navigator.locks.request = () => Promise.reject(new DOMException("no", "SecurityError"));
  auth.refresh();
  await world.pass(100);
  assert.equal(world.refreshes.length, 2);
});

for (const without of [["locks"], ["BroadcastChannel"], ["locks", "BroadcastChannel"]]) {
  test(`without ${without.join(" and ")} every tab stays logged in`, async () => {
    const { world, all } = await tabs(5, { without });
    await world.pass(60 * MINUTE);
    assert.ok(all.every(tab => tab.state === "in"));
    assert.ok(!all.some(tab => tab.reasons.some(reason => !reason.startsWith("in"))));
  });
}

test("without locks a login waits for the refresh of its own tab", async () => {
  const { world, tab, auth } = await loggedIn({ without: ["locks"] });
  const go = hold(world, "/auth/refresh");
  auth.refresh();
  await world.pass(100);
  const login = auth.login("/login", { user: "bob" });
  await world.pass(100);
  assert.ok(!world.requests.some(({ path }) => path === "/login"));
  await go();
  await world.pass(100);
  await login;
  assert.equal(tab.auth.user().sub, "bob");
});

test("without locks a login without a response delays a refresh and a logout for eleven seconds, not forever", async () => {
  const { world, tab, auth } = await loggedIn({ without: ["locks"] });
  hold(world, "/login");
  auth.login("/login", { user: "bob" }).catch(() => {});
  auth.refresh();
  await world.pass(10_900);
  assert.equal(world.refreshes.length, 1);
  await world.pass(200);
  assert.equal(world.refreshes.length, 2);
  auth.logout();
  await world.pass(11_100);
  assert.equal(tab.state, "out");
});

for (const without of [[], ["locks"]]) {
  test(`a login ${without.length ? "without locks " : ""}without a response is given up after a minute`, async () => {
    const { world, auth } = await loggedIn({ without });
    hold(world, "/login");
    let given;
    auth.login("/login", { user: "bob" }).catch(error => { given = error.name; });
    await world.pass(59_900);
    assert.equal(given, undefined);
    await world.pass(200);
    assert.equal(given, "AbortError");
    const login = auth.login("/login", { user: "bob" });
    await world.pass(100);
    assert.equal((await login).status, 200);
    assert.equal(auth.user().sub, "bob");
  });
}

test("a login that began without the lock, after eleven seconds, holds it as soon as it is granted", async () => {
  const { world, all: [one, two] } = await tabs(2);
  let release;
  world.request("axum-refresh:https://app.example/auth", {}, () => new Promise(resolve => { release = resolve; }));
  const go = hold(world, "/login");
  const login = one.auth.login("/login", { user: "alice" });
  await world.pass(11_100);
  assert.ok(world.requests.some(({ path }) => path === "/login"));
  two.auth.refresh();
  release();
  await world.pass(5000);
  assert.equal(world.refreshes.length, 0);
  await go();
  await world.pass(1000);
  await login;
  assert.equal(world.refreshes.length, 0);
  assert.equal(two.auth.user().sid, world.cookie);
});

test("a logout in one tab logs out all tabs", async () => {
  const { world, all } = await tabs(3);
  all[1].auth.logout();
  await world.pass(100);
  assert.ok(all.every(tab => tab.state === "out"));
  assert.equal(all[0].reasons.at(-1), "out logout elsewhere");
  await world.pass(60 * MINUTE);
  assert.equal(world.refreshes.length, 0);
});

test("a login in one tab logs in all tabs", async () => {
  const world = new World();
  const all = [world.tab(), world.tab()];
  await world.pass(1000);
  assert.deepEqual(all.map(tab => tab.state), ["out", "out"]);
  all[0].auth.login("/login", { user: "bob" });
  await world.pass(100);
  assert.deepEqual(all.map(tab => tab.auth.user()?.sub), ["bob", "bob"]);
});

test("the response to an old login's refresh does not replace the token of a new login", async () => {
  const { world, all: [old, fresh] } = await tabs(2);
  const go = hold(world, "/auth/refresh");
  old.auth.refresh();
  await world.pass(100);
  // Not auth.login, which would wait for the refresh.
  fresh.auth.accept(world.logIn("bob"));
  await settled();
  await go();
  await world.pass(100);
  assert.deepEqual([old, fresh].map(tab => tab.auth.user().sub), ["bob", "bob"]);
});

test("a refusal of the old session does not log out the new one", async () => {
  const { world, all: [old, fresh] } = await tabs(2);
  let go;
  world.instead = ({ path }) => path === "/auth/refresh" ? new Promise(resolve => { go = () => resolve(refusal(401, "session_revoked")); }) : undefined;
  old.auth.refresh();
  await world.pass(100);
  fresh.auth.accept(world.logIn("bob"));
  await settled();
  go();
  await world.pass(100);
  assert.deepEqual([old, fresh].map(tab => tab.auth.user()?.sub), ["bob", "bob"]);
});

test("a failure of the old refresh does not make the new login look offline", async () => {
  for (const failure of [lost, () => refusal(503, "store_unavailable")]) {
    const { world, all: [old, fresh] } = await tabs(2);
    let go;
    world.instead = ({ path }) => path === "/auth/refresh" ? new Promise(resolve => { go = () => resolve(failure()); }) : undefined;
    old.auth.refresh();
    await world.pass(100);
    fresh.auth.accept(world.logIn("bob"));
    await settled();
    go();
    await world.pass(100);
    assert.deepEqual([old.state, fresh.state], ["in", "in"]);
  }
});

test("if a refresh restores the cookie from before a slow login, the tabs show the user of that cookie", async () => {
  const { world, all: [one, two] } = await tabs(2);
  const alice = world.cookie;
  let go;
  world.instead = ({ path }) => {
    if (path === "/login") return new Promise(resolve => world.setTimeout(() => resolve(json(200, world.logIn("bob"))), 12_000));
    if (path !== "/auth/refresh") return undefined;
    world.instead = () => undefined;
    const answer = json(200, world.tokens(alice));
    return new Promise(resolve => {
      go = () => {
        world.cookie = alice;
        resolve(answer);
      };
    });
  };
  one.auth.login("/login", { user: "bob" });
  await world.pass(100);
  two.auth.refresh();
  await world.pass(12_000);
  assert.deepEqual([one, two].map(tab => tab.auth.user().sub), ["bob", "bob"]);
  go();
  await world.pass(100);
  assert.deepEqual([one, two].map(tab => tab.auth.user().sub), ["alice", "alice"]);
  assert.equal(world.refreshes.length, 2);
});

test("a tab that slept through a logout and a new login learns of both in order", async () => {
  const { world, all: [asleep, awake] } = await tabs(2);
  asleep.freeze();
  awake.auth.logout();
  await world.pass(1000);
  awake.auth.login("/login", { user: "bob" });
  await world.pass(60 * MINUTE);
  await asleep.thaw();
  await world.pass(1000);
  assert.equal(asleep.auth.user().sub, "bob");
  assert.equal(awake.auth.user().sub, "bob");
});

test("a token from before a logout is not restored after it", async () => {
  const { world, all: [one, two] } = await tabs(2);
  const go = hold(world, "/auth/refresh");
  one.auth.refresh();
  await world.pass(10);
  const all = two.auth.logoutAll();
  await settled();
  await all;
  await go();
  await world.pass(1000);
  assert.deepEqual([one.state, two.state], ["out", "out"]);
});

test("a logout in a tab that missed the new login logs it out everywhere, because the cookie belongs to it", async () => {
  const { world, all: [old, fresh] } = await tabs(2);
  old.freeze();
  fresh.auth.login("/login", { user: "bob" });
  await world.pass(1000);
  old.frozen.length = 0;
  await old.thaw();
  old.auth.logout();
  await world.pass(1000);
  assert.deepEqual([old.state, fresh.state, world.cookie], ["out", "out", null]);
});

test("a change of the user calls onChange", async () => {
  const { world, all: [old, fresh] } = await tabs(2);
  fresh.auth.login("/login", { user: "bob" });
  await world.pass(100);
  assert.deepEqual(old.changes.map(change => change.user.sub), ["alice", "alice", "bob"]);
  assert.equal(old.changes.at(-1).elsewhere, true);
});

test("a message with an expired token is ignored", async () => {
  const { world, all: [one, two] } = await tabs(2);
  two.freeze();
  await world.pass(14 * MINUTE);
  const missed = two.frozen.length;
  assert.ok(missed > 0);
  world.sleep(60 * MINUTE);
  await two.thaw();
  await world.pass(60_000);
  assert.ok([one, two].every(tab => tab.state === "in" && tab.auth.expiresAt > world.now));
});

test("tabs agree although the clock was set back an hour", async () => {
  const { world, all: [one] } = await tabs(1);
  await world.pass(MINUTE);
  world.now -= 60 * MINUTE;
  for (const timer of world.timers.values()) timer.at -= 60 * MINUTE;
  const two = world.tab();
  await world.pass(1000);
  two.auth.logout();
  await world.pass(1000);
  assert.deepEqual([one.state, two.state], ["out", "out"]);
});

test("routers at different paths do not receive each other's messages", async () => {
  const world = new World();
  world.logIn("alice");
  const [one, two] = [world.tab(), world.tab({ base: "/other" })];
  world.instead = ({ path }) => path === "/other/refresh" ? refusal(401, "refresh_token_missing") : undefined;
  await world.pass(1000);
  assert.deepEqual([one.state, two.state], ["in", "out"]);
});
