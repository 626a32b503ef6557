// The browser module of axum-refresh; see client.d.ts.
//
// State updates are timestamped: a refresh with the time of its request, a login or logout with that of its response.
// A tab ignores updates that are older than its state, or than the tab: a new page asks with its cookie.

// In milliseconds.
const REQUEST_TIMEOUT = 10_000;
const LOGIN_TIMEOUT = 60_000;
const LOCK_TIMEOUT = 11_000; // the request of the tab that has it has timed out by then
const LOCK_DELAY = 50; // before a lock is released, so that the update arrives first
const TOKEN_TIMEOUT = 15_000;
const MAX_TIMER = 30_000; // timers stop while a computer sleeps: look at the clock this often
const MINUTE = 60_000;
const MAX_RETRY_AFTER = 3_600_000;
const MAX_ATTEMPTS = 20; // per minute
const HINT_TRUST = 600_000; // how long a missing hint is trusted after the server has found no cookie, or has cleared it

/** Codes of a refused refresh that mean: logged out. */
const LOGGED_OUT = /^(refresh_token_(missing|invalid|reused)|session_(revoked|expired|idle|outdated)|client_mismatch|user_refused)$/;
/** Reasons that mean: this browser has no refresh cookie. */
const NO_COOKIE = /^(refresh_token_missing|logout)$/;
/** Codes of a refused request that a new access token may fix. */
const RETRYABLE = /^(access_token_(expired|revoked|invalid)|session_(revoked|expired|idle|outdated)|client_mismatch)$/;

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
  // Without it, a tab would log out a user who is active in another.
  const idle = env.BroadcastChannel && options.idle;
  const now = () => env.Date.now();
  const page = env.location?.href;
  const base = new URL(`${options.base ?? "/auth"}/`, page).href.slice(0, -1);
  const origins = new Set([page, base, ...(options.origins ?? [])].map(url => new URL(url, page).origin));
  const name = `axum-refresh:${base}`;
  const POST = { method: "POST", credentials, cache: "no-store" };
  const sleep = ms => new Promise(resolve => env.setTimeout(resolve, ms));

  /** @type {import("./client.d.ts").AuthState} */
  let state = "unknown";
  let closed = false;
  let current = null; // the access token, its times and its claims
  let stateStamp = now(), lastStamp = stateStamp; // of the current state; the highest of all tabs
  let failures = 0, retryAt = 0, notBefore = 0, attempts = [];
  let timer = 0, lastTick = now();
  let refreshing = null, lockWait = new AbortController();
  let activeAt = now(), isNewTab = true, sharedAt = 0, warned = false, logoutPending = false, idleLogout = null;
  const waiters = new Set();

  // ---- State ----

  const nextStamp = () => lastStamp = Math.max(lastStamp + 1, now());
  const user = () => current?.claims ?? null;
  const recordActivity = () => {
    activeAt = now();
    isNewTab = false;
  };

  /** Expires a little early: a request takes time. */
  const valid = () =>
    current && now() < current.expiresAt - Math.min(5000, (current.expiresAt - current.refreshAt) / 2) ? current : null;

  /** Applies an update if it is newer. An update without a token is a logout. */
  function apply(update, reason = "refresh", share = false) {
    if (closed || update.stamp <= stateStamp) return;
    stateStamp = update.stamp;
    failures = retryAt = notBefore = 0;
    logoutPending = false;
    if (share) post({ type: "update", reason, ...update });
    const { token, expiresAt, refreshAt } = update, before = state;
    // At random: one of many tabs refreshes first, and the others receive its token.
    const due = Math.max(now() + 1000, refreshAt + env.Math.random() * (expiresAt - refreshAt) / 2);
    current = token ? { stamp: stateStamp, token, expiresAt, refreshAt, due, claims: claimsOf(token) } : null;
    if (current && before === "out") recordActivity();
    state = current ? "in" : "out";
    if (hint) rememberHint(NO_COOKIE.test(reason));
    lockWait.abort();
    if (current || before !== "out") changed(reason, !share);
    checkIdle();
    schedule();
  }

  /** A failure is not a refusal: tries again, after `wait` at the earliest. */
  function fail(reason, wait = 0) {
    if (closed) return;
    const t = now();
    notBefore = t + Math.min(wait, MAX_RETRY_AFTER);
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

  const call = (callback, value) => {
    try { callback?.(value); } catch (error) { env.console.error(error); }
  };

  // ---- The hint cookie ----

  let hintMissing = false;
  const bare = name => name.replace(/^__Secure-/, "");
  const hintName = `${hint === true ? "session-hint" : bare(`${hint}`)}=`;
  const hasHint = () => (env.document?.cookie ?? "").split("; ").some(cookie => bare(cookie).startsWith(hintName));
  // A missing hint alone proves nothing: the session may have begun before the server set hints, or on a node that does
  // not, or this page cannot see the cookie. So the server has to have said lately that there is no refresh cookie.
  const isHintTrusted = () => {
    try {
      const age = now() - env.localStorage.getItem(name);
      return age >= 0 && age < HINT_TRUST;
    } catch { return false; }
  };
  const rememberHint = noCookie => {
    hintMissing = !hasHint();
    try { noCookie ? env.localStorage.setItem(name, now()) : env.localStorage.removeItem(name); } catch { }
  };

  // ---- Other tabs ----

  const channel = env.BroadcastChannel ? new env.BroadcastChannel(name) : null;
  const post = message => closed || channel?.postMessage(message);
  if (channel) channel.onmessage = ({ data }) => {
    if (closed || !data) return;
    lastStamp = Math.max(lastStamp, data.stamp ?? 0);
    if (data.at) {
      // Opening a tab is not activity: the other tabs know the last one.
      activeAt = Math.max(data.reply && isNewTab ? 0 : activeAt, Math.min(data.at, now()));
      isNewTab = false;
      checkIdle();
      schedule();
    }
    if (data.type === "update") apply(data, data.reason);
    // The new tab's clock may be behind.
    if (data.type === "hello") post({ stamp: lastStamp, reply: true, at: idle && current && activeAt });
    // Another tab is about to log out an idle user.
    if (data.type === "idle") {
      post({ type: "active", at: activeAt });
      if (valid()) post({ type: "update", ...current });
    }
  };

  let tail = Promise.resolve();
  /** One tab at a time, or several after a timeout: the server handles races. */
  const locked = (job, stop = new AbortController()) => new Promise((resolve, reject) => {
    const locks = env.navigator?.locks;
    let started = false;
    const run = async () => {
      if (started) return;
      started = true;
      env.clearTimeout(limit);
      await job().then(resolve, reject);
    };
    const limit = env.setTimeout(() => stop.abort(), LOCK_TIMEOUT);
    stop.signal.onabort = run;
    if (!locks) tail = tail.then(run);
    else locks.request(name, { signal: stop.signal }, async () => {
      await run();
      if (channel) await sleep(LOCK_DELAY);
    }).catch(run);
  });

  // ---- Requests ----

  async function timed(ms, job) {
    const stop = new AbortController();
    const limit = env.setTimeout(() => stop.abort(), ms);
    try { return await job(stop.signal); } finally { env.clearTimeout(limit); }
  }

  const request = path => timed(REQUEST_TIMEOUT, async signal => {
    // keepalive: a tab that is closed meanwhile still gets its cookie.
    const response = await env.fetch(base + path, { ...POST, keepalive: true, headers: { accept: "application/json" }, signal });
    const text = await response.text();
    try { return { response, body: JSON.parse(text) }; } catch { return { response, body: null }; }
  }).catch(() => { throw new AuthError("offline"); });

  async function attempt() {
    const sent = now();
    attempts = attempts.filter(at => sent - at < MINUTE);
    if (attempts.length >= MAX_ATTEMPTS) return fail("too_many_attempts", attempts[0] + MINUTE - sent);
    attempts.push(sent);
    const stamp = nextStamp();
    try {
      const { response, body } = await request("/refresh");
      if (response.ok && isTokens(body)) {
        if (stamp > stateStamp) return apply(updateOf(body, sent, stamp), "refresh", true);
        // Too late, but its cookie may have replaced that of a new login.
        return current && attempt();
      }
      if (response.status === 401 && LOGGED_OUT.test(body?.code)) return apply({ stamp }, body.code, true);
      if (stamp > stateStamp) fail(errorOf(response, body).code, retryAfter(response.headers, now()));
    } catch (error) {
      if (stamp > stateStamp) fail(error.code);
    }
  }

  /** One refresh at a time, unless another tab's update arrives first. */
  const refresh = (force = false) => refreshing ??= (async () => {
    const before = stateStamp;
    if (closed || now() < (force ? notBefore : retryAt)) return;
    lockWait = new AbortController();
    await locked(async () => { if (!closed && stateStamp === before) await attempt(); }, lockWait);
  })().finally(() => {
    refreshing = null;
    schedule();
  });

  /** `eager`: waits for a refresh that is due. */
  async function getToken(eager = false, signal = null) {
    if (valid() && now() >= current.due) {
      const refreshed = refresh();
      if (eager) await refreshed;
    }
    return valid()?.token ?? new Promise((resolve, reject) => {
      const finish = token => {
        waiters.delete(check);
        env.clearTimeout(limit);
        signal?.removeEventListener("abort", abort);
        resolve(token);
        return true;
      };
      const check = () => (valid() || state === "out" || closed) && finish(valid()?.token ?? null);
      const abort = () => {
        reject(signal.reason);
        finish(null);
      };
      const limit = env.setTimeout(finish, TOKEN_TIMEOUT, null);
      waiters.add(check);
      signal?.addEventListener("abort", abort);
      if (signal?.aborted) return abort();
      if (check()) return;
      refresh();
      schedule();
    });
  }

  // ---- Timing ----

  const nextAt = () => logoutPending || state === "offline" ? retryAt : state === "out" ? Infinity : current?.due ?? 0;
  const awake = () => env.document?.visibilityState !== "hidden" || waiters.size > 0 || logoutPending;

  function schedule() {
    env.clearTimeout(timer);
    if (closed || (state === "out" && !logoutPending)) return;
    const t = now();
    let wait = MAX_TIMER;
    if (!refreshing && !idleLogout && awake()) wait = Math.min(wait, nextAt() - t);
    if (idle && current && !idleLogout) wait = Math.min(wait, activeAt + idle.after - (warned ? 0 : idle.warn ?? 0) - t);
    timer = env.setTimeout(tick, Math.max(wait, 10));
  }

  function tick() {
    if (closed) return;
    const t = now();
    if (t < lastTick) {
      // The clock was set back.
      retryAt = notBefore = 0;
      attempts = [];
      activeAt = Math.min(activeAt, t);
      if (current) current.due = t;
    }
    lastTick = t;
    checkIdle();
    if (t >= nextAt() && awake()) logoutPending ? logoutIdle() : refresh();
    schedule();
  }

  const listening = new AbortController();
  const listen = (target, events, callback) => {
    const settings = { passive: true, capture: true, signal: listening.signal };
    for (const event of events) target?.addEventListener?.(event, callback, settings);
  };
  const wake = event => {
    // A page in the back/forward cache receives no messages.
    if (event.persisted) refresh(true);
    if (hint && state === "out") {
      // A new hint is a login; an old one may be that of a dead session.
      if (hintMissing && hasHint()) refresh();
      hintMissing = !hasHint();
    }
    tick();
  };
  listen(env, ["focus", "pageshow"], wake);
  listen(env.document, ["visibilitychange"], wake);
  listen(env, ["online"], event => {
    retryAt = notBefore;
    wake(event);
  });

  // ---- Idle time ----

  const timeLeft = () => idle ? activeAt + idle.after - now() : Infinity;

  function checkIdle() {
    if (!idle) return;
    const warn = current ? timeLeft() <= (idle.warn ?? 0) : false;
    if (warn !== warned) {
      warned = warn;
      call(idle.onWarn, warn ? Math.max(0, timeLeft()) : null);
    }
    if (current && timeLeft() <= 0) logoutIdle();
  }

  /** Asks the other tabs first, and again if the computer slept meanwhile. */
  const logoutIdle = () => idleLogout ??= (async () => {
    const isIdle = () => !closed && (logoutPending || (current && timeLeft() <= 0));
    for (let asked = 0, i = 0; i < 2 && now() - asked > 2000; i++) {
      asked = now();
      post({ type: "idle" });
      await sleep(1000);
    }
    try {
      await logout("idle", isIdle);
    } catch {
      // Here at once, on the server when it can be reached.
      apply({ stamp: nextStamp() }, "idle", true);
      logoutPending = true;
      fail("idle");
    }
  })().finally(() => {
    idleLogout = null;
    schedule();
  });

  const onActivity = () => {
    const t = now();
    // Too late once the time is up.
    if (current && timeLeft() <= 0) return checkIdle();
    recordActivity();
    if (warned || t - sharedAt >= Math.min(5000, (idle?.after ?? 0) / 20)) {
      sharedAt = t;
      post({ type: "active", at: t });
    }
    if (warned) checkIdle();
  };
  if (idle) listen(env, ["pointerdown", "pointermove", "keydown", "wheel", "touchstart"], onActivity);

  // ---- API ----

  const logout = (reason, condition = () => true) => locked(async () => {
    if (!condition()) return;
    const { response, body } = await request("/logout");
    if (!response.ok) throw errorOf(response, body);
    apply({ stamp: nextStamp() }, reason, true);
  });

  async function authFetch(input, init = {}) {
    const headers = new Headers(init.headers ?? input.headers);
    // Resolved once, as `fetch` does it, so that the checked origin gets the request.
    if (!input.url) input = new URL(input, env.document?.baseURI ?? page);
    if (!origins.has(new URL(input.url ?? input).origin) || headers.has("authorization")) return env.fetch(input, init);
    // A stream is sent only once, and the body of a Request is one.
    const body = init.body ?? (input.url && !/^(GET|HEAD)$/.test(input.method) ? input : null);
    const once = body && (body === input || body.getReader || body[Symbol.asyncIterator]);
    const caller = user();
    const userChanged = () => caller && (!current || user().sub !== caller.sub);
    const send = token => {
      if (token) headers.set("authorization", `Bearer ${token}`);
      return env.fetch(input, { ...init, headers });
    };
    const token = await getToken(once, init.signal ?? input.signal);
    // One user's request is never sent as another user or as nobody.
    if (userChanged()) throw new AuthError("user_changed");
    if (!token && state !== "out") throw new AuthError("offline");
    const response = await send(token);
    if (!token || response.status !== 401 || !(await isRetryable(response))) return response;
    if (token === current?.token) await refresh(true);
    const next = valid()?.token;
    if (once || !next || next === token || userChanged()) return response;
    response.body?.cancel().catch(() => {});
    return send(next);
  }

  const api = async (method, path) => {
    const response = await authFetch(base + path, { method, credentials, cache: "no-store" });
    const body = await response.json().catch(() => null);
    if (!response.ok) throw errorOf(response, body);
    return body;
  };

  function accept(tokens, sent = now()) {
    if (!isTokens(tokens)) throw new TypeError("no access token");
    apply(updateOf(tokens, sent, nextStamp()), "login", true);
  }

  if (hint && !hasHint() && isHintTrusted()) {
    hintMissing = true;
    state = "out";
  }
  post({ type: "hello", stamp: lastStamp });
  if (state === "unknown") schedule();
  else Promise.resolve("no_session").then(changed);

  return {
    get state() { return state; },
    get expiresAt() { return current?.expiresAt ?? 0; },
    get nextAt() { return nextAt(); },
    user,
    token: () => getToken(),
    refresh: async () => {
      const before = current;
      await refresh(true);
      return current !== before && valid()?.token || null;
    },
    fetch: authFetch,
    accept: tokens => accept(tokens),
    login: (url, body, init) => locked(() => timed(LOGIN_TIMEOUT, async signal => {
      const sent = now();
      const headers = { "content-type": "application/json" };
      const response = await env.fetch(url, { ...POST, headers, body: JSON.stringify(body), signal, ...init });
      const tokens = response.ok ? await response.clone().json().catch(() => null) : null;
      if (isTokens(tokens)) accept(tokens, sent);
      return response;
    })),
    logout: () => logout("logout"),
    logoutAll: async () => {
      await api("POST", "/logout/all");
      apply({ stamp: nextStamp() }, "logout", true);
    },
    logoutOthers: async () => (await api("POST", "/logout/others")).revoked,
    sessions: async () => (await api("GET", "/sessions")).sessions,
    revokeSession: id => id === user()?.sid ? logout("logout") : api("DELETE", `/sessions/${encodeURIComponent(id)}`),
    close() {
      closed = true;
      env.clearTimeout(timer);
      listening.abort();
      channel?.close();
      lockWait.abort();
      for (const waiter of [...waiters]) waiter();
    },
  };
}

