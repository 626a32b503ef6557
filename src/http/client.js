// The browser half of axum-refresh; see client.d.ts.
//
// All news have a stamp: when the request was sent, or for a login and a logout when the answer came. What is older than
// what a tab knows, or than the tab, does not count: a new page learns from the cookie who is there.

// In ms.
const REQUEST = 10_000; // for an answer of the server
const LOGIN = 60_000; // for one of the app
const LOCK = 11_000; // to wait for another tab, whose answer then comes no more
const LINGER = 50; // that a lock is kept, so that the news come first
const PATIENCE = 15_000; // that a caller waits for a token
const TICK = 30_000; // between two looks at the clock: timers stand still while a computer sleeps
const MINUTE = 60_000;
const LONGEST = 3_600_000; // that a Retry-After is believed
const CAP = 20; // attempts in a minute

/** Answers to a refresh that mean: logged out. */
const OVER = /^(refresh_token_(missing|invalid|reused)|session_(revoked|expired|idle)|client_mismatch|user_refused)$/;
/** Refusals that a new access token may cure. */
const CURABLE = /^(access_token_(expired|revoked|invalid)|session_(revoked|expired|idle)|client_mismatch)$/;

export class AuthError extends Error {
  constructor(code, status = 0) {
    super(code);
    Object.assign(this, { name: "AuthError", code, status });
  }
}

