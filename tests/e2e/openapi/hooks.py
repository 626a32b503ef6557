"""Who sends the requests of schemathesis: each is sent by somebody who has just logged in, because others end sessions,
everybody's too."""

import base64
import json
import os

import requests
import schemathesis
from schemathesis.core import NotSet

BASE = os.environ["DEMO"]
# The browser that has logged in. A session may be bound to it.
USER_AGENT = "axum-refresh-e2e"


def log_in(transport):
    form = {"username": "alice", "password": "password", "transport": transport}
    response = requests.post(f"{BASE}/login", json=form, headers={"User-Agent": USER_AGENT}, timeout=5)
    response.raise_for_status()
    return response.json(), response.cookies


@schemathesis.auth(refresh_interval=None)
class Login:
    def get(self, case, context):
        return log_in("cookie")

    def set(self, case, login, context):
        tokens, cookies = login
        schemes = {name for scheme in context.operation.definition.raw["security"] for name in scheme}
        case.headers["User-Agent"] = USER_AGENT
        if "auth_bearer" in schemes:
            case.headers["Authorization"] = f"Bearer {tokens['access_token']}"
        # Beside a cookie, a body would be ignored.
        if any(name.startswith("auth_refresh_cookie") for name in schemes) and not has_body(case):
            for name in cookies.keys():
                case.cookies[name] = cookies[name]


def has_body(case):
    return not isinstance(case.body, NotSet)


def session_of(tokens):
    claims = tokens["access_token"].split(".")[1]
    return json.loads(base64.urlsafe_b64decode(claims + "=="))["sid"]


@schemathesis.hook
def before_call(context, case, **kwargs):
    """Makes every second token in a body a valid one, and every second session one that exists."""
    if case.operation.path == "/auth/refresh" and isinstance(case.body, dict):
        token = case.body.get("refresh_token")
        if isinstance(token, str) and len(token) % 2 == 0:
            case.body["refresh_token"] = log_in("body")[0]["refresh_token"]
    session = case.path_parameters.get("id")
    if isinstance(session, str) and len(session) == 22 and ord(session[0]) % 2 == 0:
        case.path_parameters["id"] = session_of(log_in("cookie")[0])


@schemathesis.hook
def map_path_parameters(context, path_parameters):
    """Names a user who exists in every second path with a user."""
    user = (path_parameters or {}).get("user")
    if isinstance(user, str) and len(user) % 2 == 0:
        path_parameters["user"] = "alice"
    return path_parameters
