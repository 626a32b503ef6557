import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import test from "node:test";
import { gzipSync } from "node:zlib";
import { json, loggedIn, lost, MEMORY, MODULE, refusal, World } from "./world.mjs";

const source = await readFile(MODULE, "utf8");

test("the module is at most 7.5 KB, compressed", () => {
  assert.ok(gzipSync(source).length <= 7680, `${gzipSync(source).length}`);
});

test("the module imports nothing, evaluates nothing and stores nothing but a time", () => {
  const code = source.replace(/\/\*[^]*?\*\/|\/\/.*/g, " ");
  for (const word of [/\bimport\b/, /\beval\b/, /new Function/, /innerHTML/, /sessionStorage/, /indexedDB/, /document\.cookie\s*=/]) {
    assert.doesNotMatch(code, word);
  }
  const stored = code.match(/localStorage\.setItem\(.*?\)/g);
  assert.deepEqual(stored, ["localStorage.setItem(name, now()"]);
});

test("a browser without a session is out after one request", async () => {
  const world = new World();
  const tab = world.tab();
  assert.equal(tab.state, "unknown");
  await world.pass(60_000);
  assert.deepEqual(tab.reasons, ["out refresh_token_missing"]);
  assert.equal(world.requests.length, 1);
  assert.equal(await tab.auth.token(), null);
  assert.equal(world.requests.length, 1);
});

/** A page of a browser in which the server has just found no refresh cookie. */
function remembering(world = new World()) {
  world.storage.set(MEMORY, String(world.now));
  return world;
}

test("a browser that remembers nothing asks once, and then trusts a missing hint", async () => {
  const world = new World();
  const first = world.tab({ hint: true });
  await world.pass(60_000);
  assert.deepEqual(first.reasons, ["out refresh_token_missing"]);
  first.auth.close();
  const second = world.tab({ hint: true });
  await world.pass(60_000);
  assert.deepEqual(second.reasons, ["out no_session"]);
  assert.equal(world.requests.length, 1);
});

test("a page after a logout trusts a missing hint", async () => {
  const { world, auth } = await loggedIn({ hint: true });
  auth.logout();
  await world.pass(100);
  auth.close();
  const tab = world.tab({ hint: true });
  await world.pass(60_000);
  assert.deepEqual(tab.reasons, ["out no_session"]);
  assert.equal(world.refreshes.length, 1);
});

test("a session from before the hint cookie was switched on is found, and has a hint from then on", async () => {
  const world = new World();
  world.logIn("alice");
  world.hints = true;
  const tab = world.tab({ hint: true });
  await world.pass(100);
  assert.equal(tab.state, "in");
  assert.match(world.hintCookie, /session-hint=1/);
});

test("a session without a hint is found on every page, as after the hint cookie was switched off again", async () => {
  const world = remembering();
  const tab = world.tab({ hint: true });
  await world.pass(100);
  tab.auth.login("/login", { user: "alice" });
  await world.pass(100);
  tab.auth.close();
  for (let i = 0; i < 3; i++) {
    const next = world.tab({ hint: true });
    await world.pass(100);
    assert.equal(next.state, "in");
    next.auth.close();
  }
});

test("a missing hint is trusted for ten minutes, and not at all by a clock that was set back", async () => {
  for (const [age, requests] of [[599_000, 0], [600_000, 1], [-1000, 1]]) {
    const world = remembering();
    world.now += age;
    world.tab({ hint: true });
    await world.pass(100);
    assert.equal(world.requests.length, requests, `${age}`);
  }
});

test("a refusal that leaves the cookie in place makes no missing hint believable", async () => {
  for (const code of ["client_mismatch", "user_refused", "session_revoked"]) {
    const world = remembering();
    world.hintCookie = "session-hint=1";
    world.instead = () => refusal(401, code);
    world.tab({ hint: true });
    await world.pass(100);
    world.hintCookie = "";
    world.tab({ hint: true });
    await world.pass(100);
    assert.equal(world.refreshes.length, 2, code);
  }
});

test("a browser that stores nothing asks on every page", async () => {
  for (const denied of [false, true]) {
    const world = new World();
    if (denied) world.storage = { get() { throw new Error("denied"); } };
    for (let i = 1; i <= 2; i++) {
      const tab = world.tab({ hint: true, without: denied ? [] : ["localStorage"] });
      await world.pass(100);
      assert.equal(tab.state, "out");
      assert.equal(world.requests.length, i);
    }
  }
});

test("without the option hint nothing is stored", async () => {
  const world = new World();
  world.tab();
  await world.pass(100);
  assert.equal(world.storage.size, 0);
});

test("what was remembered of one router says nothing about another", async () => {
  const world = remembering();
  world.tab({ hint: true, base: "/other" });
  await world.pass(100);
  assert.equal(world.requests.length, 1);
});

test("the hint cookie is found with and without its prefix, by its exact name", async () => {
  for (const [cookie, requests] of [["a=b; __Secure-session-hint=1", 1], ["session-hint=1", 1], ["my-session-hint=1; x=session-hint", 0]]) {
    const world = remembering();
    world.hintCookie = cookie;
    world.tab({ hint: true });
    await world.pass(100);
    assert.equal(world.requests.length, requests, cookie);
  }
});

