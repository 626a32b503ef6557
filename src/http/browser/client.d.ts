/**
 * Keeps a user of axum-refresh logged in, in every tab of a browser.
 *
 * The access token is kept in memory only, and no script can read the refresh cookie. All tabs of a browser share one
 * refresh (Web Locks) and notify each other of new tokens and of a logout (BroadcastChannel). Where the browser lacks
 * either of these, everything works the same with more requests. A browser API that throws or does not respond, for
 * example in a sandboxed frame or with blocked cookies, is treated as missing.
 *
 * The token is refreshed at a random moment shortly after the time that the server has set (`refresh_in`). A hidden
 * page refreshes only if a caller waits for a token. The module also checks whether a refresh is due when the page
 * becomes visible, when the network is back and after the computer was asleep.
 *
 * A refresh that the module makes by itself is passive: it has the header `Auth-Passive: ?1`, and the server does not
 * count it as the user's activity. It is active if the user has done something (pointer, wheel, touch, keyboard) in any
 * tab since the last active refresh, or has just opened the page. Every refresh of a hidden page is passive. Where there
 * is no document, as in a worker, the user cannot be observed, and refreshes are active.
 *
 * The state becomes `out` only by a logout, or if the server refuses a refresh with 401 and one of its own codes. After
 * `session_revoked` the module waits a second and refreshes once more: another tab may have authenticated again, so that
 * there is a new cookie.
 * After any other failure the module tries again: it waits for `Retry-After` (at most one hour) plus a random part of
 * a time that doubles up to a minute, and it sends at most 20 refreshes per minute.
 */
export function createAuth(options?: AuthOptions): Auth;

/**
 * - `unknown`: the server has not responded yet.
 * - `in`: a user is logged in.
 * - `out`: no user is logged in.
 * - `offline`: the last refresh failed, and another one is planned. The current token may still be valid.
 */
export type AuthState = "unknown" | "in" | "out" | "offline";

/** The claims of an access token, decoded but not verified. */
export interface Claims {
  /** The user's id. */
  sub: string;
  /** The session's id. */
  sid: string;
  /** The generation of the refresh token that the access token was issued for. */
  gen: number;
  iat: number;
  exp: number;
  jti: string;
  iss: string;
  aud: string;
  /** When the user authenticated, in seconds since 1970. */
  auth_time?: number;
  /** How strong the authentication was (RFC 9470), if the app says so. */
  acr?: string;
  /** How the user authenticated (RFC 8176), if the app says so. */
  amr?: string[];
  /** Who acts as this user, such as a member of the support staff (RFC 8693). */
  act?: { sub: string; sid?: string; [name: string]: unknown };
  /** The app's own claims. */
  [name: string]: unknown;
}

/** The tokens in the response to a login. */
export interface Tokens {
  access_token: string;
  /** How long the access token is valid, in seconds. */
  expires_in: number;
  /** When to refresh, in seconds. Default: `expires_in`. */
  refresh_in?: number;
  /** Present if the server returns refresh tokens in the body rather than in a cookie. The module does not keep it. */
  refresh_token?: string;
}

export interface Change {
  state: AuthState;
  /** The same as {@link Auth.user}. If `sub` has changed, the page shows another user's data: reload it. */
  user: Claims | null;
  /**
   * The cause: `login`, `reauthentication`, `refresh`, `logout`, `idle` or `no_session` (no hint cookie when the page was loaded, and the
   * server has found or left no refresh cookie within the last ten minutes); the server's code if it refused a refresh;
   * `offline`, `status_502`, `too_many_attempts` and the like if a refresh failed.
   */
  reason: string;
  /** Whether the change was made in another tab. */
  elsewhere: boolean;
}

/** What {@link AuthOptions.onStepUp} gets. */
export interface Challenge {
  /**
   * - `route`: a request was refused.
   * - `client`: a refresh was refused, because the session is bound to its client, and the client has changed.
   * - `idle`: a refresh was refused, because the session was idle for too long.
   */
  reason: "route" | "client" | "idle";
  /** How many seconds old the authentication may be, or null. */
  maxAge: number | null;
  /** The values of `acr` of which one is required, the preferred one first. Empty if any will do. */
  acrValues: string[];
  /**
   * Aborts when the challenge no longer applies: the user has authenticated in another tab, or is logged out, or the
   * module was closed. Close the dialog then. Undefined in a browser without `AbortController`.
   */
  signal?: AbortSignal;
}

