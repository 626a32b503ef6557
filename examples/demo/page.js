const $ = id => document.getElementById(id);
const words = {
  bad_credentials: "That user name and password do not match.",
  cross_origin: "The server takes this only from its own pages (403).",
  forbidden: "Only administrators may do that (403).",
  session_limit: "You already have as many sessions as are allowed. End one of them on another device first (409).",
  store_unavailable: "The server cannot reach its session store right now (503). Try again in a moment.",
  refresh_busy: "Another renewal is under way (409).",
  unreachable: "The server cannot be reached.",
  access_token_expired: "The access token has run out and cannot be renewed right now. Try again in a moment.",
  session_not_found: "That session has already ended.",
  session_revoked: "This session was ended. Log in again.",
  session_expired: "This session reached its longest lifetime. Log in again.",
  session_idle: "This session was not used for too long. Log in again.",
  refresh_token_reused: "An old refresh token was used, so this session was ended to be safe. Log in again.",
  refresh_token_missing: "You are logged out in this browser. Log in again.",
  refresh_token_invalid: "The server does not know this session any more. Log in again.",
  client_mismatch: "This session belongs to another device or network. Log in again.",
  user_refused: "Your account may not log in at the moment.",
};
const explain = answer => words[answer.code] ?? `The server answered: ${answer.body?.title ?? answer.status} (${answer.code}).`;

// All there is to know; nothing of it is stored, so a reload starts with the refresh cookie alone.
let token = null, claims = {}, got = 0, renewAt = 0, expiresAt = 0;
let starting = true, unreachable = false, retryAt = 0, failures = 0, timer, refreshing = null, adminUser = null;

// ---- Talking to the server ----

/** One request. Never throws: a network failure is an answer with status 0. */
async function send(method, path, body) {
  const headers = {};
  if (token) headers.authorization = `Bearer ${token}`;
  if (body) headers["content-type"] = "application/json";
  let answer = { ok: false, status: 0, code: "unreachable", body: null, wait: 0 };
  try {
    const response = await fetch(path, { method, headers, body: body && JSON.stringify(body), cache: "no-store", signal: AbortSignal.timeout(10000) });
    const text = await response.text();
    let json = null;
    try { json = text ? JSON.parse(text) : null; } catch { /* not from our server, a proxy's error page perhaps */ }
    const { ok, status } = response, wait = Number(response.headers.get("retry-after")) || 0;
    answer = { ok, status, code: json?.code ?? `status_${status}`, body: json, wait };
  } catch { /* unreachable, as set above */ }
  unreachable = answer.status === 0 || answer.status === 429 || answer.status >= 500;
  showState();
  return answer;
}

/** What changes the refresh cookie happens in one tab at a time, and one after the other. */
let queue = Promise.resolve();
const locked = job => navigator.locks
  ? navigator.locks.request("refresh-cookie", job)
  : (queue = queue.then(job, job));

/** A request with the access token: if the token is refused, it is renewed and the request sent once more. */
async function api(method, path, { lock = false } = {}) {
  const go = () => lock ? locked(() => send(method, path)) : send(method, path);
  let answer = await go();
  if (answer.status === 401 && answer.code.startsWith("access_token_") && await refresh(`Renewed after ${answer.code}`)) answer = await go();
  if (!answer.ok) throw answer;
  return answer.body;
}

/** Renews the access token; true if there is a new one. Callers at the same time share one request. */
function refresh(why) {
  return refreshing ??= locked(() => renew(why)).finally(() => { refreshing = null; });
}

async function renew(why) {
  clearTimeout(timer);
  const answer = await send("POST", "/auth/refresh");
  if (answer.ok) { adopt(answer.body, why); return true; }
  if (answer.status === 401) { loggedOut(starting ? "" : explain(answer)); return false; }
  // Busy, overloaded or unreachable says nothing about the session: stay logged in and come back later.
  const backoff = Math.min(30, 2 ** failures++) * (0.75 + Math.random() / 2);
  const seconds = Math.max(answer.wait, backoff);
  retryAt = Date.now() + seconds * 1000;
  timer = setTimeout(refresh, seconds * 1000, "Renewed after reconnecting");
  log(`Renewal failed (${answer.code}); next try in ${seconds.toFixed(1)} s`);
  if (starting) notice("The server is not ready yet. The page tries again by itself.", true);
  showState();
  return false;
}

/** Takes the tokens of an answer into use and plans their renewal. */
function adopt(tokens, why) {
  const before = token && claims;
  token = tokens.access_token;
  claims = decode(token);
  got = Date.now();
  expiresAt = got + tokens.expires_in * 1000;
  renewAt = got + Math.max(1, tokens.refresh_in) * 1000;
  starting = false; retryAt = failures = 0;
  clearTimeout(timer);
  timer = setTimeout(refresh, Math.min(renewAt - got, 2 ** 31 - 1), "Renewed on time");
  const same = before && before.sid === claims.sid;
  const generation = same && before.gen !== claims.gen ? `${before.gen} to ${claims.gen}, rotated` : `${claims.gen}${same ? ", not rotated" : ""}`;
  log(`${why}: gen ${generation}; expires_in ${tokens.expires_in} s`);
  $("gen").textContent = claims.gen;
  $("claims").textContent = JSON.stringify(claims, null, 2);
  showState(); tick();
  if (!same) loggedIn();
}

