import assert from "node:assert/strict";
import test from "node:test";
import { loggedIn, lost, refusal, World } from "./world.mjs";

const MINUTE = 60_000;
const to = (world, path) => world.requests.filter(request => request.path === path);

async function answered(world, promise, ms = 100) {
  promise.catch(() => {});
  await world.pass(ms);
  return promise;
}

test("a request carries the token and its own headers", async () => {
  const { world, auth } = await loggedIn();
  const answer = await auth.fetch("/me", { headers: { "x-mine": "1" } });
  assert.equal((await answer.json()).user, "alice");
  assert.equal(to(world, "/me")[0].headers.get("x-mine"), "1");
});

test("a request before the first token waits for it", async () => {
  const world = new World();
  world.logIn("alice");
  const tab = world.tab();
  assert.equal((await answered(world, tab.auth.fetch("/me"))).status, 200);
  assert.deepEqual([world.refreshes.length, to(world, "/me").length], [1, 1]);
});

test("an expired token is replaced before the request is sent", async () => {
  const { world, auth, tab } = await loggedIn();
  await tab.show(false);
  await world.pass(60 * MINUTE);
  assert.equal((await answered(world, auth.fetch("/me"))).status, 200);
  assert.equal(to(world, "/me").length, 1);
});

test("a token that is due for a refresh but still valid is used, and refreshed concurrently", async () => {
  const { world, auth, tab } = await loggedIn();
  await tab.show(false);
  await world.pass(14 * MINUTE);
  const before = auth.user().jti;
  const answer = await auth.fetch("/me");
  assert.equal((await answer.json()).jti, before);
  await world.pass(100);
  assert.notEqual(auth.user().jti, before);
});

for (const code of ["access_token_expired", "access_token_revoked", "access_token_invalid", "session_revoked"]) {
  test(`401 ${code} leads to one refresh and one retry`, async () => {
    const { world, auth } = await loggedIn();
    world.instead = ({ path, authorization }) => path === "/me" && authorization.includes(btoaOf(old)) ? refusal(401, code) : undefined;
    const old = auth.user();
    const answer = await answered(world, auth.fetch("/me", { method: "POST", body: "x" }));
    assert.equal(answer.status, 200);
    assert.deepEqual([world.refreshes.length, to(world, "/me").length], [2, 2]);
    assert.equal(to(world, "/me")[1].body, "x");
  });
}
const btoaOf = claims => Buffer.from(JSON.stringify(claims)).toString("base64url");

test("a second refusal is returned to the caller with its body", async () => {
  const { world, auth } = await loggedIn();
  world.instead = ({ path }) => path === "/me" ? refusal(401, "access_token_expired") : undefined;
  const answer = await answered(world, auth.fetch("/me"));
  assert.equal((await answer.json()).code, "access_token_expired");
  assert.deepEqual([world.refreshes.length, to(world, "/me").length], [2, 2]);
});

test("a 401 of the app itself does not cause a refresh", async () => {
  const { world, auth } = await loggedIn();
  for (const answer of [refusal(401, "wrong_pin"), new Response("no", { status: 401 })]) {
    world.instead = ({ path }) => path === "/me" ? answer : undefined;
    assert.equal((await auth.fetch("/me")).status, 401);
  }
  assert.equal(world.refreshes.length, 1);
});

test("a session that was revoked elsewhere is out once the refresh is refused, and the first response is returned to the caller", async () => {
  const { world, tab, auth } = await loggedIn();
  world.sessions.clear();
  const answer = await answered(world, auth.fetch("/me"), 2000);
  assert.equal((await answer.json()).code, "access_token_revoked");
  assert.equal(tab.state, "out");
  assert.equal(tab.reasons.at(-1), "out session_revoked");
});

test("ten requests that are refused at once cause one refresh", async () => {
  const { world, auth } = await loggedIn();
  const old = btoaOf(auth.user());
  world.instead = ({ authorization }) => authorization?.includes(old) ? refusal(401, "access_token_expired") : undefined;
  const answers = await answered(world, Promise.all(Array.from({ length: 10 }, () => auth.fetch("/me"))));
  assert.ok(answers.every(answer => answer.status === 200));
  assert.equal(world.refreshes.length, 2);
});

