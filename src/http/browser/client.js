// The browser module of axum-refresh: client.d.ts says what it does, mod.rs how.

// In milliseconds.
const REQUEST_TIMEOUT = 10_000;
const LOGIN_TIMEOUT = 60_000;
const LOCK_TIMEOUT = 11_000; // after REQUEST_TIMEOUT
const LOCK_DELAY = 50; // lets the update arrive first
const COOKIE_DELAY = 1000; // lets another tab's cookie arrive
const TOKEN_TIMEOUT = 15_000;
const MAX_TIMER = 30_000;
const MINUTE = 60_000;
const MAX_RETRY_AFTER = 3_600_000;
const MAX_ATTEMPTS = 20; // per minute
const HINT_TRUST = 600_000;

// Codes of refused refreshes and requests.
const STEP_UP = "insufficient_user_authentication";
const REASON = { [STEP_UP]: "client", session_idle: "idle" };
const LOGGED_OUT = /^(refresh_token_(missing|invalid|reused)|session_(revoked|expired|idle|outdated)|client_mismatch|user_refused|insufficient_user_authentication)$/;
const NO_COOKIE = /^(refresh_token_missing|logout)$/;
const RETRYABLE = /^(access_token_(expired|revoked|invalid)|session_(revoked|expired|idle|outdated)|client_mismatch)$/;

export class AuthError extends Error {
  constructor(code, status = 0) {
    super(code);
    Object.assign(this, { name: "AuthError", code, status });
  }
}

