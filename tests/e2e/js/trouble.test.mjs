import assert from "node:assert/strict";
import test from "node:test";
import { json, loggedIn, lost, refusal, World } from "./world.mjs";

const MINUTE = 60_000;
const failing = what => ({ path }) => path === "/auth/refresh" ? what() : undefined;

for (const code of ["refresh_token_missing", "refresh_token_invalid", "refresh_token_reused", "session_expired", "session_idle", "session_outdated", "client_mismatch", "user_refused"]) {
  test(`401 ${code} of a refresh means logged out, without a second attempt`, async () => {
    const { world, tab, auth } = await loggedIn();
    world.instead = failing(() => refusal(401, code));
    assert.equal(await refreshed(world, auth), null);
    assert.equal(tab.state, "out");
    assert.equal(tab.reasons.at(-1), `out ${code}`);
    assert.equal(auth.user(), null);
    await world.pass(60 * MINUTE);
    assert.equal(world.refreshes.length, 2);
  });
}

async function refreshed(world, auth) {
  const token = auth.refresh();
  await world.pass(100);
  return token;
}

const html = (status, headers) => new Response("<h1>Sign in to the airport</h1>", { status, headers: { "content-type": "text/html", ...headers } });
for (const [name, what] of Object.entries({
  "409 with Retry-After": () => refusal(409, "refresh_busy", { "retry-after": "1" }),
  "429": () => html(429),
  "500": () => html(500),
  "502": () => html(502),
  "503": () => refusal(503, "store_unavailable", { "retry-after": "5" }),
  "no network": lost,
  "200 with HTML of a captive portal": () => html(200),
  "200 with JSON of another server": () => json(200, { ok: true }),
  "401 of a proxy": () => html(401, { "www-authenticate": "Basic" }),
  "401 with an unrelated code": () => refusal(401, "proxy_authentication"),
  "403": () => refusal(403, "cross_origin"),
  "404": () => html(404),
})) {
  test(`${name} is retried and logs nobody out`, async () => {
    const { world, tab, auth } = await loggedIn();
    world.instead = failing(what);
    await world.pass(14 * MINUTE + 30_000);
    assert.equal(tab.state, "offline");
    assert.equal(auth.user().sub, "alice");
    assert.ok(world.refreshes.length > 2);
    world.instead = () => undefined;
    await world.pass(2 * MINUTE);
    assert.equal(tab.state, "in");
    assert.ok(!tab.reasons.some(reason => reason.startsWith("out")));
  });

  test(`${name} at the start means offline and not logged out`, async () => {
    const world = new World();
    world.logIn("alice");
    world.instead = failing(what);
    const tab = world.tab();
    await world.pass(100);
    assert.equal(tab.state, "offline");
    world.instead = () => undefined;
    await world.pass(MINUTE);
    assert.equal(tab.state, "in");
  });
}

test("a failed refresh returns no token, even if the old one is valid", async () => {
  const { world, tab, auth } = await loggedIn();
  world.instead = failing(() => refusal(503, "store_unavailable", { "retry-after": "5" }));
  assert.equal(await refreshed(world, auth), null);
  assert.equal(await refreshed(world, auth), null);
  assert.equal(tab.state, "offline");
  const old = await auth.token();
  world.instead = () => undefined;
  await world.pass(5000);
  const next = await refreshed(world, auth);
  assert.ok(next && next !== old);
});

test("a missing response is given up after ten seconds", async () => {
  const { world, tab, auth } = await loggedIn();
  world.instead = failing(() => new Promise(() => {}));
  auth.refresh();
  await world.pass(9000);
  assert.equal(tab.state, "in");
  await world.pass(1100);
  assert.equal(tab.reasons.at(-1), "offline offline");
});

test("the wait doubles up to a minute, and is fully random", async () => {
  for (const random of [0.5, 0.999]) {
    const { world, auth } = await loggedIn();
    world.random = random;
    world.instead = failing(lost);
    await refreshed(world, auth);
    const waits = [];
    for (let i = 0; i < 9; i++) {
      const before = world.refreshes.at(-1).at;
      const count = world.refreshes.length;
      while (world.refreshes.length === count) await world.pass(50);
      waits.push((world.refreshes.at(-1).at - before) / 1000);
    }
    const expected = [1, 2, 4, 8, 16, 32, 60, 60, 60].map(most => most * random);
    waits.forEach((wait, i) => assert.ok(Math.abs(wait - expected[i]) < 0.3, `${waits} for ${expected}`));
  }
});