/** @type {typeof import("./client.d.ts").createAuth} */
export function createAuth(options = {}) {
  const { credentials = "same-origin", onChange, hint } = options;
  /** @type {any} */
  const env = options.env ?? globalThis;
  // Where tabs do not hear each other, one could log out another's user.
  const idle = env.BroadcastChannel && options.idle;
  const now = () => env.Date.now();
  const here = env.location?.href;
  const base = new URL(`${options.base ?? "/auth"}/`, here).href.slice(0, -1);
  const origins = new Set([here, base, ...(options.origins ?? [])].map(url => new URL(url, here).origin));
  const name = `axum-refresh:${base}`;
  const sleep = ms => new Promise(resolve => env.setTimeout(resolve, ms));

  /** @type {import("./client.d.ts").AuthState} */
  let state = "unknown";
  let closed = false;
  let held = null;
  let mark = now(), clock = mark; // the stamp of what counts, and the highest there is
  let failures = 0, retryAt = 0, notBefore = 0, tries = [];
  let timer = 0, seen = now();
  let renewing = null, waiting = new AbortController();
  let lastActive = now(), fresh = true, told = 0, warned = false, ending = false, idling = null;
  const waiters = new Set();

  // ---- what is known ----

  const stamp = () => clock = Math.max(clock + 1, now());
  const user = () => held?.claims ?? null;
  const touch = () => {
    lastActive = now();
    fresh = false;
  };

  /** What is held, until shortly before its end: a request takes its time. */
  const good = () => held && now() < held.expiresAt - Math.min(5000, (held.expiresAt - held.refreshAt) / 2) ? held : null;

  /** Takes what is newer. No token: logged out. */
  function settle(news, reason = "refresh", share = false) {
    if (closed || news.stamp <= mark) return;
    mark = news.stamp;
    failures = retryAt = notBefore = 0;
    ending = false;
    if (share) post({ type: "news", reason, ...news });
    const { token, expiresAt, refreshAt } = news, before = state;
    // At random: of many tabs one comes first, and the others hear of it.
    const due = Math.max(now() + 1000, refreshAt + env.Math.random() * (expiresAt - refreshAt) / 2);
    held = token ? { stamp: mark, token, expiresAt, refreshAt, due, claims: claimsOf(token) } : null;
    if (held && before === "out") touch();
    state = held ? "in" : "out";
    waiting.abort();
    if (held || before !== "out") changed(reason, !share);
    watchIdle();
    schedule();
  }

  /** Says nothing about the session: try again, not before `wait` ms. */
  function fail(reason, wait = 0) {
    if (closed) return;
    const t = now();
    notBefore = t + Math.min(wait, LONGEST);
    retryAt = notBefore + env.Math.random() * Math.min(MINUTE, 1000 * 2 ** Math.min(failures++, 6));
    if (state !== "out") {
      state = "offline";
      changed(reason);
    }
    schedule();
  }

  function changed(reason, elsewhere = false) {
    for (const waiter of [...waiters]) waiter();
    call(onChange, { state, user: user(), reason, elsewhere });
  }

  const call = (heard, news) => {
    try { heard?.(news); } catch (error) { env.console.error(error); }
  };

  // ---- other tabs ----

  const channel = env.BroadcastChannel ? new env.BroadcastChannel(name) : null;
  const post = message => closed || channel?.postMessage(message);
  const tell = () => good() && post({ type: "news", ...held });
  if (channel) channel.onmessage = ({ data }) => {
    if (closed || !data) return;
    clock = Math.max(clock, data.stamp ?? 0);
    if (data.at) {
      // A new tab is no sign of the user: the others know of the last one.
      lastActive = Math.max(data.since && fresh ? 0 : lastActive, Math.min(data.at, now()));
      fresh = false;
      watchIdle();
      schedule();
    }
    if (data.type === "news") settle(data, data.reason);
    // Its clock may have been set back.
    if (data.type === "hello") post({ stamp: clock, since: true, at: idle && held && lastActive });
    // A tab's time is up: who knows better says so.
    if (data.type === "idle") {
      post({ type: "active", at: lastActive });
      tell();
    }
  };

  let tail = Promise.resolve();
  /** One tab at a time changes the cookie; or several, where no lock is free in time: the server is made for races. */
  const locked = (job, stop = new AbortController()) => new Promise((resolve, reject) => {
    const locks = env.navigator?.locks;
    let begun = false;
    const run = async () => {
      if (begun) return;
      begun = true;
      env.clearTimeout(limit);
      await job().then(resolve, reject);
    };
    const limit = env.setTimeout(() => stop.abort(), LOCK);
    stop.signal.onabort = run;
    if (!locks) tail = tail.then(run);
    else locks.request(name, { signal: stop.signal }, async () => {
      await run();
      if (channel) await sleep(LINGER);
    }).catch(run);
  });

  // ---- talking to the server ----

  async function timed(ms, job) {
    const stop = new AbortController();
    const limit = env.setTimeout(() => stop.abort(), ms);
    try { return await job(stop.signal); } finally { env.clearTimeout(limit); }
  }

  const request = path => timed(REQUEST, async signal => {
    // keepalive: a tab that is closed still gets its cookie.
    const answer = await env.fetch(base + path, { method: "POST", credentials, cache: "no-store", keepalive: true, headers: { accept: "application/json" }, signal });
    const text = await answer.text();
    try { return { answer, body: JSON.parse(text) }; } catch { return { answer, body: null }; }
  }).catch(() => { throw new AuthError("offline"); });

  async function attempt() {
    const sent = now();
    tries = tries.filter(at => sent - at < MINUTE);
    if (tries.length >= CAP) return fail("too_many_attempts", tries[0] + MINUTE - sent);
    tries.push(sent);
    const at = stamp();
    try {
      const { answer, body } = await request("/refresh");
      if (answer.ok && isTokens(body)) {
        if (at > mark) return settle(newsOf(body, sent, at), "refresh", true);
        // Too late, but its cookie may have replaced that of a new login: who is there?
        return held && attempt();
      }
      if (answer.status === 401 && OVER.test(body?.code)) return settle({ stamp: at }, body.code, true);
      if (at > mark) fail(failure(answer, body).code, retryAfter(answer.headers, now()));
    } catch (error) {
      if (at > mark) fail(error.code);
    }
  }

  /** One refresh at a time, unless another tab brings news meanwhile. */
  const renew = (force = false) => renewing ??= (async () => {
    const before = mark;
    if (closed || now() < (force ? notBefore : retryAt)) return;
    waiting = new AbortController();
    await locked(async () => { if (!closed && mark === before) await attempt(); }, waiting);
  })().finally(() => {
    renewing = null;
    schedule();
  });

  /** `eager`: renewed first, if it is due. */
  async function take(eager = false, signal = null) {
    if (good() && now() >= held.due) {
      const renewal = renew();
      if (eager) await renewal;
    }
    return good()?.token ?? new Promise((resolve, reject) => {
      const finish = token => {
        waiters.delete(look);
        env.clearTimeout(limit);
        signal?.removeEventListener("abort", giveUp);
        resolve(token);
        return true;
      };
      const look = () => (good() || state === "out" || closed) && finish(good()?.token ?? null);
      const giveUp = () => {
        reject(signal.reason);
        finish(null);
      };
      const limit = env.setTimeout(finish, PATIENCE, null);
      waiters.add(look);
      signal?.addEventListener("abort", giveUp);
      if (signal?.aborted) return giveUp();
      if (look()) return;
      renew();
      schedule();
    });
  }

  // ---- when ----

  const nextAt = () => ending || state === "offline" ? retryAt : state === "out" ? Infinity : held?.due ?? 0;
  const awake = () => env.document?.visibilityState !== "hidden" || waiters.size > 0 || ending;

  function schedule() {
    env.clearTimeout(timer);
    if (closed || (state === "out" && !ending)) return;
    const t = now();
    let wait = TICK;
    if (!renewing && !idling && awake()) wait = Math.min(wait, nextAt() - t);
    if (idle && held && !idling) wait = Math.min(wait, lastActive + idle.after - (warned ? 0 : idle.warn ?? 0) - t);
    timer = env.setTimeout(tick, Math.max(wait, 10));
  }

  function tick() {
    if (closed) return;
    const t = now();
    if (t < seen) {
      // The clock was set back.
      retryAt = notBefore = 0;
      tries = [];
      lastActive = Math.min(lastActive, t);
      if (held) held.due = t;
    }
    seen = t;
    watchIdle();
    if (t >= nextAt() && awake()) ending ? endIdle() : renew();
    schedule();
  }

  const quit = new AbortController();
  const listen = (target, events, heard) => {
    for (const event of events) target?.addEventListener?.(event, heard, { passive: true, capture: true, signal: quit.signal });
  };
  let unhinted = false;
  const hinted = () => /(^|; )(__Secure-)?session-hint=/.test(env.document?.cookie ?? "");
  const wake = event => {
    // Back from where no news come.
    if (event.persisted) renew(true);
    if (hint && state === "out") {
      // A login that nobody told of; a dead session's hint was there all along.
      if (unhinted && hinted()) renew();
      unhinted = !hinted();
    }
    tick();
  };
  listen(env, ["focus", "pageshow"], wake);
  listen(env.document, ["visibilitychange"], wake);
  listen(env, ["online"], event => {
    retryAt = notBefore;
    wake(event);
  });

  // ---- idle ----

  const left = () => idle ? lastActive + idle.after - now() : Infinity;

  function watchIdle() {
    if (!idle) return;
    const warn = held ? left() <= (idle.warn ?? 0) : false;
    if (warn !== warned) {
      warned = warn;
      call(idle.onWarn, warn ? Math.max(0, left()) : null);
    }
    if (held && left() <= 0) endIdle();
  }

  /** Asks the other tabs first, and again if it slept since. */
  const endIdle = () => idling ??= (async () => {
    const still = () => !closed && (ending || (held && left() <= 0));
    for (let asked = 0, i = 0; i < 2 && now() - asked > 2000; i++) {
      asked = now();
      post({ type: "idle" });
      await sleep(1000);
    }
    try {
      await leave("idle", still);
    } catch {
      // Here at once, there when the server can be reached.
      settle({ stamp: stamp() }, "idle", true);
      ending = true;
      fail("idle");
    }
  })().finally(() => {
    idling = null;
    schedule();
  });

  const active = () => {
    const t = now();
    // Nothing undoes that the time was up.
    if (held && left() <= 0) return watchIdle();
    touch();
    if (warned || t - told >= Math.min(5000, (idle?.after ?? 0) / 20)) {
      told = t;
      post({ type: "active", at: t });
    }
    if (warned) watchIdle();
  };
  if (idle) listen(env, ["pointerdown", "pointermove", "keydown", "wheel", "touchstart"], active);

  // ---- what an app calls ----

  const leave = (reason, still = () => true) => locked(async () => {
    if (!still()) return;
    const { answer, body } = await request("/logout");
    if (!answer.ok) throw failure(answer, body);
    settle({ stamp: stamp() }, reason, true);
  });

  async function authFetch(input, init = {}) {
    const headers = new Headers(init.headers ?? input.headers);
    // Resolved once, as `fetch` does it: what is looked at is where it goes.
    if (!input.url) input = new URL(input, env.document?.baseURI ?? here);
    if (!origins.has(new URL(input.url ?? input).origin) || headers.has("authorization")) return env.fetch(input, init);
    // A stream is sent once, and the body of a Request is one.
    const body = init.body ?? (input.url && !/^(GET|HEAD)$/.test(input.method) ? input : null);
    const once = body && (body === input || body.getReader || body[Symbol.asyncIterator]);
    const whose = user();
    const other = () => whose && (!held || user().sub !== whose.sub);
    const send = token => {
      if (token) headers.set("authorization", `Bearer ${token}`);
      return env.fetch(input, { ...init, headers });
    };
    const token = await take(once, init.signal ?? input.signal);
    // What one user has asked for is done in no other name, and not without one.
    if (other()) throw new AuthError("user_changed");
    if (!token && state !== "out") throw new AuthError("offline");
    const answer = await send(token);
    if (!token || answer.status !== 401 || !(await isCurable(answer))) return answer;
    if (token === held?.token) await renew(true);
    const next = good()?.token;
    if (once || !next || next === token || other()) return answer;
    answer.body?.cancel().catch(() => {});
    return send(next);
  }

  const api = async (method, path) => {
    const answer = await authFetch(base + path, { method, credentials, cache: "no-store" });
    const body = await answer.json().catch(() => null);
    if (!answer.ok) throw failure(answer, body);
    return body;
  };

  function accept(tokens, sent = now()) {
    if (!isTokens(tokens)) throw new TypeError("no access token");
    settle(newsOf(tokens, sent, stamp()), "login", true);
  }

  if (hint && !hinted()) {
    unhinted = true;
    state = "out";
  }
  post({ type: "hello", stamp: clock });
  if (state === "unknown") schedule();
  else Promise.resolve("no_session").then(changed);

  return {
    get state() { return state; },
    get expiresAt() { return held?.expiresAt ?? 0; },
    get nextAt() { return nextAt(); },
    user,
    token: () => take(),
    refresh: async () => {
      const before = held;
      await renew(true);
      return held !== before && good()?.token || null;
    },
    fetch: authFetch,
    accept: tokens => accept(tokens),
    login: (url, body, init) => locked(() => timed(LOGIN, async signal => {
      const sent = now();
      const answer = await env.fetch(url, { method: "POST", credentials, cache: "no-store", headers: { "content-type": "application/json" }, body: JSON.stringify(body), signal, ...init });
      const tokens = answer.ok ? await answer.clone().json().catch(() => null) : null;
      if (isTokens(tokens)) accept(tokens, sent);
      return answer;
    })),
    logout: () => leave("logout"),
    logoutAll: async () => {
      await api("POST", "/logout/all");
      settle({ stamp: stamp() }, "logout", true);
    },
    logoutOthers: async () => (await api("POST", "/logout/others")).revoked,
    sessions: async () => (await api("GET", "/sessions")).sessions,
    endSession: id => id === user()?.sid ? leave("logout") : api("DELETE", `/sessions/${encodeURIComponent(id)}`),
    close() {
      closed = true;
      env.clearTimeout(timer);
      quit.abort();
      channel?.close();
      waiting.abort();
      for (const waiter of [...waiters]) waiter();
    },
  };
}