/** @type {typeof import("./client.d.ts").createAuth} */
export function createAuth(options = {}) {
  /** @type {any} */
  const env = options.env ?? globalThis;

  // ---- The browser and its requests ----

  const now = () => safe(() => env.Date.now()) || 0;
  const later = (job, ms) => safe(() => env.setTimeout(job, ms));
  const cancel = timer => safe(() => env.clearTimeout(timer));
  const sleep = ms => new Promise(resolve => later(resolve, ms) ?? resolve());
  const newAbort = () => safe(() => new AbortController());
  const log = error => safe(() => env.console.error(error));
  const call = (callback, value) => {
    try { callback?.(value); } catch (error) { log(error); }
  };

  const WAKE = ["focus", "pageshow", "online", "visibilitychange"];
  const ACTIVITY = ["pointerdown", "pointermove", "keydown", "wheel", "touchstart"];
  const listening = newAbort();
  const listen = (events, callback) => events.forEach(event => safe(() => {
    const target = event === "visibilitychange" ? env.document : env;
    target.addEventListener(event, callback, { passive: true, capture: true, signal: listening?.signal });
  }));

  const visibility = () => safe(() => env.document.visibilityState);
  const isPassive = init => init?.passive || visibility() === "hidden";

  // Some frames have no URL of their own.
  const page = [() => env.location.href, () => env.document.baseURI, () => env.origin].map(safe)
    .find(url => safe(() => new URL("/", url)));
  const originOf = url => safe(() => new URL(url, page).origin);
  const origin = safe(() => env.origin) ?? originOf(page);
  const { base: path = "/auth", hint, idle, onStepUp, passiveHeader } = options;
  const base = safe(() => new URL(`${path}/`, page).href.slice(0, -1), path);
  const name = `axum-refresh:${base}`;
  const origins = new Set([origin, ...[base, ...(options.origins ?? [])].map(originOf)]);
  origins.delete("null"); // opaque
  const credentials = options.credentials ?? (originOf(base) === origin ? "same-origin" : "include");
  const POST = { method: "POST", credentials, cache: "no-store" };
  const headersOf = (init, url, passive) => {
    const headers = new Headers(init);
    if (passive && (passiveHeader || originOf(url) === origin)) headers.set("auth-passive", "?1");
    return headers;
  };

  const timed = (ms, job) => new Promise((resolve, reject) => {
    const stop = newAbort();
    const limit = later(() => {
      stop?.abort();
      reject(new DOMException("no response", "AbortError"));
    }, ms);
    job(stop?.signal).then(resolve, reject).finally(() => cancel(limit));
  });

  let keepalive = true; // a closed tab still gets its cookie
  const request = (path, passive) => timed(REQUEST_TIMEOUT, async signal => {
    const headers = headersOf({ accept: "application/json" }, base, passive);
    const response = await env.fetch(base + path, { ...POST, keepalive, headers, signal });
    const text = await response.text();
    return { response, body: safe(() => JSON.parse(text)) };
  }).catch(() => {
    keepalive = !keepalive; // may be what failed
    throw new AuthError("offline");
  });

  // ---- Other tabs ----

  function openTabs() {
    const receivers = [];
    let channel = safe(() => new env.BroadcastChannel(name));
    let tail = Promise.resolve(), isStuck = false;
    if (channel) channel.onmessage = ({ data }) => data && receivers.forEach(receive => receive(data));
    return {
      isOpen: () => !!channel,
      receive: receiver => receivers.push(receiver),
      post(message) {
        try { channel?.postMessage(message); } catch { channel = null; }
      },
      close() {
        safe(() => channel.close());
        channel = null;
      },
      /** One tab at a time, or after a timeout. `onWait` gets what ends the wait. */
      locked: (job, onWait) => new Promise((resolve, reject) => {
        let running;
        const run = () => running ??= job(cancel(limit)).then(resolve, reject).then(() => channel && sleep(LOCK_DELAY));
        const limit = later(() => {
          isStuck = true;
          run();
        }, LOCK_TIMEOUT);
        onWait?.(run);
        const locks = safe(() => env.navigator.locks);
        const queue = () => { tail = tail.then(run); };
        if (!locks || isStuck) queue();
        else (async () => locks.request(name, {}, () => {
          isStuck = false;
          return run();
        }))().then(queue, queue);
      }),
    };
  }

  // ---- The hint cookie ----

  function watchHint(hint) {
    const bare = cookies => cookies.replaceAll("; __Secure-", "; ");
    const cookie = bare(`; ${hint === true ? "session-hint" : hint}=`);
    const isThere = () => safe(() => bare(`; ${env.document.cookie}`).includes(cookie), true);
    let wasThere = isThere();
    const age = now() - (safe(() => env.localStorage.getItem(name)) ?? NaN);
    return {
      isTrusted: !wasThere && age >= 0 && age < HINT_TRUST,
      remember(noCookie) {
        wasThere = isThere();
        safe(() => noCookie ? env.localStorage.setItem(name, now()) : env.localStorage.removeItem(name));
      },
      hasAppeared: () => wasThere < (wasThere = isThere()),
    };
  }

  // ---- The access token and its refreshes ----

  function keepTokens({ post, receive, locked }, hint) {
    const self = { state: "unknown", current: null }; // the access token
    let stateStamp = now(), lastStamp = stateStamp; // of the state; of all tabs
    let failures = 0, retryAt = 0, notBefore = 0, attempts = [];
    let timer, lastTick = now(), refreshing = null, endWait, isNewLogin = false;
    let isActive = true; // the user, since the last active refresh
    let asking = null, endAsking;
    const waiters = new Set();

    const nextStamp = () => lastStamp = Math.max(lastStamp + 1, now());
    const user = () => self.current?.claims ?? null;
    const valid = () => self.current && now() < self.current.usableUntil ? self.current : null;

    /** Ignores an old update. One without a token is a logout. */
    function apply(update, reason = "refresh", share) {
      if (!(update.stamp > stateStamp)) return;
      stateStamp = update.stamp;
      failures = retryAt = notBefore = 0;
      if (share) post({ ...update, type: "update", reason });
      const { token, expiresAt, refreshAt } = update, before = self.state;
      // At random, so that one tab is first.
      const half = (expiresAt - refreshAt) / 2;
      const due = Math.max(now() + 1000, refreshAt + env.Math.random() * half);
      if (isNewLogin && reason === "refresh_token_missing") safe(() => env.console.warn(COOKIE_LOST));
      isNewLogin = false;
      self.current = token ? { ...update, due, usableUntil: expiresAt - Math.min(5000, half), claims: claimsOf(token) } : null;
      self.state = token ? "in" : "out";
      if (!update.passive) isActive = false;
      if (hint) hint.remember(NO_COOKIE.test(reason));
      endWait?.();
      if (!token || !share) endAsking?.();
      if (token || before !== "out") changed(reason, !share);
      self.onUpdate?.(before);
      schedule();
    }

    /** Tries again: a failure is no refusal. */
    function fail(reason, wait = 0) {
      notBefore = now() + Math.min(wait, MAX_RETRY_AFTER);
      retryAt = notBefore + env.Math.random() * Math.min(MINUTE, 1000 * 2 ** Math.min(failures++, 6));
      if (self.state !== "out") {
        self.state = "offline";
        changed(reason);
      }
      schedule();
    }

    function changed(reason, elsewhere = false) {
      for (const waiter of [...waiters]) waiter(!timer); // without timers, nothing else ends a wait
      call(options.onChange, { state: self.state, user: user(), reason, elsewhere });
    }

    receive(data => {
      if (data.stamp > lastStamp) lastStamp = data.stamp;
      if (data.type === "update") apply(data, data.reason);
      if (data.type === "acted") isActive = true;
      // Its clock may be behind.
      if (data.type === "hello") post({ stamp: lastStamp });
      if (data.type === "idle" && valid()) post({ ...self.current, type: "update" });
    });

    async function attempt(isSecond) {
      const sent = now();
      attempts = attempts.filter(at => sent - at < MINUTE);
      if (attempts.length >= MAX_ATTEMPTS) return fail("too_many_attempts", attempts[0] + MINUTE - sent);
      attempts.push(sent);
      const stamp = nextStamp();
      // In a worker, the user is not seen.
      const passive = visibility() && (!isActive || isPassive());
      try {
        const { response, body } = await request("/refresh", passive);
        if (response.ok && isTokens(body)) {
          if (stamp > stateStamp) return apply({ ...updateOf(body, sent, stamp), passive }, "refresh", true);
          // Late, but its cookie may have replaced that of a login.
          return !self.closed && self.current && attempt();
        }
        if (response.status === 401 && LOGGED_OUT.test(body?.code)) {
          const { code } = body;
          if (code === "session_revoked" && self.current && !isSecond && stamp > stateStamp) {
            // Perhaps by a login in another tab.
            await Promise.race([sleep(COOKIE_DELAY), new Promise(resolve => { endWait = resolve; })]);
            return stamp > stateStamp && attempt(true);
          }
          if (onStepUp && REASON[code]) return { stamp, code, headers: response.headers };
          return apply({ stamp }, code, true);
        }
        if (stamp > stateStamp) fail(errorOf(response, body).code, retryAfter(response.headers, now()));
      } catch {
        if (stamp > stateStamp) fail("offline");
      }
    }

    /** Unless another tab's update arrives first. */
    const refresh = (force, active) => {
      if (active) isActive = true;
      return refreshing ??= (async () => {
        const before = stateStamp;
        if (self.closed || now() < (force ? notBefore : retryAt)) return;
        const refused = await locked(async () => stateStamp === before && attempt(), end => { endWait = end; });
        if (!refused) return;
        const { stamp, code, headers } = refused;
        while (asking) await asking;
        if (stamp > stateStamp) await ask(REASON[code], headers, () => true);
        apply({ stamp }, code, true);
      })().finally(() => {
        refreshing = null;
        schedule();
      });
    };

    /** Once at a time. An update can end it. */
    const ask = (reason, headers, isOver) => asking ??= (async () => {
      const stop = newAbort();
      const over = new Promise(resolve => { endAsking = () => isOver() && (resolve(), stop?.abort()); });
      const text = safe(() => headers.get("www-authenticate"));
      const [age, acr] = ["max_age", "acr_values"].map(name => RegExp(`\\b${name}="([^"]*)`).exec(text)?.[1]);
      const challenge = { reason, maxAge: age ? +age : null, acrValues: acr?.match(/\S+/g) ?? [], signal: stop?.signal };
      try {
        return await Promise.race([onStepUp(challenge), over]) !== false;
      } catch (error) { log(error); }
    })().finally(() => { asking = endAsking = null; });

    async function stepUp(token, headers) {
      const { sid, auth_time } = claimsOf(token);
      const isNewer = () => user()?.sid !== sid || user().auth_time > auth_time;
      return isNewer() || await ask("route", headers, () => self.closed || isNewer()) && isNewer();
    }

    /** `eager`: refreshes first if due. */
    async function get(active, eager, signal) {
      if (valid() && now() >= self.current.due) {
        const refreshed = refresh(false, active);
        if (eager) await refreshed;
      }
      return new Promise((resolve, reject) => {
        const check = end => {
          if (!valid() && !end && !self.closed && self.state !== "out") return;
          waiters.delete(check);
          cancel(limit);
          signal?.removeEventListener("abort", abort);
          resolve(valid()?.token ?? null);
        };
        const abort = () => {
          reject(signal.reason);
          check(true);
        };
        const limit = later(async () => {
          await asking;
          check(true);
        }, TOKEN_TIMEOUT);
        waiters.add(check);
        signal?.addEventListener("abort", abort);
        if (signal?.aborted) abort();
        check();
        if (waiters.has(check)) refresh(false, active);
      });
    }

    const nextAt = () => self.state === "offline" ? retryAt : self.state === "out" ? Infinity : self.current?.due ?? 0;
    const isAwake = () => waiters.size || visibility() !== "hidden";

    function schedule() {
      cancel(timer);
      if (self.closed || self.state === "out") return;
      timer = later(tick, timerOf(!refreshing && isAwake() ? nextAt() - now() : MAX_TIMER));
    }

    function tick() {
      const t = now();
      if (t < lastTick) {
        // The clock was set back.
        retryAt = notBefore = 0;
        attempts.fill(t);
        if (self.current) self.current.due = t;
      }
      lastTick = t;
      if (t >= nextAt() && isAwake()) refresh();
      schedule();
    }

    listen(WAKE, event => {
      if (event.type === "online") retryAt = notBefore;
      // The back/forward cache receives no messages.
      if (event.persisted) refresh(true, true);
      if (hint && self.state === "out" && hint.hasAppeared()) refresh();
      tick();
    });

    listen(ACTIVITY, () => {
      if (!isActive) post({ type: "acted" });
      isActive = true;
    });

    return Object.assign(self, {
      user, valid, get, refresh, stepUp, nextAt,
      accept(response, sent = now(), reason = "login") {
        if (!isTokens(response)) throw new TypeError("no access token");
        apply(updateOf(response, sent, nextStamp()), reason, true);
        isNewLogin = !response.refresh_token;
      },
      drop: reason => apply({ stamp: nextStamp() }, reason, true),
      start() {
        post({ type: "hello", stamp: lastStamp });
        if (hint?.isTrusted) {
          self.state = "out";
          Promise.resolve("no_session").then(changed);
        } else timer = later(tick, 10) ?? tick();
      },
      close() {
        self.closed = true;
        stateStamp = Infinity;
        cancel(timer);
        listening?.abort();
        endWait?.();
        endAsking?.();
        for (const waiter of [...waiters]) waiter();
      },
    });
  }

  // ---- Idle time ----

  function watchIdle({ isOpen, post, receive }, tokens, { after, warn = 0, onWarn }) {
    let activeAt = now(), isNewTab = true, sharedAt = 0, warned = false, timer;
    let loggingOut = null, isPending = false;
    const timeLeft = () => activeAt + after - now();
    const isOver = () => isOpen() && (isPending || tokens.current && timeLeft() <= 0);
    const recordActivity = at => {
      activeAt = at;
      isNewTab = false;
    };

    function check() {
      cancel(timer);
      activeAt = Math.min(activeAt, now());
      const isDue = !!tokens.current && timeLeft() <= warn;
      if (isDue !== warned) {
        warned = isDue;
        call(onWarn, warned ? Math.max(0, timeLeft()) : null);
      }
      if (isOver()) expire();
      else if (tokens.current && isOpen()) timer = later(check, timerOf(timeLeft() - (warned ? 0 : warn)));
    }

    /** Asks the other tabs first, and again after a sleep. */
    const expire = () => loggingOut ??= (async () => {
      const ask = async () => {
        const asked = now();
        post({ type: "idle" });
        await sleep(1000);
        return now() - asked;
      };
      if (await ask() > 2000) await ask();
      try {
        await logOut("idle", isOver);
      } catch {
        // Here at once, on the server later.
        tokens.drop("idle");
        isPending = true;
      }
    })().finally(() => later(() => {
      loggingOut = null;
      check();
    }, isPending ? MAX_TIMER : 0));

    tokens.onUpdate = before => {
      isPending = false;
      if (tokens.current && before === "out") recordActivity(now());
      check();
    };
    receive(({ type, at, reply }) => {
      if (at) {
        // Opening a tab is no activity.
        recordActivity(Math.max(reply && isNewTab ? 0 : activeAt, at));
        check();
      }
      if (type === "hello" && tokens.current) post({ reply: true, at: activeAt });
      if (type === "idle") post({ type: "active", at: activeAt });
    });
    listen(WAKE, check);
    listen(ACTIVITY, () => {
      if (tokens.current && timeLeft() <= 0) return check();
      recordActivity(now());
      if (warned || activeAt - sharedAt >= Math.min(5000, after / 20)) post({ type: "active", at: sharedAt = activeAt });
      if (warned) check();
    });
  }

  // ---- The API ----

  const tabs = openTabs();
  const tokens = keepTokens(tabs, hint && watchHint(hint));
  const { user, valid, refresh, stepUp, accept, drop } = tokens;
  // Without messages, the user may be active in another tab.
  if (idle && tabs.isOpen()) watchIdle(tabs, tokens, idle);
  tokens.start();

  async function authFetch(input, init = {}) {
    // Resolved once, so that the checked origin gets the request.
    if (!input.url) input = new URL(input, safe(() => env.document.baseURI) ?? page);
    const url = input.url ?? input;
    const newHeaders = passive => headersOf(init.headers ?? input.headers, url, passive);
    if (!origins.has(originOf(url)) || newHeaders().has("authorization")) return env.fetch(input, init);
    // A stream is sent once.
    const { body } = init;
    const once = body ? body.getReader || body[Symbol.asyncIterator] : input.url && !/^(GET|HEAD)$/.test(input.method);
    const caller = user();
    const userChanged = () => caller && user()?.sub !== caller.sub;
    const active = !isPassive(init);
    let token = await tokens.get(active, once, init.signal ?? input.signal), response;
    if (userChanged()) throw new AuthError("user_changed");
    if (!token && tokens.state !== "out") throw new AuthError("offline");
    const send = async () => {
      const headers = newHeaders(isPassive(init));
      if (token) headers.set("authorization", `Bearer ${token}`);
      response = await env.fetch(input, { ...init, headers });
    };
    const sendAgain = () => {
      const next = valid()?.token;
      if (once || !next || next === token || userChanged()) return;
      response.body?.cancel().catch(() => {});
      token = next;
      return send();
    };
    await send();
    if (token && RETRYABLE.test(await codeOf(response))) {
      if (token === tokens.current?.token) await refresh(true, active);
      await sendAgain();
    }
    if (token && onStepUp && await codeOf(response) === STEP_UP && await stepUp(token, response.headers)) await sendAgain();
    return response;
  }

  const api = async (method, path) => {
    const response = await authFetch(base + path, { method, credentials, cache: "no-store" });
    const body = await jsonOf(response);
    if (!response.ok) throw errorOf(response, body);
    return body;
  };

  const logIn = (url, body, init, reason, sub) => tabs.locked(() => timed(init?.signal ? 2 ** 31 - 1 : LOGIN_TIMEOUT, async signal => {
    const sent = now();
    const headers = { "content-type": "application/json" };
    const response = await env.fetch(url, { ...POST, headers, body: JSON.stringify(body), signal, ...init });
    const tokens = response.ok && await jsonOf(response.clone());
    if (isTokens(tokens)) {
      if (sub && claimsOf(tokens.access_token).sub !== sub) throw new AuthError("user_changed");
      accept(tokens, sent, reason);
    }
    return response;
  }));

  async function logOut(reason, condition) {
    await tabs.locked(async () => {
      if (condition && !condition()) return;
      const { response, body } = await request("/logout");
      if (!response.ok) throw errorOf(response, body);
      drop(reason);
    });
  }

  return {
    get state() { return tokens.state; },
    get expiresAt() { return tokens.current?.expiresAt ?? 0; },
    get nextAt() { return tokens.nextAt(); },
    user,
    token: init => tokens.get(!isPassive(init)),
    refresh: async init => {
      const before = tokens.current;
      await refresh(true, !isPassive(init));
      return tokens.current !== before && valid()?.token || null;
    },
    fetch: authFetch,
    accept,
    login: (url, body, init) => logIn(url, body, init, "login"),
    reauthenticate: (url, body, init) => logIn(url, body, init, "reauthentication", user()?.sub),
    logout: () => logOut("logout"),
    logoutAll: async () => {
      await api("POST", "/logout/all");
      drop("logout");
    },
    logoutOthers: async () => (await api("POST", "/logout/others")).revoked,
    sessions: async () => (await api("GET", "/sessions")).sessions,
    revokeSession: id => id === user()?.sid ? logOut("logout") : api("DELETE", `/sessions/${encodeURIComponent(id)}`),
    close() {
      tokens.close();
      tabs.close();
    },
  };
}