function decode(jwt) {
  const text = atob(jwt.split(".")[1].replaceAll("-", "+").replaceAll("_", "/"));
  return JSON.parse(new TextDecoder().decode(Uint8Array.from(text, c => c.charCodeAt(0))));
}

// ---- Logging in and out ----

const tabs = "BroadcastChannel" in window ? new BroadcastChannel("axum-refresh-demo") : null;
tabs?.addEventListener("message", ({ data }) => {
  if (data === "logout" && token) loggedOut("You logged out in another tab.");
  if (data === "login") refresh("Logged in from another tab");
});

async function loggedIn() {
  $("login").hidden = true; $("account").hidden = false;
  $("who").textContent = `Logged in as ${claims.sub}`;
  $("sid").textContent = claims.sid;
  $("role").textContent = ""; $("admin").hidden = $("admin-result").hidden = true; adminUser = null;
  notice("");
  await run(async () => {
    const me = await api("GET", "/me");
    $("who").textContent = `Logged in as ${me.user}`;
    $("role").textContent = me.claims.role;
    $("admin").hidden = me.claims.role !== "admin";
    await loadSessions();
  });
}

function loggedOut(reason) {
  clearTimeout(timer);
  const first = $("login").hidden;
  token = null; claims = {}; starting = false; retryAt = failures = 0;
  for (const id of ["sessions", "admin-sessions", "log"]) $(id).replaceChildren();
  $("claims").textContent = "";
  $("login").hidden = false; $("account").hidden = true;
  if (first) { $("login-form").reset(); $("login-error").textContent = ""; notice(reason); $("username").focus(); }
  showState();
}

$("login-form").addEventListener("submit", event => {
  event.preventDefault();
  const { username, password, label } = Object.fromEntries(new FormData(event.target));
  $("login-error").textContent = ""; $("password").removeAttribute("aria-invalid"); notice("");
  once(event.submitter, () => locked(async () => {
    const answer = await send("POST", "/login", { username, password, label: label.trim() || undefined });
    if (!answer.ok) {
      $("login-error").textContent = explain(answer);
      if (answer.code === "bad_credentials") { $("password").setAttribute("aria-invalid", "true"); $("password").select(); }
      return;
    }
    event.target.reset();
    adopt(answer.body, "Logged in");
    $("who").focus();
    tabs?.postMessage("login");
  }));
});

async function logOut(path) {
  await api("POST", path, { lock: true });
  loggedOut(path === "/auth/logout" ? "You are logged out." : "You are logged out on every device.");
  tabs?.postMessage("logout");
}

// ---- Sessions ----

async function loadSessions() {
  const { sessions } = await api("GET", "/auth/sessions");
  showSessions($("sessions"), "Your sessions", sessions, session => session.current
    ? ["Log out", () => logOut("/auth/logout")]
    : ["End", () => end(`/auth/sessions/${session.id}`, loadSessions, "sessions-title")]);
  $("end-others").hidden = sessions.every(session => session.current);
}

async function loadAdmin() {
  const path = `/admin/users/${encodeURIComponent(adminUser)}/sessions`, { sessions } = await api("GET", path);
  showSessions($("admin-sessions"), `Sessions of ${adminUser}`, sessions,
    session => ["End", () => end(`/admin/sessions/${session.id}`, loadAdmin, "admin-title")]);
  $("admin-count").textContent = `${adminUser} has ${count(sessions.length)}`;
  $("admin-end").textContent = `End all sessions of ${adminUser}`;
  $("admin-end").hidden = sessions.length === 0;
  $("admin-result").hidden = false;
}

async function end(path, reload, heading) {
  await api("DELETE", path);
  notice("The session was ended.");
  $(heading).focus();
  await reload();
}

const count = n => n === 0 ? "no sessions" : n === 1 ? "1 session" : `${n} sessions`;

