import assert from "node:assert/strict";
import test from "node:test";
import { insufficient, json, lost, refusal, settled, World } from "./world.mjs";

const MINUTE = 60_000;
const REAUTH = "/auth/reauth";
const to = (world, path) => world.requests.filter(request => request.path === path);
const codeOf = async response => (await response.json()).code;

/** A tab whose hook does `answer`, and keeps the challenges. By default, the user authenticates again. */
function open(world, answer = ({ auth }) => auth.reauthenticate(REAUTH, { acr: "aal2" }), options = {}) {
  const tab = world.tab({
    onStepUp(challenge) {
      tab.challenges.push(challenge);
      return answer(tab, challenge);
    },
    ...options,
  });
  tab.challenges = [];
  return tab;
}

/** Tabs of alice, who logged in ten minutes ago. */
async function late(count, answer, options, world = new World()) {
  world.logIn("alice");
  const tabs = [];
  for (let i = 0; i < count; i++) {
    tabs.push(open(world, answer, options));
    await world.pass(100);
  }
  await world.pass(10 * MINUTE);
  world.requests.length = 0;
  return { world, tabs, tab: tabs[0], auth: tabs[0].auth };
}

async function answered(world, promise, ms = 1000) {
  promise.catch(() => {});
  await world.pass(ms);
  return promise;
}

/** What a hook returns that waits for the test. */
function waiting() {
  let answer, fail;
  const promise = new Promise((resolve, reject) => { [answer, fail] = [resolve, reject]; });
  return { promise, answer, fail };
}

/** Holds the next response to this path until the returned function is called. */
function hold(world, path) {
  let go;
  world.instead = request => {
    if (request.path !== path) return undefined;
    world.instead = () => undefined;
    const answer = world.serve(request);
    return new Promise(resolve => { go = () => resolve(answer); });
  };
  return () => go();
}

const everIn = tabs => assert.ok(!tabs.some(({ reasons }) => reasons.some(reason => !reason.startsWith("in"))), `${tabs.map(tab => tab.reasons)}`);

// ---- A request that is refused ----

test("three requests that are refused at once lead to one challenge, and each is sent once more", async () => {
  const { world, tab, auth } = await late(1);
  const answers = await answered(world, Promise.all(["/recent", "/strong", "/recent"].map(path => auth.fetch(path))));
  assert.deepEqual(answers.map(({ status }) => status), [200, 200, 200]);
  assert.equal(tab.challenges.length, 1);
  assert.deepEqual([to(world, "/recent").length, to(world, "/strong").length, to(world, REAUTH).length], [4, 2, 1]);
  everIn([tab]);
});

test("a request is sent again once and only once, and the second response is returned, whatever it is", async () => {
  for (const [second, status] of [[() => insufficient('max_age="5"'), 401], [() => refusal(401, "access_token_revoked"), 401], [() => refusal(503, "x"), 503], [() => json(200, {}), 200]]) {
    const { world, tab, auth } = await late(1);
    world.instead = ({ path }) => path !== "/pay" ? undefined : to(world, "/pay").length === 1 ? insufficient('max_age="5"') : second();
    assert.equal((await answered(world, auth.fetch("/pay"))).status, status);
    assert.deepEqual([to(world, "/pay").length, tab.challenges.length, tab.state], [2, 1, "in"]);
  }
});

test("the request that is sent again has its method, headers and body", async () => {
  const { world, auth } = await late(1);
  const form = new FormData();
  form.set("amount", "5");
  for (const body of ["five", form, new Uint8Array([5]), new URLSearchParams({ amount: "5" })]) {
    world.requests.length = 0;
    await world.pass(6 * MINUTE);
    const answer = await answered(world, auth.fetch("/recent", { method: "PUT", body, headers: { "x-mine": "1" } }));
    assert.equal(answer.status, 200);
    assert.deepEqual(to(world, "/recent").map(request => [request.method, request.body, request.headers.get("x-mine")]), Array(2).fill(["PUT", body, "1"]));
    assert.equal(new Set(to(world, "/recent").map(({ authorization }) => authorization)).size, 2);
  }
});

