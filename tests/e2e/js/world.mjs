// A simulated browser: a manual clock, tabs that share locks, channels and a cookie jar, and a server.

/** The module under test. */
export const MODULE = new URL("../../../src/http/browser/client.js", import.meta.url);

const { createAuth } = await import(MODULE);

const ORIGIN = "https://app.example";
const HINT = "__Secure-session-hint=1";
/** Under this name the module remembers when the server last found no refresh cookie. */
export const MEMORY = `axum-refresh:${ORIGIN}/auth`;
/** Routes whose responses set or clear the refresh cookie. */
const SETS_COOKIE = /^\/(login|auth\/(refresh|reauth|logout))$/;
const jwt = claims => ["e30", Buffer.from(JSON.stringify(claims)).toString("base64url"), "signature"].join(".");

/** Runs everything that does not wait for time. */
export async function settled() {
  for (let i = 0; i < 8; i++) await new Promise(resolve => setImmediate(resolve));
}

export class World {
  now = Date.UTC(2030, 0, 1);
  random = 0.5;
  timers = new Map();
  tabs = [];
  locks = new Map();
  requests = [];
  /** The session of the refresh cookie. */
  cookie = null;
  sessions = new Map();
  life = 900;
  back = 800;
  count = 0;
  hintCookie = "";
  /** Whether the server sets the hint cookie. */
  hints = false;
  /** After how many milliseconds without a request that counts as activity the server refuses a session. */
  idleAfter = Infinity;
  /** What sessions are bound to. A refresh by another client is refused until the user authenticates again. */
  client = "home";
  /** `() => [there, back]`: how long a request and its response travel, in milliseconds. By default, no time. */
  latency = null;
  /** How often a late response has replaced the refresh cookie by that of a session that is revoked. */
  overwritten = 0;
  /** What the pages of this origin have stored. */
  storage = new Map();
  /** Replaces responses of the server: `request => Response | undefined`. */
  instead = () => undefined;

  // ---- time ----

  setTimeout = (job, ms = 0, ...args) => {
    const id = ++this.count;
    this.timers.set(id, { at: this.now + ms, job, args });
    return id;
  };

  /** Lets time pass, and runs the timers in order. */
  async pass(ms) {
    await settled();
    const end = this.now + ms;
    for (;;) {
      const [next] = [...this.timers].filter(([, timer]) => timer.at <= end).sort(([a, x], [b, y]) => x.at - y.at || a - b);
      if (!next) break;
      const [id, { at, job, args }] = next;
      this.timers.delete(id);
      this.now = Math.max(this.now, at);
      job(...args);
      await settled();
    }
    this.now = end;
  }

  /** The computer sleeps: the clock continues, timers do not. */
  sleep(ms) {
    this.now += ms;
    for (const timer of this.timers.values()) timer.at += ms;
  }

  // ---- the server ----

  logIn(user, more) {
    const sid = `s${++this.count}`;
    this.sessions.set(sid, { user, gen: 1, authTime: Math.floor(this.now / 1000), activeAt: this.now, client: this.client, ...more });
    this.cookie = sid;
    this.setHint();
    return this.tokens(sid);
  }

  setHint() {
    if (this.hints) this.hintCookie = HINT;
  }

  tokens(sid) {
    const { user, gen, authTime, acr } = this.sessions.get(sid);
    const claims = { sub: user, sid, gen, jti: `${++this.count}`, exp: Math.floor(this.now / 1000) + this.life, auth_time: authTime, acr };
    return { access_token: jwt(claims), token_type: "Bearer", expires_in: this.life, refresh_in: this.back };
  }