test("a refused request causes no refresh if there is a newer token already", async () => {
  const { world, auth } = await loggedIn();
  let go;
  world.instead = ({ path }) => {
    if (path !== "/me") return undefined;
    world.instead = () => undefined;
    return new Promise(resolve => { go = () => resolve(refusal(401, "access_token_expired")); });
  };
  const answer = auth.fetch("/me");
  await world.pass(100);
  auth.refresh();
  await world.pass(100);
  go();
  assert.equal((await answered(world, answer)).status, 200);
  assert.equal(world.refreshes.length, 2);
});

test("a stream is sent unchanged and once, with a token that was refreshed beforehand", async () => {
  const { world, tab, auth } = await loggedIn();
  await tab.show(false);
  await world.pass(14 * MINUTE);
  const body = new ReadableStream(), old = btoaOf(auth.user());
  const answer = await answered(world, auth.fetch("/me", { method: "POST", body, duplex: "half" }));
  assert.equal(answer.status, 200);
  assert.equal(to(world, "/me")[0].body, body);
  assert.ok(!body.locked);
  assert.equal(world.refreshes.length, 2);
  assert.ok(!to(world, "/me")[0].authorization.includes(old));
});

for (const [name, request] of Object.entries({
  "a stream": () => ["/me", { method: "POST", body: new ReadableStream(), duplex: "half" }],
  "an async iterable": () => ["/me", { method: "POST", body: (async function* () { yield "x"; })() }],
  "a Request with a body": () => [new Request("https://app.example/me", { method: "POST", body: "x" })],
})) {
  test(`${name} that was refused is not sent again, but the token is refreshed`, async () => {
    const { world, auth } = await loggedIn();
    world.instead = ({ path }) => path === "/me" ? refusal(401, "access_token_expired") : undefined;
    const answer = await answered(world, auth.fetch(...request()));
    assert.equal(answer.status, 401);
    assert.deepEqual([world.refreshes.length, to(world, "/me").length], [2, 1]);
  });
}

test("a Request without a body is sent again", async () => {
  const { world, auth } = await loggedIn();
  const old = btoaOf(auth.user());
  world.instead = ({ authorization }) => authorization?.includes(old) ? refusal(401, "access_token_expired") : undefined;
  const answer = await answered(world, auth.fetch(new Request("https://app.example/me", { headers: { "x-mine": "1" } })));
  assert.equal(answer.status, 200);
  assert.equal(to(world, "/me")[1].headers.get("x-mine"), "1");
});

test("another origin gets no token unless it is configured", async () => {
  const { world, auth } = await loggedIn({ origins: ["https://api.example"] });
  await auth.fetch("https://evil.example/me").catch(() => {});
  await auth.fetch("//evil.example/me").catch(() => {});
  await auth.fetch(new URL("https://api.example/me")).catch(() => {});
  assert.deepEqual(world.requests.slice(1).map(({ path, authorization }) => [path, !!authorization]), [
    ["https://evil.example/me", false],
    ["https://evil.example/me", false],
    ["https://api.example/me", true],
  ]);
});

test("a page whose base is on another origin sends the token only to the server, and finds the server", async () => {
  const { world, auth } = await loggedIn({ baseURI: "https://evil.example/assets/" });
  assert.equal(world.refreshes.length, 1);
  for (const input of ["/me", "me", new URL("https://app.example/me"), "https://app.example/me"]) await auth.fetch(input).catch(() => {});
  await auth.sessions();
  assert.deepEqual(world.requests.slice(1).map(({ path, authorization }) => [path, !!authorization]), [
    ["https://evil.example/me", false],
    ["https://evil.example/assets/me", false],
    ["/me", true],
    ["/me", true],
    ["/auth/sessions", true],
  ]);
});