test("if the hook returns false, throws or changes nothing, the caller gets the refusal, unread, and nobody is logged out", async t => {
  const logged = t.mock.method(console, "error", () => {});
  for (const answer of [
    () => false,
    async () => false,
    () => { throw new Error("cancelled"); },
    async () => { throw new Error("cancelled"); },
    () => undefined,
    async () => true,
    ({ auth }) => auth.refresh(),
    ({ auth }) => auth.reauthenticate(REAUTH, { wrong: true }),
    async ({ auth }) => {
      await auth.reauthenticate(REAUTH, {});
      return false;
    },
    async ({ auth }) => {
      await auth.reauthenticate(REAUTH, {});
      throw new Error("cancelled");
    },
  ]) {
    const { world, tab, auth } = await late(1, answer);
    const response = await answered(world, auth.fetch("/recent", { method: "POST", body: "x" }));
    assert.deepEqual([response.status, await codeOf(response)], [401, "insufficient_user_authentication"]);
    assert.deepEqual([to(world, "/recent").length, tab.challenges.length, tab.state], [1, 1, "in"], `${answer}`);
    everIn([tab]);
    await answered(world, auth.fetch("/strong"));
    assert.equal(tab.challenges.length, 2);
  }
  assert.equal(logged.mock.callCount(), 6);
});

test("the challenge has what the server requires", async () => {
  for (const [params, maxAge, acrValues] of [
    ['acr_values="aal2 aal3", max_age="300"', 300, ["aal2", "aal3"]],
    ['max_age="0"', 0, []],
    ['acr_values="urn:example:loa:2"', null, ["urn:example:loa:2"]],
    ['acr_values=""', null, []],
    ["", null, []],
  ]) {
    const { world, tab, auth } = await late(1);
    world.instead = ({ path }) => path === "/pay" ? insufficient(params) : undefined;
    await answered(world, auth.fetch("/pay"));
    const { signal, ...challenge } = tab.challenges[0];
    assert.deepEqual(challenge, { reason: "route", maxAge, acrValues });
    assert.ok(signal instanceof AbortSignal);
  }
});

test("a refusal whose header cannot be read, as without CORS, is a challenge without details", async () => {
  const { world, tab, auth } = await late(1);
  world.instead = ({ path }) => path === "/pay" ? refusal(401, "insufficient_user_authentication") : undefined;
  await answered(world, auth.fetch("/pay"));
  assert.deepEqual([tab.challenges[0].maxAge, tab.challenges[0].acrValues], [null, []]);
});

test("without the hook the refusal is returned, even if the user has authenticated again meanwhile, and nothing is logged", async t => {
  const logged = t.mock.method(console, "error", () => {});
  for (const [options, status, sent] of [[{}, 200, 2], [{ onStepUp: undefined }, 401, 1]]) {
    const { world, auth } = await late(1, undefined, options);
    assert.equal((await answered(world, auth.fetch("/recent"))).status, status);
    assert.equal(to(world, "/recent").length, sent);
    await world.pass(6 * MINUTE);
    const go = hold(world, "/recent");
    const answer = auth.fetch("/recent");
    await world.pass(100);
    auth.accept(world.logIn("alice"));
    go();
    assert.equal((await answered(world, answer)).status, status);
  }
  assert.equal(logged.mock.callCount(), 0);
});

test("a request that was refused with an old token, when the user has authenticated again meanwhile, is repeated without the hook", async () => {
  const { world, tab, auth } = await late(1);
  const go = hold(world, "/recent");
  const answer = auth.fetch("/recent");
  await world.pass(100);
  await answered(world, auth.reauthenticate(REAUTH, {}));
  go();
  assert.equal((await answered(world, answer)).status, 200);
  assert.deepEqual([tab.challenges.length, to(world, "/recent").length], [0, 2]);
});

test("a later auth_time in the same session is a newer authentication too", async () => {
  const { world, tab, auth } = await late(1, async ({ auth }) => {
    world.sessions.get(world.cookie).authTime = world.now / 1000;
    await auth.refresh();
  });
  assert.equal((await answered(world, auth.fetch("/recent"))).status, 200);
  assert.equal(tab.challenges.length, 1);
});

