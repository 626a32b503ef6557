import assert from "node:assert/strict";
import test from "node:test";
import { loggedIn, World } from "./world.mjs";

const MINUTE = 60_000;

test("a page that is opened refreshes at once and is in", async () => {
  const { world, tab, auth } = await loggedIn();
  assert.equal(world.refreshes.length, 1);
  assert.equal(auth.state, "in");
  assert.equal(auth.user().sub, "alice");
  assert.deepEqual(tab.reasons, ["in refresh"]);
});

test("a refresh is a POST with the cookie and nothing else, and continues when the tab is closed", async () => {
  const { world } = await loggedIn();
  const { method, authorization, body, init } = world.refreshes[0];
  assert.deepEqual([method, authorization, body], ["POST", null, undefined]);
  assert.deepEqual([init.credentials, init.keepalive, init.cache], ["same-origin", true, "no-store"]);
});

test("the token is refreshed at refresh_in, plus a random part of the remaining time", async () => {
  for (const [random, due] of [[0, 800], [0.5, 825], [0.999, 849]]) {
    const world = new World();
    world.random = random;
    const { auth } = await loggedIn({}, world);
    const sent = world.refreshes[0].at;
    assert.ok(Math.abs(auth.nextAt - sent - due * 1000) < 1000, `${random}`);
    world.now = sent;
    await world.pass(due * 1000 - 1000);
    assert.equal(world.refreshes.length, 1);
    await world.pass(2000);
    assert.equal(world.refreshes.length, 2);
  }
});

test("times count from when the request was sent, not from when its response arrived", async () => {
  const world = new World();
  world.instead = ({ path }) => {
    if (path === "/auth/refresh") world.now += 9000;
  };
  const { auth } = await loggedIn({}, world);
  assert.equal(auth.expiresAt, world.refreshes[0].at + 900_000);
});

test("a token without refresh_in is refreshed when it expires", async () => {
  const world = new World();
  const tab = world.tab();
  await world.pass(100);
  const { refresh_in: _, ...tokens } = world.logIn("alice");
  tab.auth.accept(tokens);
  assert.equal(tab.auth.nextAt, tab.auth.expiresAt);
});

test("a token without remaining time, at the end of a session, causes no storm", async () => {
  for (const wanted of [false, true]) {
    const world = new World();
    Object.assign(world, { life: 0, back: 0, random: 0 });
    const { auth } = await loggedIn({}, world);
    if (wanted) auth.fetch("/me").catch(() => {});
    await world.pass(4900);
    assert.ok(world.refreshes.length >= 4 && world.refreshes.length <= 7, `${world.refreshes.length}`);
  }
});

test("a refresh_in of zero causes no storm", async () => {
  const world = new World();
  Object.assign(world, { life: 2, back: 0, random: 0 });
  await loggedIn({}, world);
  await world.pass(10_000);
  assert.ok(world.refreshes.length <= 11, `${world.refreshes.length}`);
});

test("a hidden page does not refresh until it is visible again", async () => {
  const { world, tab } = await loggedIn();
  await tab.show(false);
  await world.pass(60 * MINUTE);
  assert.equal(world.refreshes.length, 1);
  await tab.show(true);
  await world.pass(100);
  assert.equal(world.refreshes.length, 2);
  assert.equal(tab.state, "in");
});

test("a page that was opened in the background refreshes when it becomes visible", async () => {
  const world = new World();
  world.logIn("alice");
  const tab = world.tab({ hidden: true });
  await world.pass(MINUTE);
  assert.deepEqual([world.requests.length, tab.state], [0, "unknown"]);
  await tab.show(true);
  await world.pass(100);
  assert.deepEqual([world.refreshes.length, tab.state], [1, "in"]);
});

test("a hidden page gets a token when it requests one", async () => {
  const { world, tab, auth } = await loggedIn();
  await tab.show(false);
  await world.pass(60 * MINUTE);
  const answer = auth.fetch("/me");
  await world.pass(100);
  assert.equal((await answer).status, 200);
  assert.equal(world.refreshes.length, 2);
});

for (const event of ["focus", "pageshow", "online", "visibilitychange"]) {
  test(`after a sleep the token is refreshed on ${event}`, async () => {
    const { world, tab } = await loggedIn();
    world.sleep(60 * MINUTE);
    await tab.fire(event);
    await world.pass(100);
    assert.equal(world.refreshes.length, 2);
  });
}

test("a sleep without any event is detected within half a minute", async () => {
  const { world } = await loggedIn();
  world.sleep(60 * MINUTE);
  await world.pass(30_000);
  assert.equal(world.refreshes.length, 2);
});

test("showing a page whose token is fresh sends no request", async () => {
  const { world, tab } = await loggedIn();
  for (const event of ["focus", "pageshow", "online", "visibilitychange"]) await tab.fire(event);
  await world.pass(1000);
  assert.equal(world.refreshes.length, 1);
});

test("a clock that was set back does not stop the refreshes", async () => {
  const { world, tab, auth } = await loggedIn();
  await world.pass(MINUTE);
  world.now -= 24 * 60 * MINUTE;
  for (const timer of world.timers.values()) timer.at -= 24 * 60 * MINUTE;
  await world.pass(MINUTE);
  assert.equal(world.refreshes.length, 2);
  assert.ok(auth.expiresAt - world.now <= 900_000);
  assert.equal(tab.state, "in");
});

test("between two refreshes there is one timer", async () => {
  const { world } = await loggedIn();
  assert.equal(world.timers.size, 1);
});

test("a closed module sends no request and has no timer", async () => {
  const { world, tab, auth } = await loggedIn();
  auth.close();
  for (const event of ["focus", "pageshow", "online"]) await tab.fire(event);
  await world.pass(60 * MINUTE);
  assert.equal(world.refreshes.length, 1);
  assert.equal(world.timers.size, 0);
  assert.equal(tab.channels.length, 0);
});
