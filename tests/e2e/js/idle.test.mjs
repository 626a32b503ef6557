import assert from "node:assert/strict";
import test from "node:test";
import { loggedIn, lost, World } from "./world.mjs";

const MINUTE = 60_000;

function idle(options = {}) {
  const warnings = [];
  return { warnings, options: { idle: { after: 10 * MINUTE, warn: MINUTE, onWarn: left => warnings.push(left) }, ...options } };
}

async function pair(world = new World()) {
  const [one, two] = [idle(), idle()];
  world.logIn("alice");
  const tabs = [world.tab(one.options)];
  await world.pass(100);
  tabs.push(world.tab(two.options));
  await world.pass(100);
  return { world, tabs, warnings: [one.warnings, two.warnings] };
}

test("an idle user is warned and then logged out", async () => {
  const { warnings, options } = idle();
  const { world, tab } = await loggedIn(options);
  await world.pass(9 * MINUTE - 1000);
  assert.deepEqual(warnings, []);
  await world.pass(1000);
  assert.equal(warnings.length, 1);
  assert.ok(warnings[0] > 59_000 && warnings[0] <= MINUTE);
  await world.pass(MINUTE - 1000);
  assert.equal(tab.state, "in");
  await world.pass(2500);
  assert.deepEqual([tab.state, world.cookie, tab.reasons.at(-1)], ["out", null, "out idle"]);
  assert.equal(warnings.at(-1), null);
});

for (const event of ["pointerdown", "pointermove", "keydown", "wheel", "touchstart"]) {
  test(`${event} counts as activity and cancels the warning`, async () => {
    const { warnings, options } = idle();
    const { world, tab } = await loggedIn(options);
    await world.pass(9 * MINUTE + 1000);
    assert.equal(warnings.length, 1);
    await tab.fire(event);
    assert.equal(warnings.at(-1), null);
    await world.pass(9 * MINUTE - 2000);
    assert.deepEqual([tab.state, warnings.length], ["in", 2]);
  });
}

test("activity in one tab keeps all tabs logged in", async () => {
  const { world, tabs, warnings } = await pair();
  await tabs[1].show(false);
  for (let i = 0; i < 60; i++) {
    await world.pass(MINUTE);
    await tabs[0].fire("keydown");
  }
  assert.deepEqual(tabs.map(tab => tab.state), ["in", "in"]);
  assert.deepEqual(warnings, [[], []]);
});

test("a user who is idle in all tabs is logged out in all, with one logout", async () => {
  const { world, tabs, warnings } = await pair();
  await world.pass(9 * MINUTE + 500);
  assert.deepEqual(warnings.map(list => list.length), [1, 1]);
  await world.pass(2 * MINUTE);
  assert.deepEqual(tabs.map(tab => tab.state), ["out", "out"]);
  assert.equal(world.requests.filter(({ path }) => path === "/auth/logout").length, 1);
});

test("opening a tab does not count as activity, and the new tab learns the last activity", async () => {
  const [one, two] = [idle(), idle()];
  const { world, tab } = await loggedIn(one.options);
  await world.pass(5 * MINUTE);
  const other = world.tab(two.options);
  await world.pass(4 * MINUTE);
  assert.deepEqual([one, two].map(({ warnings }) => warnings.length), [1, 1]);
  await world.pass(MINUTE + 2000);
  assert.deepEqual([tab, other].map(({ state }) => state), ["out", "out"]);
});

test("a tab that is opened after a logout ignores the activity before it", async () => {
  const [one, two] = [idle(), idle()];
  const { world, tab } = await loggedIn(one.options);
  await world.pass(11 * MINUTE);
  assert.equal(tab.state, "out");
  // A login form without the module.
  world.logIn("bob");
  const other = world.tab(two.options);
  await world.pass(9 * MINUTE - 1000);
  assert.deepEqual([tab, other].map(({ state }) => state), ["in", "in"]);
  assert.deepEqual(two.warnings, []);
});

test("activity in a new tab counts, whatever other tabs report later", async () => {
  const [one, two] = [idle(), idle()];
  const { world, tab } = await loggedIn(one.options);
  await world.pass(5 * MINUTE);
  tab.freeze();
  const other = world.tab(two.options);
  await other.fire("keydown");
  await tab.thaw();
  await world.pass(9 * MINUTE - 2000);
  assert.deepEqual([tab, other].map(({ state }) => state), ["in", "in"]);
  assert.deepEqual([one, two].map(({ warnings }) => warnings), [[], []]);
});