test("a request with a token that is revoked is repeated after a refresh, and after the challenge that follows", async () => {
  const { world, tab, auth } = await late(1);
  world.instead = ({ path }) => path === "/recent" && to(world, path).length === 1 ? refusal(401, "access_token_revoked") : undefined;
  assert.equal((await answered(world, auth.fetch("/recent"))).status, 200);
  assert.deepEqual([to(world, "/recent").length, world.refreshes.length, tab.challenges.length], [3, 1, 1]);
});

test("ending other sessions can require another authentication too", async () => {
  const { world, tab, auth } = await late(1);
  world.instead = ({ path }) => path === "/auth/logout/others" && to(world, path).length === 1 ? insufficient('max_age="300"') : undefined;
  assert.equal(await answered(world, auth.logoutOthers()), 2);
  assert.equal(tab.challenges.length, 1);
});

test("a stream is not sent again, but the user is asked, so that the caller can send another one", async () => {
  const { world, tab, auth } = await late(1);
  const upload = () => answered(world, auth.fetch("/recent", { method: "POST", body: new ReadableStream(), duplex: "half" }));
  assert.equal((await upload()).status, 401);
  assert.deepEqual([to(world, "/recent").length, tab.challenges.length], [1, 1]);
  assert.equal((await upload()).status, 200);
  assert.equal(tab.challenges.length, 1);
});

test("a request that another user's login overtakes during the challenge is not repeated", async () => {
  const { world, tabs: [one, two] } = await late(2, ({ auth }, { signal }) => new Promise(resolve => signal.addEventListener("abort", resolve)));
  const answer = one.auth.fetch("/recent", { method: "POST", body: "x" });
  await world.pass(100);
  two.auth.login("/login", { user: "bob" });
  assert.equal((await answered(world, answer)).status, 401);
  assert.deepEqual([to(world, "/recent").length, one.challenges.length, one.auth.user().sub], [1, 1, "bob"]);
});

test("a logout during the challenge ends it, and the request is not repeated", async () => {
  for (const which of [0, 1]) {
    const { world, tabs } = await late(2, () => new Promise(() => {}));
    const answer = tabs[0].auth.fetch("/recent");
    await world.pass(100);
    tabs[which].auth.logout();
    assert.equal((await answered(world, answer)).status, 401);
    assert.deepEqual([to(world, "/recent").length, tabs[0].challenges[0].signal.aborted, tabs[0].state], [1, true, "out"]);
  }
});

test("closing the module ends the challenge", async () => {
  const { world, tab, auth } = await late(1, () => new Promise(() => {}));
  const answer = auth.fetch("/recent");
  await world.pass(100);
  auth.close();
  assert.equal((await answered(world, answer)).status, 401);
  assert.ok(tab.challenges[0].signal.aborted);
});

// ---- reauthenticate ----

test("a new authentication is taken by all tabs and resolves to the response, and the user stays", async () => {
  const { world, tabs } = await late(3);
  const before = tabs[0].auth.user();
  const response = await answered(world, tabs[0].auth.reauthenticate(REAUTH, { acr: "aal3" }));
  assert.deepEqual([response.status, (await response.json()).token_type], [200, "Bearer"]);
  for (const { auth } of tabs) {
    const { sub, sid, acr, auth_time } = auth.user();
    assert.deepEqual([sub, sid, acr], ["alice", world.cookie, "aal3"]);
    assert.ok(sid !== before.sid && auth_time > before.auth_time);
  }
  assert.deepEqual(tabs.map(tab => tab.reasons.at(-1)), ["in reauthentication", "in reauthentication elsewhere", "in reauthentication elsewhere"]);
  everIn(tabs);
});

test("an authentication that is refused or incomplete changes nothing and resolves to the response", async () => {
  for (const response of [refusal(401, "bad_credentials"), json(200, { otp: true })]) {
    const { world, tab, auth } = await late(1);
    const before = auth.user();
    world.instead = ({ path }) => path === REAUTH ? response : undefined;
    assert.equal(await answered(world, auth.reauthenticate(REAUTH, {})), response);
    assert.deepEqual([auth.user(), tab.state], [before, "in"]);
  }
});