const failure = (answer, body) => new AuthError(body?.code ?? `status_${answer.status}`, answer.status);
const isTokens = body => typeof body?.access_token === "string" && Number.isFinite(body.expires_in);

function newsOf(tokens, sent, stamp) {
  const life = tokens.expires_in * 1000;
  const back = Math.min(life, (tokens.refresh_in ?? tokens.expires_in) * 1000);
  return { stamp, token: tokens.access_token, expiresAt: sent + life, refreshAt: sent + back };
}

/** Read, not checked. */
function claimsOf(token) {
  try {
    const text = atob(token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/"));
    return JSON.parse(new TextDecoder().decode(Uint8Array.from(text, char => char.charCodeAt(0))));
  } catch {
    return {};
  }
}

/** The caller's answer is left unread. */
async function isCurable(answer) {
  if (!answer.headers.get("content-type")?.includes("problem+json")) return false;
  try { return CURABLE.test((await answer.clone().json()).code); } catch { return false; }
}

/** In ms. A date is by the server's own clock, if that is told (RFC 9110 §10.2.3). */
function retryAfter(headers, now) {
  const text = headers.get("retry-after") ?? "";
  const wait = /^\d+$/.test(text) ? text * 1000 : Date.parse(text) - (Date.parse(headers.get("date") ?? "") || now);
  return wait > 0 ? wait : 0;
}