test("activity in one tab cancels the warning of the other", async () => {
  const { world, tabs, warnings } = await pair();
  await world.pass(9 * MINUTE + 1000);
  await tabs[0].fire("keydown");
  await world.pass(10);
  assert.equal(warnings[1].at(-1), null);
});

test("a tab that slept asks the others before it logs out", async () => {
  const { world, tabs: [working, asleep] } = await pair();
  asleep.freeze();
  for (let i = 0; i < 30; i++) {
    await world.pass(MINUTE);
    await working.fire("keydown");
  }
  asleep.frozen.length = 0;
  await asleep.thaw();
  await world.pass(5000);
  assert.deepEqual([working.state, asleep.state], ["in", "in"]);
});

test("moving the mouse after the computer slept too long does not prevent the logout", async () => {
  const { options } = idle();
  const { world, tab } = await loggedIn(options);
  world.sleep(11 * MINUTE);
  await tab.fire("pointermove");
  await world.pass(2000);
  assert.equal(tab.state, "out");
});

test("activity while the other tabs are being asked is too late only if none of them knew of any", async () => {
  const { world, tabs } = await pair();
  await world.pass(10 * MINUTE - 3000);
  await tabs[0].fire("keydown");
  await world.pass(MINUTE);
  assert.deepEqual(tabs.map(tab => tab.state), ["in", "in"]);
});

test("an idle user is out at once while the server is unreachable, and logged out there when it is back", async () => {
  const { options } = idle();
  const { world, tab } = await loggedIn(options);
  world.instead = () => lost();
  await world.pass(10 * MINUTE + 2000);
  assert.equal(tab.state, "out");
  assert.notEqual(world.cookie, null);
  world.instead = () => undefined;
  await world.pass(2 * MINUTE);
  assert.equal(world.cookie, null);
  const count = world.requests.length;
  await world.pass(60 * MINUTE);
  assert.equal(world.requests.length, count);
});

test("a logout that waits for the server does not log out a login that happened meanwhile", async () => {
  const { world, tabs: [one, two] } = await pair();
  world.instead = ({ path }) => path === "/auth/logout" ? lost() : undefined;
  await world.pass(10 * MINUTE + 2000);
  assert.deepEqual([one.state, two.state], ["out", "out"]);
  two.auth.login("/login", { user: "bob" });
  await world.pass(100);
  world.instead = () => undefined;
  await world.pass(5 * MINUTE);
  assert.deepEqual([one.auth.user()?.sub, two.auth.user()?.sub], ["bob", "bob"]);
});

test("a logout that waits for the server does not log out a login that its tab missed", async () => {
  for (const wait of [2000, 2600, 3200, 5000]) {
    const { world, tabs } = await pair();
    world.instead = ({ path }) => path === "/auth/logout" ? lost() : undefined;
    await world.pass(10 * MINUTE + wait);
    const asleep = tabs.find(tab => tab.reasons.at(-1) === "out idle");
    const other = tabs.find(tab => tab !== asleep);
    asleep.freeze();
    other.auth.login("/login", { user: "bob" });
    await world.pass(5000);
    world.instead = () => undefined;
    asleep.frozen.length = 0;
    await asleep.thaw();
    await world.pass(5 * MINUTE);
    assert.deepEqual([asleep.auth.user()?.sub, other.auth.user()?.sub], ["bob", "bob"], `${wait}`);
    assert.notEqual(world.cookie, null);
  }
});

test("a login restarts the idle time", async () => {
  const { options } = idle();
  const { world, tab } = await loggedIn(options);
  await world.pass(11 * MINUTE);
  assert.equal(tab.state, "out");
  tab.auth.login("/login", { user: "bob" });
  await world.pass(9 * MINUTE - 1000);
  assert.equal(tab.state, "in");
});

test("without a channel, being idle in one tab logs nobody out", async () => {
  const { options, warnings } = idle({ without: ["BroadcastChannel"] });
  const { world, tab } = await loggedIn(options);
  const before = world.count;
  await world.pass(60 * MINUTE);
  assert.deepEqual([tab.state, warnings], ["in", []]);
  assert.ok(world.count - before < 200, "timers run continuously");
});