test("the tokens of another user are rejected in every tab, and the request is not repeated", async t => {
  t.mock.method(console, "error", () => {});
  const errors = [];
  const { world, tabs } = await late(2, ({ auth }) => auth.reauthenticate(REAUTH, { user: "bob" }).catch(error => {
    errors.push(`${error.name} ${error.code}`);
    throw error;
  }));
  const before = tabs[0].auth.user();
  assert.equal((await answered(world, tabs[0].auth.fetch("/recent"))).status, 401);
  assert.deepEqual([tabs.map(tab => tab.auth.user()), errors], [[before, before], ["AuthError user_changed"]]);
  assert.equal(to(world, "/recent").length, 1);
});

test("without a user in this tab, whoever authenticates is logged in", async () => {
  const world = new World();
  const tab = world.tab();
  await world.pass(100);
  world.logIn("alice");
  assert.equal((await answered(world, tab.auth.reauthenticate(REAUTH, {}))).status, 200);
  assert.equal(tab.auth.user().sub, "alice");
});

test("it waits for a refresh of another tab, and a refresh for it", async () => {
  const { world, tabs: [one, two] } = await late(2);
  const goRefresh = hold(world, "/auth/refresh");
  two.auth.refresh();
  await world.pass(100);
  const answer = one.auth.reauthenticate(REAUTH, {});
  await world.pass(100);
  assert.equal(to(world, REAUTH).length, 0);
  goRefresh();
  await settled();
  const goReauth = hold(world, REAUTH);
  await world.pass(100);
  two.auth.refresh();
  await world.pass(5000);
  assert.deepEqual([world.refreshes.length, to(world, REAUTH).length], [1, 1]);
  goReauth();
  await answered(world, answer);
  assert.equal(world.refreshes.length, 1);
  assert.deepEqual([one, two].map(tab => tab.auth.user().sid), [world.cookie, world.cookie]);
});

test("one that began without the lock, after eleven seconds, holds it as soon as it is granted", async () => {
  const { world, tabs: [one, two] } = await late(2);
  let release;
  world.request("axum-refresh:https://app.example/auth", {}, () => new Promise(resolve => { release = resolve; }));
  const go = hold(world, REAUTH);
  const answer = one.auth.reauthenticate(REAUTH, {});
  await world.pass(11_100);
  assert.equal(to(world, REAUTH).length, 1);
  two.auth.refresh();
  release();
  await world.pass(5000);
  assert.equal(world.refreshes.length, 0);
  go();
  await answered(world, answer);
  assert.equal(world.refreshes.length, 0);
  everIn([one, two]);
});

// ---- Several tabs ----

test("a challenge in two tabs is answered in one of them: the other's signal aborts, which may close its dialog, and both requests are repeated", async () => {
  const wait = waiting();
  const { world, tabs: [one, two] } = await late(2, (_, { signal }) => new Promise(resolve => {
    wait.promise.then(resolve);
    signal.addEventListener("abort", () => resolve(false));
  }));
  const answers = Promise.all([one, two].map(tab => tab.auth.fetch("/recent", { method: "POST", body: "x" })));
  await world.pass(100);
  assert.deepEqual([one, two].map(tab => tab.challenges.length), [1, 1]);
  await answered(world, one.auth.reauthenticate(REAUTH, {}));
  // The hook of this tab has not ended.
  assert.deepEqual([one, two].map(tab => tab.challenges[0].signal.aborted), [false, true]);
  assert.equal(to(world, "/recent").length, 3);
  wait.answer();
  assert.deepEqual((await answered(world, answers)).map(({ status }) => status), [200, 200]);
  everIn([one, two]);
});

test("a refresh, here or in another tab, does not end a challenge", async () => {
  const wait = waiting();
  const { world, tabs: [one, two] } = await late(2, () => wait.promise);
  const answer = one.auth.fetch("/recent");
  await world.pass(100);
  for (const tab of [one, two]) await answered(world, tab.auth.refresh());
  assert.deepEqual([one.challenges[0].signal.aborted, to(world, "/recent").length], [false, 1]);
  wait.answer(false);
  assert.equal((await answered(world, answer)).status, 401);
});