/** A request is passive if `passive` is true or the page is hidden: it does not count as the user's activity. */
export interface PassiveOptions {
  passive?: boolean;
}

export interface IdleOptions {
  /** The user is logged out after this many milliseconds without activity in any tab. */
  after: number;
  /** How many milliseconds before the logout `onWarn` is called. Default: 0. */
  warn?: number;
  /**
   * Called with the milliseconds that are left when the warning is due, and with null when it no longer applies: the
   * user is active again, or logged out.
   */
  onWarn?(left: number | null): void;
}

export interface AuthOptions {
  /**
   * The path or URL where the router is mounted, relative to the page's URL (not to `<base href>`). In a frame without
   * a usable URL (`about:srcdoc`, `about:blank`, `blob:`), relative to the document's base URL, which is that of the
   * embedding page. Default: `/auth`.
   */
  base?: string;
  /**
   * The `credentials` of requests to `base`. Default: `include` if `base` is on another origin than the page (as it is
   * for every page with an opaque origin, such as a sandboxed frame), and `same-origin` otherwise.
   */
  credentials?: RequestCredentials;
  /** More origins that receive the access token. Default: none; only the page's own origin and that of `base` do. */
  origins?: string[];
  /** Called after every change of the state or the token. */
  onChange?(change: Change): void;
  /**
   * Logs out a user who is inactive. It works only while a tab is open, so the real limit is the server's
   * `idle_timeout`. Opening a tab does not count as activity while another tab is open. Requires BroadcastChannel and
   * is off without it. Default: off.
   */
  idle?: IdleOptions;
  /**
   * Called when the server requires a recent or a stronger authentication (401 `insufficient_user_authentication`), and
   * when it refuses a refresh because the client has changed or the session was idle. Show a dialog, call
   * {@link Auth.reauthenticate}, and return when that is done. The refused request is then sent once more, with its body
   * unless that is a stream, and the second response is returned, whatever it is.
   *
   * If the hook returns `false`, throws, or there is no newer authentication afterwards, the caller gets the refusal. For
   * the reason `route` the user stays logged in. For `client` and `idle` the state is then `out`, in all tabs, with the
   * server's code as the reason.
   *
   * In each tab there is one challenge at a time, and all requests that are refused meanwhile share it. Requests that need a new
   * token wait for it as long as it takes. So use plain `fetch` within the hook: {@link Auth.fetch} may wait for the
   * hook.
   *
   * From another origin, `maxAge` and `acrValues` are known only if the server exposes `WWW-Authenticate` by CORS.
   *
   * Default: none; the caller gets the refusal, and a refused refresh logs out.
   */
  onStepUp?(challenge: Challenge): unknown;
  /**
   * Whether passive requests to other origins (`origins`, or that of `base`) have the header `Auth-Passive`. The server
   * has to allow it by CORS, or else the browser refuses these requests. Requests to the page's own origin always have
   * it. Default: false.
   */
  passiveHeader?: boolean;
  /**
   * Whether the server sets the hint cookie (setting `hint_cookie`). If so, a page without the cookie makes no
   * request if, within the last ten minutes, the server has found no refresh cookie or the user has logged out. The
   * module keeps the time of that in localStorage; where it cannot, every page makes a request. Sessions from before
   * the setting was switched on are therefore found. In a realm, or with a refresh cookie of another name, it is the name
   * of the hint cookie (`Auth::hint_cookie_name`): `session-hint-staff` in the realm `staff`. Default: false.
   */
  hint?: boolean | string;
  /** Replaces the browser's globals, for tests. Default: `globalThis`. */
  env?: object;
}

/** The code is one of the server's, `status_…` for a response without one, `offline` or `user_changed`. */
export class AuthError extends Error {
  constructor(code: string, status?: number);
  readonly code: string;
  /** The status of the response; 0 if there was none. */
  readonly status: number;
}