/** Whatever an API throws counts as "not there". */
function safe(job, otherwise) {
  try { return job(); } catch { return otherwise; }
}

const COOKIE_LOST = "axum-refresh: the refresh cookie did not come back: check its path, Secure, and across sites SameSite=None, credentials and third-party cookies";
const timerOf = wait => Math.min(Math.max(wait, 100), MAX_TIMER) || MAX_TIMER;
const errorOf = (response, body) => new AuthError(body?.code ?? `status_${response.status}`, response.status);
const isTokens = body => typeof body?.access_token === "string" && Number.isFinite(body.expires_in);

const updateOf = ({ access_token: token, expires_in, refresh_in = expires_in }, sent, stamp) =>
  ({ stamp, token, expiresAt: sent + expires_in * 1000, refreshAt: sent + Math.min(expires_in, refresh_in) * 1000 });

/** Not verified. */
const claimsOf = token => safe(() => {
  const text = atob(token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/"));
  return JSON.parse(new TextDecoder().decode(Uint8Array.from(text, char => char.charCodeAt(0))));
}, {});

const jsonOf = response => response.json().catch(() => null);

const codeOf = async response => response.status === 401
  && /problem\+json/.test(response.headers.get("content-type")) && (await jsonOf(response.clone()))?.code;

/** A date is by the server's clock. */
function retryAfter(headers, now) {
  const text = headers.get("retry-after") ?? "";
  const wait = /^\d+$/.test(text) ? text * 1000 : Date.parse(text) - (Date.parse(headers.get("date") ?? "") || now);
  return wait > 0 ? wait : 0;
}