  serve(request) {
    const { path } = request;
    const instead = this.instead(request);
    if (instead !== undefined) return instead;
    if (path === "/auth/refresh") {
      const session = this.sessions.get(this.cookie);
      if (!session) return refusal(401, this.cookie ? "session_revoked" : "refresh_token_missing");
      if (this.isIdle(session)) return refusal(401, "session_idle");
      if (session.client && session.client !== this.client) return insufficient('acr_values="aal2"');
      this.recordActivity(session, request);
      session.gen++;
      this.setHint();
      return json(200, this.tokens(this.cookie));
    }
    if (path === "/auth/logout") {
      this.sessions.delete(this.cookie);
      this.cookie = null;
      this.hintCookie = "";
      return new Response(null, { status: 204 });
    }
    if (path === "/auth/reauth") {
      const old = this.sessions.get(this.cookie);
      if (!old) return refusal(401, "session_revoked");
      const { user = old.user, acr, wrong } = JSON.parse(request.body);
      if (wrong) return refusal(401, "bad_credentials");
      this.sessions.delete(this.cookie);
      return json(200, this.logIn(user, { acr }));
    }
    if (path === "/login") return json(200, this.logIn(JSON.parse(request.body).user));
    const { authorization } = request;
    if (!authorization) return refusal(401, "access_token_missing");
    const claims = JSON.parse(Buffer.from(authorization.split(".")[1], "base64url"));
    if (!this.sessions.has(claims.sid)) return refusal(401, "access_token_revoked");
    if (claims.exp * 1000 <= this.now) return refusal(401, "access_token_expired");
    const session = this.sessions.get(claims.sid);
    if (this.isIdle(session)) return refusal(401, "session_idle");
    this.recordActivity(session, request);
    if (path === "/recent" && this.now / 1000 - claims.auth_time > 300) return insufficient('max_age="300"');
    if (path === "/strong" && !/^aal[23]$/.test(claims.acr)) return insufficient('acr_values="aal2 aal3", max_age="300"');
    if (path === "/auth/logout/all") {
      this.sessions.clear();
      this.cookie = null;
      return new Response(null, { status: 204 });
    }
    if (path === "/auth/logout/others") return json(200, { revoked: 2 });
    if (path === "/auth/sessions") return json(200, { sessions: [{ id: claims.sid, current: true }] });
    if (path.startsWith("/auth/sessions/")) return this.sessions.delete(path.slice(15)) ? new Response(null, { status: 204 }) : refusal(404, "session_not_found");
    return json(200, { user: claims.sub, jti: claims.jti });
  }

  isIdle({ activeAt }) {
    return this.now - activeAt > this.idleAfter;
  }

  recordActivity(session, { headers }) {
    if (headers.get("auth-passive") !== "?1") session.activeAt = this.now;
  }

  /** The request has the cookie of when it was sent, and the response sets its own when it arrives. */
  async travel(request) {
    const [there, back] = this.latency();
    const wait = ms => new Promise(resolve => this.setTimeout(resolve, ms));
    const sent = this.cookie;
    await wait(there);
    const before = this.cookie;
    this.cookie = sent;
    const answer = this.serve(request);
    const set = this.cookie;
    this.cookie = before;
    await wait(back);
    if (SETS_COOKIE.test(request.path) && answer.ok) {
      this.cookie = set;
      if (set && !this.sessions.has(set)) this.overwritten++;
    }
    return answer;
  }

  fetch = async (input, init = {}) => {
    const headers = new Headers(init.headers ?? input.headers);
    const url = new URL(input.url ?? input, ORIGIN);
    const path = url.origin === ORIGIN ? url.pathname : url.href;
    const request = { path, method: init.method ?? input.method ?? "GET", authorization: headers.get("authorization"), headers, at: this.now, body: init.body, init };
    this.requests.push(request);
    let drop;
    const aborted = new Promise((_, reject) => { drop = () => reject(new DOMException("aborted", "AbortError")); });
    aborted.catch(() => {});
    init.signal?.addEventListener("abort", drop);
    if (init.signal?.aborted) drop();
    // The response takes a moment, so that requests can race.
    const answer = Promise.resolve().then(() => this.latency ? this.travel(request) : this.serve(request)).then(answer => {
      if (answer instanceof Error) throw answer;
      return answer;
    });
    return await Promise.race([answer, aborted]);
  };

  get refreshes() {
    return this.requests.filter(request => request.path === "/auth/refresh");
  }

  // ---- tabs ----

  /**
   * A tab. `without` names what its browser lacks; `hidden` whether it is in the background; `baseURI` its `<base href>`;
   * `alter` changes its globals.
   */
  tab({ without = [], hidden = false, baseURI = ORIGIN, alter, ...options } = {}) {
    const tab = new Tab(this, without, hidden, baseURI, alter, options);
    this.tabs.push(tab);
    return tab;
  }

  request = async (name, { signal }, job) => {
    const waiting = this.locks.get(name) ?? [];
    this.locks.set(name, waiting);
    const entry = {};
    const turn = new Promise((resolve, reject) => {
      entry.grant = resolve;
      signal?.addEventListener("abort", () => {
        const at = waiting.indexOf(entry);
        if (at > 0) {
          waiting.splice(at, 1);
          reject(new DOMException("waited too long", "AbortError"));
        }
      });
      if (signal?.aborted) reject(new DOMException("waited too long", "AbortError"));
    });
    waiting.push(entry);
    if (waiting[0] === entry) entry.grant();
    await turn;
    try {
      return await job({ name });
    } finally {
      waiting.shift();
      waiting[0]?.grant();
    }
  };
}

