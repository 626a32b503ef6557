import { createAuth } from "/auth/client.js";

const $ = id => document.getElementById(id);
const messages = {
  bad_credentials: "Wrong user name or password.",
  cross_origin: "The server accepts this request only from its own pages (403).",
  forbidden: "Only administrators are allowed to do that (403).",
  session_limit: "You have reached the maximum number of sessions. Log out on another device first (409).",
  store_unavailable: "The server cannot reach its session store (503). Try again in a moment.",
  refresh_busy: "Another refresh is in progress (409). Try again in a moment.",
  offline: "The server cannot be reached.",
  user_changed: "You were logged out, or another user logged in, before the request was sent.",
  access_token_missing: "You are logged out.",
  session_not_found: "That session has already ended.",
  session_revoked: "This session was ended. Log in again.",
  session_expired: "This session has reached its maximum lifetime. Log in again.",
  session_idle: "This session was not used for too long. Log in again.",
  session_outdated: "The app has been updated and cannot use this session. Log in again.",
  refresh_token_reused: "An old refresh token was used again, so this session was ended for your safety. Log in again.",
  refresh_token_missing: "You are logged out in this browser. Log in again.",
  refresh_token_invalid: "The server does not know this session any more. Log in again.",
  client_mismatch: "This session belongs to another device or network. Log in again.",
  insufficient_user_authentication: "This requires your password, which was not entered.",
  unknown_user: "There is no other user of that name (404).",
  user_refused: "Your account is not allowed to log in at the moment.",
};

/** A message for whatever was thrown: the module's AuthError, an error of `problem`, or anything else. */
function explain(error) {
  // `fetch` rejects with a TypeError if the network fails, and with one of the others after a timeout.
  const failed = error instanceof TypeError || ["AbortError", "TimeoutError"].includes(error?.name);
  const code = failed ? "offline" : error?.code;
  if (typeof code !== "string") return `Something went wrong: ${error?.message || error || "unknown error"}`;
  return messages[code] ?? `The server responded with status ${error.status} (${code}).`;
}

// Errors that no other code handles are shown too.
addEventListener("error", event => notice(explain(event.error ?? event), true));
addEventListener("unhandledrejection", event => notice(explain(event.reason), true));

// ?idle=20&warn=10 (in seconds) shows the logout of an inactive user without waiting a quarter of an hour.
const query = new URLSearchParams(location.search);
const milliseconds = (name, standard) => 1000 * (Number(query.get(name)) || standard);
const auth = createAuth({
  onChange: changed,
  onStepUp: confirmPassword,
  hint: document.documentElement.dataset.hint,
  idle: { after: milliseconds("idle", 900), warn: milliseconds("warn", 60), onWarn: warn },
});

let shown = null, adminUser = null, logoutAt = 0;

// ---- Changes of the login state ----

function changed({ user, reason, elsewhere }) {
  showState();
  if (!user) {
    if (auth.state === "out") loggedOut(reason, elsewhere);
    else notice("The server is not ready yet. This page will try again automatically.", true);
    return;
  }
  if (auth.state === "offline") {
    if (shown) log(`Refresh failed (${reason}); next attempt ${until(auth.nextAt)}`);
    return;
  }
  const same = shown?.sid === user.sid;
  const generation = same && shown.gen !== user.gen ? `${shown.gen} to ${user.gen}, rotated` : `${user.gen}${same ? ", not rotated" : ""}`;
  const action = reason === "login" ? "Logged in" : reason === "reauthentication" ? "Authenticated again" : same ? "Refreshed" : "Resumed from the refresh cookie";
  const before = shown;
  shown = user;
  if (before && before.sub !== user.sub) clear();
  log(`${action}${elsewhere ? " in another tab" : ""}: generation ${generation}; expires ${until(auth.expiresAt)}`);
  $("gen").textContent = user.gen;
  $("claims").textContent = JSON.stringify(user, null, 2);
  tick();
  if (!same) loggedIn(user);
}

async function loggedIn(user) {
  $("login").hidden = true; $("account").hidden = false;
  $("who").textContent = `Logged in as ${user.sub}`;
  $("sid").textContent = user.sid;
  $("role").textContent = user.role; $("admin").hidden = user.role !== "admin"; $("admin-result").hidden = true; adminUser = null;
  notice("");
  await run(loadSessions);
}

/** Removes the previous user's data from the page. */
function clear() {
  for (const id of ["sessions", "admin-sessions", "log"]) $(id).replaceChildren();
}

function loggedOut(reason, elsewhere) {
  const before = shown, first = $("login").hidden;
  shown = null;
  clear();
  $("claims").textContent = "";
  $("login").hidden = false; $("account").hidden = true;
  if (!first) return;
  $("login-form").reset(); $("login-error").textContent = "";
  if (before) notice(reason === "idle" ? "You were logged out because you were inactive." : reason !== "logout" ? explain({ code: reason })
    : elsewhere ? "You logged out in another tab." : "You are logged out.");
  else notice("");
  $("username").focus();
}