const errorOf = (response, body) => new AuthError(body?.code ?? `status_${response.status}`, response.status);
const isTokens = body => typeof body?.access_token === "string" && Number.isFinite(body.expires_in);

function updateOf(tokens, sent, stamp) {
  const lifetime = tokens.expires_in * 1000;
  const refreshIn = Math.min(lifetime, (tokens.refresh_in ?? tokens.expires_in) * 1000);
  return { stamp, token: tokens.access_token, expiresAt: sent + lifetime, refreshAt: sent + refreshIn };
}

/** Not verified. */
function claimsOf(token) {
  try {
    const text = atob(token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/"));
    return JSON.parse(new TextDecoder().decode(Uint8Array.from(text, char => char.charCodeAt(0))));
  } catch {
    return {};
  }
}

/** Reads a copy: the body is the caller's. */
async function isRetryable(response) {
  if (!response.headers.get("content-type")?.includes("problem+json")) return false;
  try { return RETRYABLE.test((await response.clone().json()).code); } catch { return false; }
}

/** In milliseconds. A date is by the server's clock, if known (RFC 9110 §10.2.3). */
function retryAfter(headers, now) {
  const text = headers.get("retry-after") ?? "";
  const wait = /^\d+$/.test(text) ? text * 1000 : Date.parse(text) - (Date.parse(headers.get("date") ?? "") || now);
  return wait > 0 ? wait : 0;
}