class Tab {
  changes = [];
  channels = [];
  /** The pending messages of a frozen tab, or null. `late` has its pending timers. */
  frozen = null;
  late = [];

  constructor(world, without, hidden, baseURI, alter, options) {
    this.world = world;
    const tab = this;
    this.document = Object.assign(this.target(), { visibilityState: hidden ? "hidden" : "visible", baseURI });
    Object.defineProperty(this.document, "cookie", { get: () => world.hintCookie, configurable: true });
    const env = Object.assign(this.target(), {
      Date: { now: () => world.now },
      Math: { random: () => world.random },
      console,
      document: this.document,
      location: new URL(ORIGIN),
      navigator: { locks: { request: world.request } },
      localStorage: {
        getItem: key => world.storage.get(key) ?? null,
        setItem: (key, value) => world.storage.set(key, String(value)),
        removeItem: key => world.storage.delete(key),
      },
      // As in a browser, relative URLs are relative to the document's base.
      fetch: (input, init) => world.fetch(input.url ? input : new URL(input, this.document.baseURI), init),
      setTimeout: (job, ms, ...args) => world.setTimeout(() => this.frozen ? this.late.push(() => job(...args)) : job(...args), ms),
      clearTimeout: id => world.timers.delete(id),
      BroadcastChannel: class {
        constructor(name) {
          this.name = name;
          this.tab = tab;
          tab.channels.push(this);
        }
        postMessage(data) {
          const copy = structuredClone(data);
          const others = world.tabs.flatMap(other => other.channels).filter(other => other !== this && other.name === this.name);
          for (const other of others) other.tab.hear(other, copy);
        }
        close() {
          tab.channels = tab.channels.filter(channel => channel !== this);
        }
      },
    });
    for (const name of without) name === "locks" ? delete env.navigator.locks : delete env[name];
    alter?.(env);
    this.env = env;
    this.auth = createAuth({ env, onChange: change => this.changes.push(change), ...options });
  }

  target() {
    const listeners = new Map();
    return {
      listeners,
      addEventListener(event, heard, { signal }) {
        listeners.set(event, [...(listeners.get(event) ?? []), heard]);
        signal?.addEventListener("abort", () => listeners.delete(event));
      },
    };
  }

  hear(channel, data) {
    if (this.frozen) return void this.frozen.push([channel, data]);
    setImmediate(() => channel.onmessage?.({ data }));
  }

  /** Stops all scripts of this tab: timers are late, messages wait. */
  freeze() {
    this.frozen = [];
  }

  /** In the worse of the two orders: late timers run before the messages arrive. */
  async thaw() {
    const missed = this.frozen;
    this.frozen = null;
    for (const job of this.late.splice(0)) job();
    for (const [channel, data] of missed) this.hear(channel, data);
    await settled();
  }

  async fire(event, more = {}) {
    const target = event === "visibilitychange" ? this.document : this.env;
    for (const heard of target.listeners.get(event) ?? []) heard({ type: event, ...more });
    await settled();
  }

  async show(visible) {
    this.document.visibilityState = visible ? "visible" : "hidden";
    await this.fire("visibilitychange");
  }

  get state() {
    return this.auth.state;
  }

  get reasons() {
    return this.changes.map(change => `${change.state} ${change.reason}${change.elsewhere ? " elsewhere" : ""}`);
  }
}

export const json = (status, body, headers = {}) =>
  new Response(JSON.stringify(body), { status, headers: { "content-type": "application/json", ...headers } });

export const refusal = (status, code, headers = {}) =>
  json(status, { type: "about:blank", title: "x", status, code }, { "content-type": "application/problem+json", ...headers });

/** The refusal of a route that requires another authentication (RFC 9470). */
export const insufficient = params =>
  refusal(401, "insufficient_user_authentication", { "www-authenticate": `Bearer error="insufficient_user_authentication", ${params}` });

export const lost = () => new TypeError("network error");

/** A world in which alice is logged in, and one tab is open. */
export async function loggedIn(options = {}, world = new World()) {
  world.logIn("alice");
  const tab = world.tab(options);
  await world.pass(100);
  return { world, tab, auth: tab.auth };
}