function warn(left) {
  logoutAt = left === null ? 0 : Date.now() + left;
  $("idle").hidden = left === null;
  tick();
}

/** Sends a request to one of the app's own routes and returns the JSON. */
async function api(method, path, init) {
  const response = await auth.fetch(path, { method, cache: "no-store", ...init });
  if (!response.ok) throw await problem(response);
  return response.json().catch(() => null); // 204 has no body
}

/** The error in a response (RFC 9457), or its status if the response comes from another server. */
async function problem(response) {
  const body = await response.json().catch(() => null);
  return { code: body?.code ?? `status_${response.status}`, status: response.status };
}

// ---- Logging in ----

$("login-form").addEventListener("submit", event => {
  event.preventDefault();
  const form = event.target;
  $("login-error").textContent = ""; $("password").removeAttribute("aria-invalid"); notice("");
  once(submitButton(event), async () => {
    const { username, password, label, remember } = Object.fromEntries(new FormData(form));
    const response = await auth.login("/login", { username, password, label: label.trim() || undefined, remember: remember === "on" });
    if (!response.ok) throw await problem(response);
    form.reset();
    $("who").focus();
  }, error => {
    $("login-error").textContent = explain(error);
    if (error?.code === "bad_credentials") { $("password").setAttribute("aria-invalid", "true"); $("password").select(); }
  });
});

// ---- The password again ----

const reasons = {
  route: "You are about to do something important.",
  client: "Your network or browser has changed.",
  idle: "You have not used this session for a while.",
};

/** Shows the dialog until the password is right, the user gives up, or another tab has done it. */
function confirmPassword({ reason, signal }) {
  const dialog = $("confirm"), form = $("confirm-form"), listening = new AbortController();
  const listen = (target, type, listener) => target.addEventListener(type, listener, { signal: listening.signal });
  form.reset();
  $("confirm-error").textContent = ""; $("confirm-reason").textContent = reasons[reason];
  $("confirm-user").value = shown?.sub ?? ""; // for password managers
  return new Promise(resolve => {
    let confirmed = false;
    listen(form, "submit", event => {
      event.preventDefault();
      once(submitButton(event), async () => {
        const response = await auth.reauthenticate("/auth/reauthenticate", { password: $("confirm-password").value });
        if (!response.ok) throw await problem(response);
        confirmed = true;
        dialog.close();
      }, error => {
        $("confirm-error").textContent = explain(error);
        $("confirm-password").select();
      });
    });
    listen($("confirm-cancel"), "click", () => dialog.close());
    if (signal) listen(signal, "abort", () => dialog.close());
    listen(dialog, "close", () => {
      listening.abort();
      resolve(confirmed);
    });
    dialog.showModal();
  });
}

$("transfer-form").addEventListener("submit", event => {
  event.preventDefault();
  once(submitButton(event), async () => {
    await api("POST", "/transfer");
    notice(`Transferred ${$("amount").value}.`);
    event.target.reset();
  });
});

/** The form's button. Scripts and password managers submit a form without naming one. */
const submitButton = ({ submitter, target }) => submitter ?? target.querySelector("button");

// ---- Sessions ----

/** `passive`: not because of something that the user has done, so it does not keep the session from becoming idle. */
async function loadSessions(passive = false) {
  const sid = shown?.sid, { sessions } = await api("GET", "/auth/sessions", { passive });
  // Meanwhile another user may have logged in.
  if (shown?.sid !== sid) return;
  showSessions($("sessions"), "Your sessions", sessions, session => session.current
    ? ["Log out", () => auth.logout()]
    : ["End", () => end(() => auth.revokeSession(session.id), loadSessions, "sessions-title")]);
  $("end-others").hidden = sessions.every(session => session.current);
}

async function loadAdmin() {
  const sid = shown?.sid, requested = adminUser;
  const { sessions } = await api("GET", `/admin/users/${encodeURIComponent(requested)}/sessions`);
  if (shown?.sid !== sid || adminUser !== requested) return;
  showSessions($("admin-sessions"), `Sessions of ${adminUser}`, sessions,
    session => ["End", () => end(() => api("DELETE", `/admin/sessions/${session.id}`), loadAdmin, "admin-title")]);
  $("admin-count").textContent = `${adminUser} has ${count(sessions.length)}`;
  $("admin-act").textContent = `Look into the account of ${adminUser}`;
  $("admin-act").hidden = adminUser === shown.sub;
  $("admin-end").textContent = `End all sessions of ${adminUser}`;
  $("admin-end").hidden = sessions.length === 0;
  $("admin-result").hidden = false;
}

async function end(job, reload, heading) {
  await job();
  if (!shown) return;
  notice("The session was ended.");
  $(heading).focus();
  await reload();
}

const count = n => n === 0 ? "no sessions" : n === 1 ? "1 session" : `${n} sessions`;