test("the hint cookie of a realm is found by the name it was given, with and without its prefix", async () => {
  for (const hint of ["session-hint-staff", "__Secure-session-hint-staff"]) {
    for (const [cookie, requests] of [["a=b; __Secure-session-hint-staff=1", 1], ["session-hint-staff=1", 1], ["__Secure-session-hint=1", 0]]) {
      const world = remembering();
      world.hintCookie = cookie;
      world.tab({ hint });
      await world.pass(100);
      assert.equal(world.requests.length, requests, `${hint} ${cookie}`);
    }
  }
});

test("a new hint leads to a refresh when the page gets focus, and to one only if its session is gone", async () => {
  const world = remembering();
  const tab = world.tab({ hint: true });
  await world.pass(100);
  world.hintCookie = "__Secure-session-hint=1";
  for (let i = 0; i < 5; i++) {
    await tab.fire("focus");
    await world.pass(1000);
  }
  assert.equal(world.requests.length, 1);
});

test("a hint that appears after the server was asked, or after a logout, is followed at the first look", async () => {
  const world = new World();
  world.hints = true;
  const tab = world.tab({ hint: true });
  await world.pass(100);
  for (const user of ["alice", "bob"]) {
    world.logIn(user);
    await tab.fire("focus");
    await world.pass(100);
    assert.equal(tab.auth.user()?.sub, user);
    tab.auth.logout();
    await world.pass(100);
    assert.equal(tab.state, "out");
  }
});

test("login takes the tokens from the app's response and returns the response to the caller", async () => {
  const world = new World();
  const tab = world.tab();
  await world.pass(100);
  const login = tab.auth.login("/login", { user: "bob" });
  await world.pass(100);
  const answer = await login;
  assert.equal(answer.status, 200);
  assert.equal((await answer.json()).token_type, "Bearer");
  assert.equal(tab.auth.user().sub, "bob");
  assert.equal(tab.reasons.at(-1), "in login");
  assert.equal(world.refreshes.length, 1);
});

test("a refused or incomplete login changes nothing", async () => {
  for (const answer of [refusal(401, "bad_credentials"), json(200, { otp: true })]) {
    const world = new World();
    const tab = world.tab();
    await world.pass(100);
    world.instead = ({ path }) => path === "/login" ? answer : undefined;
    const login = tab.auth.login("/login", { user: "bob" });
    await world.pass(100);
    assert.equal(await login, answer);
    assert.equal(tab.state, "out");
  }
});

test("accept takes tokens and rejects everything else", async () => {
  const world = new World();
  const tab = world.tab();
  await world.pass(100);
  assert.throws(() => tab.auth.accept({ error: "x" }), TypeError);
  assert.throws(() => tab.auth.accept(null), TypeError);
  tab.auth.accept(world.logIn("bob"));
  assert.equal(tab.state, "in");
});

test("claims that are not ASCII are decoded correctly", async () => {
  const world = new World();
  world.logIn("Zoë 北京");
  const tab = world.tab();
  await world.pass(100);
  assert.equal(tab.auth.user().sub, "Zoë 北京");
});

test("after a logout the state is out and the cookie is gone", async () => {
  const { world, tab, auth } = await loggedIn();
  const done = auth.logout();
  await world.pass(100);
  await done;
  assert.deepEqual([tab.state, auth.user(), world.cookie], ["out", null, null]);
  assert.equal(tab.reasons.at(-1), "out logout");
});

test("a logout that did not reach the server changes nothing and rejects", async () => {
  for (const [what, code] of [[lost, "offline"], [() => refusal(503, "store_unavailable"), "store_unavailable"]]) {
    const { world, tab, auth } = await loggedIn();
    world.instead = what;
    const done = assert.rejects(auth.logout(), { name: "AuthError", code });
    await world.pass(100);
    await done;
    assert.equal(tab.state, "in");
  }
});

test("logoutAll logs out, logoutOthers returns a count, and sessions are listed and revoked", async () => {
  const { world, tab, auth } = await loggedIn();
  assert.equal(await auth.logoutOthers(), 2);
  assert.equal((await auth.sessions())[0].current, true);
  world.sessions.set("other", { user: "alice", gen: 1 });
  await auth.revokeSession("other");
  await assert.rejects(auth.revokeSession("other"), { code: "session_not_found", status: 404 });
  assert.equal(tab.state, "in");
  await auth.logoutAll();
  assert.equal(tab.state, "out");
});

test("revoking the current session logs out", async () => {
  const { world, tab, auth } = await loggedIn();
  const done = auth.revokeSession(auth.user().sid);
  await world.pass(100);
  await done;
  assert.deepEqual([tab.state, world.cookie], ["out", null]);
});

test("a page on another origin than the server sets base and credentials", async () => {
  const world = new World();
  world.tab({ base: "https://api.example/auth", credentials: "include" });
  await world.pass(100);
  assert.deepEqual([world.requests[0].path, world.requests[0].init.credentials], ["https://api.example/auth/refresh", "include"]);
});