export interface Auth {
  readonly state: AuthState;
  /** When the access token expires, in milliseconds since 1970; 0 without a token. */
  readonly expiresAt: number;
  /** When the next refresh is planned, in milliseconds since 1970; Infinity if none is. */
  readonly nextAt: number;
  /** The claims of the access token, or null. */
  user(): Claims | null;
  /** Returns a valid access token; null if no user is logged in or no token can be had within 15 seconds. */
  token(options?: PassiveOptions): Promise<string | null>;
  /** Refreshes now, for example after the user's role has changed. Returns null if there is no newer token. */
  refresh(options?: PassiveOptions): Promise<string | null>;
  /**
   * `fetch` with the access token. If the server refuses the token, the module refreshes and sends the request once
   * more; the second response is returned, whatever it is. A request whose body is a stream (the body of a `Request`
   * is one) is sent only once, so a refresh that is due comes first. If no user is logged in, the request is sent
   * without a token.
   *
   * If the server requires another authentication, {@link AuthOptions.onStepUp} is called, and the request is sent once
   * more afterwards.
   *
   * With `passive`, and whenever the page is hidden, the request has the header `Auth-Passive: ?1`: it does not count as
   * the user's activity. Use it for polling.
   *
   * Relative URLs are resolved against the document's base URL, as `fetch` does. Requests to other origins, and
   * requests with an `Authorization` header, are sent unchanged.
   *
   * Rejects as `fetch` does. Rejects with an {@link AuthError}, and sends nothing, if no token can be had within 15
   * seconds (`offline`), or if the user has logged out or another user has logged in meanwhile (`user_changed`).
   */
  fetch(input: RequestInfo | URL, init?: RequestInit & PassiveOptions): Promise<Response>;
  /**
   * Sends a login to the app's own route and takes the tokens from the response. The request is a POST with `body` as
   * JSON; the members of `init` replace these defaults, `headers` the content type too. Resolves to the response,
   * whether the login succeeded or not (a 401, for example): check `response.ok`. A response without an access token,
   * for example because a second factor is required, changes nothing.
   *
   * Refreshes wait up to 11 seconds for the login, in all tabs (in this tab without Web Locks), because the response
   * to a refresh could restore the previous session's cookie. If that may have happened, the module refreshes again
   * and shows the user whom the cookie belongs to.
   *
   * Rejects as `fetch` does, and with an `AbortError` after 60 seconds unless `init` has a signal.
   */
  login(url: string | URL, body?: unknown, init?: RequestInit): Promise<Response>;
  /**
   * Sends a new authentication of the same user to the app's own route, like {@link Auth.login}, and with the same
   * guarantees: refreshes of all tabs wait for it, and all tabs take its tokens. `Change.reason` is `reauthentication`.
   *
   * Rejects with an {@link AuthError} `user_changed` if the tokens are another user's, and does not take them. The app's
   * route has to refuse that itself before it sets a cookie: with another user's cookie, the next refresh makes all tabs
   * that user's.
   */
  reauthenticate(url: string | URL, body?: unknown, init?: RequestInit): Promise<Response>;
  /** Takes the tokens of a login that was sent without {@link Auth.login}. */
  accept(tokens: Tokens): void;
  /**
   * Revokes this session and logs out all tabs. Rejects if the server cannot be reached; then nothing has changed.
   */
  logout(): Promise<void>;
  /** Revokes all sessions of the user, on all devices. */
  logoutAll(): Promise<void>;
  /** Revokes all other sessions of the user and returns how many there were. */
  logoutOthers(): Promise<number>;
  /** Lists the user's sessions, most recent activity first. */
  sessions(): Promise<Session[]>;
  /** Revokes one of the user's sessions. The current session's id logs this browser out. */
  revokeSession(id: string): Promise<void>;
  /** Stops all timers and listeners. Does not log out. */
  close(): void;
}

/** A session in the list. Times are RFC 3339. */
export interface Session {
  id: string;
  /** The name that the app gave the device at login. */
  label: string | null;
  user_agent: string | null;
  ip: string | null;
  created_at: string;
  last_seen_at: string;
  expires_at: string;
  /** Whether this is the session of the request. */
  current: boolean;
}