/** Creates an element. Text children are added as text, never as markup. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function showSessions(target, caption, sessions, action) {
  const focused = document.activeElement?.id;
  const titles = ["Device", "IP", "Logged in", "Last active", "Expires", ""];
  const rows = sessions.map(session => {
    const [text, act] = action(session), name = session.label ?? device(session.user_agent);
    const button = make("button", { id: `${target.id}-${session.id}`, "aria-label": `${text}: ${name}, logged in ${ago(session.created_at)}` }, text);
    button.addEventListener("click", () => once(button, act));
    const mark = session.current ? [make("span", { class: "pill" }, "this device")]
      : session.actor ? [make("span", { class: "pill" }, `${session.actor} acts for you`)] : [];
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

/** A device's name that users recognize, such as "Firefox on Linux", from a User-Agent header. */
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

const states = { unknown: ["wait", "Starting"], in: ["in", "Logged in"], out: ["out", "Logged out"], offline: ["wait", "Reconnecting"] };
function showState() {
  const [state, text] = states[auth.state];
  if ($("state").textContent !== text) [$("state").dataset.state, $("state").textContent] = [state, text];
}

function notice(text, bad = false) {
  $("notice").textContent = text; $("notice").classList.toggle("bad", bad);
}

function log(text) {
  const now = new Date();
  $("log").prepend(make("li", {}, make("time", { datetime: now.toISOString() }, now.toLocaleTimeString("en-GB")), make("span", {}, text)));
  while ($("log").children.length > 50) $("log").lastChild.remove();
}

/** Runs `job`. Whatever it throws is passed to `show`. */
async function run(job, show = showError) {
  try { await job(); } catch (error) {
    show(error);
    // An error without a code may be a bug of this page.
    if (typeof error?.code !== "string") console.error(error);
  }
}

/** Shows an error, unless the user was logged out: then `loggedOut` has shown the reason. */
function showError(error) {
  if (shown) notice(explain(error), true);
}

/** Runs `job` unless the button's previous job is still running. */
async function once(button, job, show) {
  if (button.ariaBusy === "true") return;
  button.ariaBusy = "true";
  try { await run(job, show); } finally { button.ariaBusy = null; }
}

const on = (id, job) => $(id).addEventListener("click", event => once(event.currentTarget, job));
on("refresh", () => auth.refresh());
on("logout", () => auth.logout());
on("logout-all", () => auth.logoutAll());
on("stay", () => {}); // the click counts as activity
on("end-others", async () => {
  const revoked = await auth.logoutOthers();
  notice(`Ended ${revoked === 0 ? "no other session" : count(revoked)}.`);
  $("sessions-title").focus();
  await loadSessions();
});
on("admin-end", async () => {
  const { revoked } = await api("DELETE", `/admin/users/${encodeURIComponent(adminUser)}/sessions`);
  if (!adminUser) return;
  notice(`Ended ${count(revoked)} of ${adminUser}.`);
  $("admin-title").focus();
  await loadAdmin();
});
on("admin-act", async () => {
  const headers = { "content-type": "application/json" };
  const { access_token: token, expires_in: left } = await api("POST", "/admin/act", { headers, body: JSON.stringify({ user: adminUser }) });
  // The tokens of the administrator stay where they are; this one is used for one request.
  const response = await fetch("/me", { headers: { authorization: `Bearer ${token}` } });
  if (!response.ok) throw await problem(response);
  const { user, actor } = await response.json();
  notice(`You (${actor}) act for ${user}, for ${Math.round(left / 60)} minutes at most, and as long as you are logged in.`);
  await loadAdmin();
});
on("end-everybody", async () => {
  if (!confirm("End the sessions of all users, yours too?")) return;
  await api("DELETE", "/admin/sessions");
  await auth.refresh(); // finds out that this session has ended, too
});
$("admin-form").addEventListener("submit", event => {
  event.preventDefault();
  adminUser = $("admin-user").value.trim();
  if (adminUser) once(submitButton(event), loadAdmin);
});

const until = time => { const s = Math.ceil((time - Date.now()) / 1000); return s >= 120 ? `in ${Math.floor(s / 60)} min ${s % 60} s` : `in ${s} s`; };
function tick() {
  const now = Date.now();
  if (logoutAt) $("idle-left").textContent = until(Math.max(now, logoutAt));
  if (!shown) return;
  const next = auth.nextAt, reconnecting = auth.state === "offline";
  $("renewal").textContent = (reconnecting ? "reconnecting, next attempt " : "") + (next > now ? until(next) : "now");
  $("expiry").textContent = auth.expiresAt > now ? until(auth.expiresAt) : "expired";
  $("life").value = Math.max(0, (auth.expiresAt - now) / 1000 / (shown.exp - shown.iat));
  for (const time of document.querySelectorAll("td time")) time.textContent = ago(time.dateTime);
}
setInterval(tick, 1000);

// Keeps the list current. If this session was ended on another device, the request finds out.
setInterval(() => { if (auth.state === "in" && !document.hidden) run(() => loadSessions(true), () => {}); }, 10000);
