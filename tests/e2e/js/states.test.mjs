import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import test from "node:test";
import { gzipSync } from "node:zlib";
import { json, loggedIn, lost, MODULE, refusal, World } from "./world.mjs";

const source = await readFile(MODULE, "utf8");

test("the module is at most 6.5 KB, compressed", () => {
  assert.ok(gzipSync(source).length <= 6656, `${gzipSync(source).length}`);
});

test("the module imports nothing, evaluates nothing and stores nothing", () => {
  const code = source.replace(/\/\*.*?\*\/|\/\/.*/gs, match => match.startsWith("//") ? "" : " ");
  for (const word of [/\bimport\b/, /\beval\b/, /new Function/, /innerHTML/, /localStorage/, /sessionStorage/, /indexedDB/, /document\.cookie\s*=/]) {
    assert.doesNotMatch(code, word);
  }
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

test("a browser without the hint cookie is out without a request", async () => {
  const world = new World();
  const tab = world.tab({ hint: true });
  await world.pass(60_000);
  assert.deepEqual(tab.reasons, ["out no_session"]);
  assert.equal(world.requests.length, 0);
});

test("the hint cookie is found with and without its prefix, by its exact name", async () => {
  for (const [cookie, requests] of [["a=b; __Secure-session-hint=1", 1], ["session-hint=1", 1], ["my-session-hint=1; x=session-hint", 0]]) {
    const world = new World();
    world.hintCookie = cookie;
    world.tab({ hint: true });
    await world.pass(100);
    assert.equal(world.requests.length, requests, cookie);
  }
});

test("a new hint leads to a refresh when the page gets focus, and to one only if its session is gone", async () => {
  const world = new World();
  const tab = world.tab({ hint: true });
  await world.pass(100);
  world.hintCookie = "__Secure-session-hint=1";
  for (let i = 0; i < 5; i++) {
    await tab.fire("focus");
    await world.pass(1000);
  }
  assert.equal(world.requests.length, 1);
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
