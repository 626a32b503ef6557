/**
 * Keeps a user of axum-refresh logged in, in every tab of a browser.
 *
 * The access token is in memory alone and the refresh cookie out of reach of every script. All tabs of a browser share
 * one refresh (Web Locks) and tell each other of new tokens and of a logout (BroadcastChannel); without one or the other
 * it works all the same, with more requests. A token is renewed when the server said it should be, at a random moment
 * shortly after; not while the page is hidden, unless somebody wants a token; when the page is looked at again, when the
 * network is back, and after a sleep.
 *
 * Only a refresh that the server refuses with 401 and one of its own codes ends in `out`. Whatever else goes wrong is
 * tried again: after `Retry-After` (an hour at most) and a random part of a time that doubles up to a minute, and never
 * more than 20 times in a minute.
 */
export function createAuth(options?: AuthOptions): Auth;

/**
 * - `unknown`: the server was not asked yet.
 * - `in`: somebody is logged in.
 * - `out`: nobody is.
 * - `offline`: the last attempt to renew the token failed, and another follows. The token that there is can still be good.
 */
export type AuthState = "unknown" | "in" | "out" | "offline";

/** The claims of an access token: read, not verified. */
export interface Claims {
  /** The user. */
  sub: string;
  /** The session. */
  sid: string;
  /** The generation of the refresh token that it was issued for. */
  gen: number;
  iat: number;
  exp: number;
  jti: string;
  iss: string;
  aud: string;
  /** The app's own. */
  [name: string]: unknown;
}

/** What a login answers. */
export interface Tokens {
  access_token: string;
  /** In seconds. */
  expires_in: number;
  /** In seconds. */
  refresh_in?: number;
}

export interface Change {
  state: AuthState;
  /** As {@link Auth.user}. Where `sub` has changed, what the page shows is somebody else's: load it anew. */
  user: Claims | null;
  /**
   * `login`, `refresh`, `logout`, `idle`, `no_session` (no hint cookie at the start); the server's code where a refresh was
   * refused; `offline`, `status_502`, `too_many_attempts` and the like where it failed.
   */
  reason: string;
  /** Whether it happened in another tab. */
  elsewhere: boolean;
}

export interface IdleOptions {
  /** After how many milliseconds without a sign of the user, in any tab, the session is ended. */
  after: number;
  /** How many milliseconds before that `onWarn` is called. Default: 0. */
  warn?: number;
  /**
   * With the milliseconds that are left when it gets late, and with null when there is time again, or nobody logged in.
   */
  onWarn?(left: number | null): void;
}

export interface AuthOptions {
  /** Where the router is mounted; relative to the page's address, whatever `<base href>` says. Default: `/auth`. */
  base?: string;
  /** Whether requests to `base` carry cookies. Default: `same-origin`; `include` where `base` is on another origin. */
  credentials?: RequestCredentials;
  /** Other origins that get the token. Default: none, only the page's own and that of `base`. */
  origins?: string[];
  /** Called whenever the state or the token has changed. */
  onChange?(change: Change): void;
  /**
   * Logs the user out who has left. Only open tabs are watched: who closes them all is logged out by nobody here, and the
   * server's `idle_timeout` is the real limit. Opening a tab is no sign of the user while another one is open. Wants
   * BroadcastChannel, and is off without it. Default: off.
   */
  idle?: IdleOptions;
  /** Whether the server sets the hint cookie: a page without it makes no request. Default: no. */
  hint?: boolean;
  /** For tests: what stands in for the browser. Default: `globalThis`. */
  env?: object;
}

/** The codes are the server's, or `offline` (no token, and no way to get one now) or `user_changed`. */
export class AuthError extends Error {
  constructor(code: string, status?: number);
  readonly code: string;
  /** The status of the answer, 0 where there was none. */
  readonly status: number;
}

export interface Auth {
  readonly state: AuthState;
  /** When the access token ends, in milliseconds since 1970; 0 without one. */
  readonly expiresAt: number;
  /** When the next refresh is planned, in milliseconds since 1970; Infinity where none is. */
  readonly nextAt: number;
  /** The claims of the access token, or null. */
  user(): Claims | null;
  /** A good access token; null where nobody is logged in, or there is none to be had within 15 seconds. */
  token(): Promise<string | null>;
  /** Renews the token now, for instance after the user got other rights. Null where no newer token came. */
  refresh(): Promise<string | null>;
  /**
   * `fetch` with the access token. Where the server refuses the token it is renewed, and the request sent once more;
   * the second answer is the caller's, whatever it is. A body that is a stream (that of a `Request` is one) is sent as it
   * is and once: for it the token is renewed beforehand if that is due. A request that is made logged out goes without a
   * token.
   *
   * A relative address is resolved as `fetch` does it, by the document's base. Requests to other origins,
   * and those that have an `Authorization` of their own, are left alone.
   *
   * Rejects as `fetch` does, and with an {@link AuthError} where no token is to be had within 15 seconds (`offline`) or
   * the user has logged out meanwhile, or somebody else in (`user_changed`): then nothing was sent.
   */
  fetch(input: RequestInfo | URL, init?: RequestInit): Promise<Response>;
  /**
   * Sends a login to the app and takes the tokens of its answer: POST, with the body as JSON; `init` overrides. A refresh
   * waits for it up to 11 seconds, in all tabs or, without Web Locks, in this one: its answer could bring back the cookie
   * of the session before. Where that may have happened the page asks again, and shows whose the cookie is. The answer is
   * the caller's, good or bad; one without an access token (a second factor is wanted, say) changes nothing. Rejects as
   * `fetch` does; with an `AbortError` after 60 seconds, unless `init` has a signal of its own.
   */
  login(url: string | URL, body?: unknown, init?: RequestInit): Promise<Response>;
  /** Takes the tokens of a login that was made otherwise. */
  accept(tokens: Tokens): void;
  /** Ends this session, in all tabs. Rejects where the server cannot be reached: then nothing has changed. */
  logout(): Promise<void>;
  /** Ends all sessions of the user, on all devices. */
  logoutAll(): Promise<void>;
  /** Ends all other sessions of the user. How many there were. */
  logoutOthers(): Promise<number>;
  /** The user's sessions, the one that was active last first. */
  sessions(): Promise<Session[]>;
  /** Ends one of them; this one too. */
  endSession(id: string): Promise<void>;
  /** Stops all timers and listeners. Nobody is logged out. */
  close(): void;
}

export interface Session {
  id: string;
  label: string | null;
  user_agent: string | null;
  ip: string | null;
  /** RFC 3339, as the other times. */
  created_at: string;
  last_seen_at: string;
  expires_at: string;
  /** Whether it is the one that asked. */
  current: boolean;
}