test("a session that was revoked is looked at once more after a second before all tabs are out", async () => {
  const { world, tabs } = await late(2);
  world.sessions.clear();
  tabs[0].auth.refresh();
  await world.pass(900);
  assert.deepEqual([world.refreshes.length, tabs.map(tab => tab.state)], [1, ["in", "in"]]);
  await world.pass(200);
  assert.deepEqual([world.refreshes.length, tabs.map(tab => tab.reasons.at(-1))], [2, ["out session_revoked", "out session_revoked elsewhere"]]);
  await world.pass(60 * MINUTE);
  assert.equal(world.refreshes.length, 2);
  // A new page is told at once.
  const page = world.tab();
  await world.pass(100);
  assert.deepEqual([world.refreshes.length, page.state], [3, "out"]);
});

for (const without of [["locks"], ["locks", "BroadcastChannel"]]) {
  test(`without ${without.join(" and ")}, a refresh that is refused because another tab has authenticated logs nobody out`, async () => {
    const { world, tabs: [one, two] } = await late(2, undefined, { without });
    // The refresh arrives after the new authentication, and its refusal before the new cookie.
    let travels = [[0, 500], [100, 0]];
    world.latency = () => travels.shift() ?? [0, 0];
    const answer = one.auth.reauthenticate(REAUTH, {});
    const refresh = two.auth.refresh();
    await world.pass(200);
    assert.deepEqual([world.refreshes.length, world.sessions.has(world.cookie)], [1, false]);
    await answered(world, answer, 3000);
    await refresh;
    assert.deepEqual([one, two].map(tab => tab.auth.user().sid), [world.cookie, world.cookie]);
    everIn([one, two]);
  });
}

test("the look at the new cookie ends with the update of the tab that has authenticated", async () => {
  const { world, tabs: [one, two] } = await late(2);
  let go;
  world.instead = ({ path }) => path === "/auth/refresh" ? new Promise(resolve => { go = () => resolve(refusal(401, "session_revoked")); }) : undefined;
  const refresh = two.auth.refresh();
  await world.pass(10);
  go();
  await world.pass(100);
  one.auth.accept(world.logIn("alice"));
  assert.ok(await answered(world, refresh, 100));
  assert.equal(world.refreshes.length, 1);
  // A refusal after the update needs no look.
  const old = two.auth.refresh();
  await world.pass(10);
  one.auth.reauthenticate(REAUTH, {});
  one.auth.accept(world.logIn("alice"));
  await settled();
  go();
  assert.ok(await answered(world, old, 100));
  assert.deepEqual([world.refreshes.length, to(world, REAUTH).length], [2, 1]);
  everIn([one, two]);
});