test("a base without a path is the root of the origin, on every page", async () => {
  const world = new World();
  world.tab({ base: "" });
  await world.pass(100);
  assert.deepEqual(world.requests.map(({ path }) => path), ["/refresh"]);
});

test("a request with its own Authorization header is not changed", async () => {
  const { world, auth } = await loggedIn();
  const answer = await auth.fetch("/other", { headers: { authorization: "Basic eA==" } }).catch(error => error);
  assert.ok(answer);
  assert.equal(to(world, "/other")[0].authorization, "Basic eA==");
  assert.equal(world.refreshes.length, 1);
});

test("logged out, a request goes without a token", async () => {
  const world = new World();
  const tab = world.tab();
  const answer = await answered(world, tab.auth.fetch("/me"));
  assert.equal((await answer.json()).code, "access_token_missing");
});

test("a request waits while the server is unreachable, and continues when there is a token", async () => {
  const world = new World();
  world.logIn("alice");
  world.instead = ({ path }) => path === "/auth/refresh" ? lost() : undefined;
  const tab = world.tab();
  const answer = tab.auth.fetch("/me");
  await world.pass(5000);
  world.instead = () => undefined;
  assert.equal((await answered(world, answer, 10_000)).status, 200);
});

test("a request is given up after fifteen seconds while the server is unreachable, and is not sent without its token", async () => {
  const world = new World();
  world.logIn("alice");
  world.instead = () => lost();
  const tab = world.tab();
  const answer = assert.rejects(tab.auth.fetch("/me"), { name: "AuthError", code: "offline" });
  await world.pass(14_000);
  assert.equal(to(world, "/me").length, 0);
  await world.pass(1100);
  await answer;
  assert.equal(await answered(world, tab.auth.token(), 15_100), null);
});

test("waiting for a token can be aborted", async () => {
  const world = new World();
  world.logIn("alice");
  world.instead = () => lost();
  const tab = world.tab();
  const stop = new AbortController();
  const answer = assert.rejects(tab.auth.fetch("/me", { signal: stop.signal }), { name: "AbortError" });
  await world.pass(1000);
  stop.abort();
  await answer;
  await assert.rejects(tab.auth.fetch("/me", { signal: stop.signal }), { name: "AbortError" });
});

test("a request of one user is not sent with the token of the next", async () => {
  const { world, tab, auth } = await loggedIn({ without: ["BroadcastChannel"] });
  await tab.show(false);
  await world.pass(60 * MINUTE);
  world.logIn("bob");
  const first = assert.rejects(auth.fetch("/buy", { method: "POST" }), { code: "user_changed" });
  await world.pass(100);
  await first;
  assert.equal(to(world, "/buy").length, 0);
  assert.equal(auth.user().sub, "bob");
});

test("a retry of one user's request is not sent with the token of the next", async () => {
  const { world, auth } = await loggedIn({ without: ["BroadcastChannel"] });
  world.sessions.clear();
  world.logIn("bob");
  const answer = await answered(world, auth.fetch("/buy", { method: "POST" }));
  assert.equal(answer.status, 401);
  assert.equal(to(world, "/buy").length, 1);
});

test("a request of a user is not sent without a token once that user is out", async () => {
  for (const end of [world => world.sessions.clear(), (world, tab) => tab.auth.accept(world.logIn("bob"))]) {
    const { world, tab, auth } = await loggedIn();
    await tab.show(false);
    await world.pass(60 * MINUTE);
    const first = assert.rejects(auth.fetch("/buy", { method: "POST" }), { name: "AuthError", code: "user_changed" });
    end(world, tab);
    await world.pass(2000);
    await first;
    assert.equal(to(world, "/buy").length, 0);
  }
});

test("a request after a logout is sent without a token", async () => {
  const { world, tab, auth } = await loggedIn();
  await auth.logout();
  assert.equal(tab.state, "out");
  assert.equal((await auth.fetch("/me")).status, 401);
  assert.equal(to(world, "/me")[0].authorization, null);
});