test("Retry-After in seconds is respected, plus a random part", async () => {
  const { world, auth } = await loggedIn();
  world.instead = failing(() => refusal(503, "store_unavailable", { "retry-after": "20" }));
  await refreshed(world, auth);
  assert.ok(Math.abs(auth.nextAt - world.refreshes.at(-1).at - 20_500) < 200);
  await world.pass(19_900);
  assert.equal(world.refreshes.length, 2);
  await world.pass(1000);
  assert.equal(world.refreshes.length, 3);
});

test("Retry-After as a date is measured by the server's clock", async () => {
  const { world, auth } = await loggedIn();
  const wrong = world.now - 5 * 60 * MINUTE;
  const headers = { date: new Date(wrong).toUTCString(), "retry-after": new Date(wrong + 30_000).toUTCString() };
  world.instead = failing(() => refusal(503, "store_unavailable", headers));
  await refreshed(world, auth);
  assert.ok(Math.abs(auth.nextAt - world.refreshes.at(-1).at - 30_500) < 200);
});

test("a Retry-After that is invalid, past or years away does not stop the retries", async () => {
  const { world, auth } = await loggedIn();
  for (const [text, most] of [["soon", 1000], ["-5", 1000], ["Wed, 21 Oct 2015 07:28:00 GMT", 1000], ["999999999", 3_601_000]]) {
    world.instead = failing(() => refusal(503, "x", { "retry-after": text }));
    await refreshed(world, auth);
    assert.ok(auth.nextAt - world.now <= most, `${text}: ${auth.nextAt - world.now}`);
    world.instead = () => undefined;
    await world.pass(2 * MINUTE);
  }
});

test("neither showing the page nor a click causes a request before Retry-After", async () => {
  const { world, tab, auth } = await loggedIn();
  world.instead = failing(() => refusal(503, "store_unavailable", { "retry-after": "60" }));
  await refreshed(world, auth);
  for (const event of ["focus", "online", "visibilitychange", "pageshow"]) await tab.fire(event);
  await refreshed(world, auth);
  assert.equal(world.refreshes.length, 2);
});

test("the wait ends when the network is back", async () => {
  const { world, tab, auth } = await loggedIn();
  world.random = 0.999;
  world.instead = failing(lost);
  await refreshed(world, auth);
  await world.pass(40_000);
  const count = world.refreshes.length;
  world.instead = () => undefined;
  await tab.fire("online");
  await world.pass(100);
  assert.equal(world.refreshes.length, count + 1);
  assert.equal(tab.state, "in");
});

test("there are never more than twenty attempts in a minute", async () => {
  const { world, tab, auth } = await loggedIn();
  for (let i = 0; i < 600; i++) {
    auth.refresh();
    await world.pass(100);
  }
  assert.ok(world.refreshes.length <= 21, `${world.refreshes.length}`);
  await world.pass(2 * MINUTE);
  assert.equal(tab.state, "in");
});

test("a server that accepts no token causes no storm of refreshes", async () => {
  const { world, auth } = await loggedIn();
  world.instead = ({ path }) => path === "/me" ? refusal(401, "access_token_revoked") : undefined;
  for (let i = 0; i < 100; i++) {
    const answer = auth.fetch("/me").catch(error => error);
    await world.pass(200);
    assert.ok([401, 0].includes((await answer).status));
  }
  assert.ok(world.refreshes.length <= 20, `${world.refreshes.length}`);
});

test("concurrent calls of token share one request", async () => {
  const { world, auth } = await loggedIn();
  const answers = Promise.all(Array.from({ length: 50 }, () => auth.refresh()));
  await world.pass(100);
  assert.equal(new Set(await answers).size, 1);
  assert.equal(world.refreshes.length, 2);
});

test("an error in the app's callback stops nothing", async t => {
  const logged = t.mock.method(console, "error", () => {});
  const { world, tab } = await loggedIn({ onChange() { throw new Error("the app's"); } });
  assert.equal(tab.state, "in");
  assert.equal(logged.mock.callCount(), 1);
  await world.pass(14 * MINUTE);
  assert.equal(world.refreshes.length, 2);
});