/** Numbers below 1, the same for every run (mulberry32). */
function seeded(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

// Where the browser lacks locks, a response can replace the new cookie by that of the old session, and then the user is out.
for (const [name, without, rounds] of [["", [], 150], [" without messages", ["BroadcastChannel"], 100], [" without locks", ["locks"], 150], [" without either", ["locks", "BroadcastChannel"], 100]]) {
  // Without either, one at a time: nothing keeps tabs from replacing each other's.
  const paths = without.length === 2 ? ["/me"] : ["/me", "/recent", "/strong"];
  test(`new authentications race with refreshes and requests of other tabs${name}: all end in the new session, and nobody looks logged out`, async () => {
    let races = 0, authentications = 0, compared = 0;
    for (let round = 0; round < rounds; round++) {
      const random = seeded(round * 31 + without.length * 7919);
      const { world, tabs } = await late(3, undefined, { without });
      world.random = random();
      world.latency = () => [random() * 300, random() * 300];
      const { serve } = world;
      world.serve = request => {
        const response = serve.call(world, request);
        if (request.path === "/auth/refresh" && response.status === 401) races++;
        return response;
      };
      const answers = [];
      const at = (ms, job) => world.setTimeout(() => answers.push(job()), ms);
      for (const tab of tabs) {
        for (let i = 0; i < 3; i++) {
          const path = paths[Math.floor(random() * paths.length)];
          at(random() * 1500, () => random() < 0.5 ? tab.auth.refresh() : tab.auth.fetch(path, { method: "POST", body: path }));
        }
      }
      at(random() * 1500, () => tabs[0].auth.reauthenticate(REAUTH, { acr: "aal2" }));
      await world.pass(20_000);
      authentications += to(world, REAUTH).length;
      for (const answer of answers) await answer;
      if (world.overwritten) continue;
      compared++;
      everIn(tabs);
      // Without messages a tab learns of the new session by its next request.
      const last = Promise.all(tabs.map(tab => tab.auth.fetch("/me")));
      assert.ok((await answered(world, last, 5000)).every(({ status }) => status === 200), `round ${round}`);
      assert.deepEqual(tabs.map(tab => tab.auth.user().sid), Array(3).fill(world.cookie), `round ${round}`);
      assert.equal(world.sessions.size, 1);
    }
    assert.ok(authentications >= rounds);
    assert.ok(compared > rounds / 2, `${compared}`);
    if (without.includes("locks")) assert.ok(races > rounds / 10, `${races}`);
    else assert.deepEqual([compared, races], [rounds, 0]);
  });
}

// ---- A refresh that is refused ----

const REASONS = {
  client: [world => { world.client = "train"; }, "insufficient_user_authentication", ["aal2"]],
  idle: [world => { world.idleAfter = 5 * MINUTE; }, "session_idle", []],
};

for (const [reason, [change, code, acrValues]] of Object.entries(REASONS)) {
  test(`a refresh that is refused (${reason}) leads to one challenge, and the user stays logged in`, async () => {
    const { world, tabs: [tab, other] } = await late(2);
    change(world);
    assert.ok(await answered(world, tab.auth.refresh()));
    const { signal: _, ...challenge } = tab.challenges[0];
    assert.deepEqual(challenge, { reason, maxAge: null, acrValues });
    assert.deepEqual([tab.challenges.length, other.challenges.length, world.refreshes.length], [1, 0, 1]);
    assert.deepEqual([tab, other].map(({ auth }) => auth.user().sid), [world.cookie, world.cookie]);
    everIn([tab, other]);
  });

  test(`a request without a valid token waits for the challenge (${reason}), for longer than for a server, and is sent once, with its body`, async () => {
    const wait = waiting();
    const { world, tab, auth } = await late(1, () => wait.promise);
    await tab.show(false);
    await world.pass(10 * MINUTE);
    change(world);
    await tab.show(true);
    const answers = Promise.all([1, 2].map(n => auth.fetch("/me", { method: "POST", body: `${n}` })));
    const token = auth.token();
    await world.pass(10 * MINUTE);
    assert.deepEqual([to(world, "/me").length, world.refreshes.length, tab.challenges.length], [0, 1, 1]);
    await answered(world, auth.reauthenticate(REAUTH, {}));
    wait.answer();
    assert.deepEqual((await answered(world, answers)).map(({ status }) => status), [200, 200]);
    assert.deepEqual(to(world, "/me").map(({ body }) => body), ["1", "2"]);
    assert.ok(await token);
    everIn([tab]);
  });

  test(`a request that is refused when the refresh is too (${reason}) is repeated after the challenge`, async () => {
    const { world, tab, auth } = await late(1);
    change(world);
    world.instead = ({ path }) => path === "/me" && to(world, path).length === 1 ? refusal(401, "access_token_revoked") : undefined;
    assert.equal((await answered(world, auth.fetch("/me", { method: "POST", body: "x" }))).status, 200);
    assert.deepEqual([to(world, "/me").map(({ body }) => body), tab.challenges.length], [["x", "x"], 1]);
  });

  test(`a challenge (${reason}) that is not met ends in out, in all tabs, and the caller gets the refusal`, async t => {
    t.mock.method(console, "error", () => {});
    for (const answer of [() => false, () => undefined, async () => { throw new Error("cancelled"); }, ({ auth }) => auth.reauthenticate(REAUTH, { wrong: true })]) {
      const { world, tabs: [tab, other] } = await late(2, answer);
      change(world);
      world.instead = ({ path }) => path === "/me" ? refusal(401, "access_token_revoked") : undefined;
      const response = await answered(world, tab.auth.fetch("/me"));
      assert.equal(await codeOf(response), "access_token_revoked");
      assert.deepEqual([tab.reasons.at(-1), other.reasons.at(-1)], [`out ${code}`, `out ${code} elsewhere`]);
      assert.deepEqual([tab.challenges.length, world.refreshes.length, to(world, "/me").length], [1, 1, 1]);
      await world.pass(60 * MINUTE);
      assert.equal(world.refreshes.length, 1);
    }
  });

  test(`a page that is opened when the refresh is refused (${reason}) is not out before the user has answered`, async () => {
    for (const [answer, expected] of [[undefined, ["in reauthentication"]], [() => false, [`out ${code}`]]]) {
      const world = new World();
      world.logIn("alice");
      await world.pass(10 * MINUTE);
      change(world);
      const tab = open(world, answer);
      const response = await answered(world, tab.auth.fetch("/me"));
      assert.equal(response.status, answer ? 401 : 200);
      assert.deepEqual([tab.reasons, tab.challenges.map(challenge => challenge.reason)], [expected, [reason]]);
    }
  });

  test(`a new authentication in another tab ends the challenge (${reason})`, async () => {
    const { world, tabs: [tab, other] } = await late(2, () => new Promise(() => {}));
    change(world);
    const token = tab.auth.refresh();
    await world.pass(100);
    await answered(world, other.auth.reauthenticate(REAUTH, {}));
    assert.ok(await token);
    assert.deepEqual([tab.challenges[0].signal.aborted, tab.auth.user().sid], [true, world.cookie]);
    everIn([tab, other]);
  });
}

test("without the hook, a refresh that is refused for another authentication means logged out, without a second attempt", async t => {
  const logged = t.mock.method(console, "error", () => {});
  const { world, tab, auth } = await late(1, undefined, { onStepUp: undefined });
  world.client = "train";
  assert.equal(await answered(world, auth.refresh()), null);
  assert.equal(tab.reasons.at(-1), "out insufficient_user_authentication");
  await world.pass(60 * MINUTE);
  assert.deepEqual([world.refreshes.length, logged.mock.callCount()], [1, 0]);
});

test("during a challenge for a refresh there are no other refreshes", async () => {
  const { world, tab, auth } = await late(1, () => new Promise(() => {}));
  world.client = "train";
  auth.refresh();
  for (let i = 0; i < 20; i++) {
    await world.pass(MINUTE);
    await tab.fire("focus");
    await tab.fire("pageshow", { persisted: true });
  }
  assert.deepEqual([world.refreshes.length, tab.challenges.length, tab.state], [1, 1, "in"]);
});

test("a refresh that is refused during a challenge for a request leads to its own, unless the first has helped", async () => {
  for (const helps of [false, true]) {
    const wait = waiting();
    const { world, tab, auth } = await late(1, (_, { reason }) => reason === "route" ? wait.promise : false);
    const answer = auth.fetch("/recent");
    await world.pass(100);
    world.client = "train";
    const token = auth.refresh();
    await world.pass(100);
    assert.deepEqual(tab.challenges.map(({ reason }) => reason), ["route"]);
    if (helps) await answered(world, auth.reauthenticate(REAUTH, {}));
    wait.answer(helps);
    assert.equal((await answered(world, answer)).status, helps ? 200 : 401);
    assert.equal(!!await token, helps);
    assert.deepEqual(tab.challenges.map(({ reason }) => reason), helps ? ["route"] : ["route", "client"]);
    assert.equal(tab.state, helps ? "in" : "out");
  }
});

test("a challenge that the network interrupts can be answered when it is back", async () => {
  const { world, tab, auth } = await late(1, async ({ auth }) => {
    world.instead = ({ path }) => path === REAUTH ? lost() : undefined;
    await assert.rejects(auth.reauthenticate(REAUTH, {}), TypeError);
    world.instead = () => undefined;
    await auth.reauthenticate(REAUTH, {});
  });
  assert.equal((await answered(world, auth.fetch("/recent"))).status, 200);
  assert.equal(tab.challenges.length, 1);
});