/** An element with its attributes and children; text goes in as text, never as markup. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function showSessions(target, caption, sessions, action) {
  const focused = document.activeElement?.id;
  const titles = ["Device", "IP", "Signed in", "Last seen", "Expires", ""];
  const rows = sessions.map(session => {
    const [text, act] = action(session), name = session.label ?? device(session.user_agent);
    const button = make("button", { id: `${target.id}-${session.id}`, "aria-label": `${text}: ${name}, signed in ${ago(session.created_at)}` }, text);
    button.addEventListener("click", () => once(button, act));
    const mark = session.current ? [make("span", { class: "pill" }, "this device")] : [];
    const when = time => make("time", { datetime: time, title: new Date(time).toLocaleString() }, ago(time));
    const cells = [session.ip ?? "unknown", when(session.created_at), when(session.last_seen_at), when(session.expires_at), button];
    return make("tr", { role: "row" }, make("th", { scope: "row", role: "rowheader", title: session.user_agent ?? "" }, name, ...mark),
      ...cells.map((cell, i) => make("td", { role: "cell", "data-label": titles[i + 1] }, cell)));
  });
  const head = titles.map(title => title ? make("th", { scope: "col", role: "columnheader" }, title) : make("td", { role: "cell" }));
  target.replaceChildren(rows.length ? make("table", { role: "table", "aria-label": caption },
    make("thead", { role: "rowgroup" }, make("tr", { role: "row" }, ...head)), make("tbody", { role: "rowgroup" }, ...rows)) : "");
  if (focused?.startsWith(target.id)) $(focused)?.focus();
}

/** "Chromium on Linux" for what is otherwise a line of text. */
function device(agent) {
  if (!agent) return "Unknown device";
  const first = list => list.find(([pattern]) => pattern.test(agent))?.[1];
  const browser = first([[/Edg/, "Edge"], [/OPR\//, "Opera"], [/Firefox|FxiOS/, "Firefox"], [/HeadlessChrome/, "Headless Chrome"],
    [/Chrome|CriOS/, "Chrome"], [/Safari/, "Safari"]]);
  const system = first([[/Android/, "Android"], [/iPhone/, "iPhone"], [/iPad/, "iPad"], [/Windows/, "Windows"], [/Mac OS X/, "macOS"],
    [/CrOS/, "ChromeOS"], [/Linux/, "Linux"]]);
  return browser ? browser + (system ? ` on ${system}` : "") : agent.split(" ")[0].slice(0, 40);
}

const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
function ago(time) {
  const seconds = (Date.parse(time) - Date.now()) / 1000;
  if (Math.abs(seconds) < 5) return "just now";
  const [unit, size] = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]].find(([, size]) => Math.abs(seconds) >= size);
  return relative.format(Math.round(seconds / size), unit);
}

// ---- The page ----

function showState() {
  const state = (starting || token) && (retryAt || unreachable) ? ["wait", "Reconnecting"]
    : starting ? ["wait", "Starting"] : token ? ["in", "Logged in"] : ["out", "Logged out"];
  if ($("state").textContent !== state[1]) [$("state").dataset.state, $("state").textContent] = state;
}

function notice(text, bad = false) {
  $("notice").textContent = text; $("notice").classList.toggle("bad", bad);
}

function log(text) {
  const now = new Date();
  $("log").prepend(make("li", {}, make("time", { datetime: now.toISOString() }, now.toLocaleTimeString("en-GB")), make("span", {}, text)));
  while ($("log").children.length > 50) $("log").lastChild.remove();
}

/** Does what a button asks for and says what went wrong; if it ended in the log-in form, that has said why. */
async function run(job, quiet = false) {
  try { await job(); } catch (answer) {
    if (!("code" in answer)) throw answer;
    if (token && !quiet) notice(explain(answer), true);
  }
}

async function once(button, job) {
  if (button.ariaBusy === "true") return;
  button.ariaBusy = "true";
  try { await run(job); } finally { button.ariaBusy = null; }
}

const on = (id, job) => $(id).addEventListener("click", event => once(event.currentTarget, job));
on("refresh", () => refresh("Renewed by hand"));
on("logout", () => logOut("/auth/logout"));
on("logout-all", () => logOut("/auth/logout/all"));
on("end-others", async () => {
  const { revoked } = await api("POST", "/auth/logout/others", { lock: true });
  notice(`Ended ${revoked === 0 ? "no other session" : count(revoked)}.`);
  $("sessions-title").focus();
  await loadSessions();
});
on("admin-end", async () => {
  const { revoked } = await api("DELETE", `/admin/users/${encodeURIComponent(adminUser)}/sessions`);
  notice(`Ended ${count(revoked)} of ${adminUser}.`);
  $("admin-title").focus();
  await loadAdmin();
});
$("admin-form").addEventListener("submit", event => {
  event.preventDefault();
  adminUser = $("admin-user").value.trim();
  if (adminUser) once(event.submitter, loadAdmin);
});

const until = time => { const s = Math.ceil((time - Date.now()) / 1000); return s >= 120 ? `in ${Math.floor(s / 60)} min ${s % 60} s` : `in ${s} s`; };
function tick() {
  if (!token) return;
  const now = Date.now();
  $("renewal").textContent = retryAt ? (retryAt > now ? `reconnecting, next try ${until(retryAt)}` : "reconnecting") : renewAt > now ? until(renewAt) : "now";
  $("expiry").textContent = expiresAt > now ? until(expiresAt) : "expired";
  $("life").value = Math.max(0, (expiresAt - now) / (expiresAt - got));
  for (const time of document.querySelectorAll("td time")) time.textContent = ago(time.dateTime);
}
setInterval(tick, 1000);

// Timers stop while a computer sleeps or a tab is frozen, so both are looked at again when the page comes back.
function wake() {
  if (token && Date.now() >= Math.max(renewAt, retryAt) && !document.hidden) refresh("Renewed after a pause");
}
document.addEventListener("visibilitychange", wake);
window.addEventListener("pageshow", wake);
// The list stays current, and a session that was ended elsewhere notices it here.
setInterval(() => { if (token && !retryAt && !document.hidden) run(loadSessions, true); }, 10000);

refresh("Continued with the refresh cookie");
