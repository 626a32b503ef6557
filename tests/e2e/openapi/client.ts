// A client of the demo, with the types generated from its OpenAPI document.

import createClient from "openapi-fetch";
import type { components, paths } from "./schema";

type Tokens = components["schemas"]["AuthTokens"];
type Session = components["schemas"]["AuthSession"];

const client = createClient<paths>({ baseUrl: "http://127.0.0.1:3000" });

let tokens: Tokens | undefined;

function authorization(): { Authorization: string } {
  return { Authorization: `Bearer ${tokens?.access_token ?? ""}` };
}

export async function login(username: string, password: string): Promise<string> {
  const { data, error } = await client.POST("/login", { body: { username, password } });
  if (data) {
    tokens = data;
    return "in";
  }
  if (typeof error === "string") return error;
  switch (error.code) {
    case "bad_credentials":
      return "wrong user name or password";
    case "cross_origin":
    case "acting":
      return "not allowed";
    case "internal":
    case "store_unavailable":
      return "try again later";
    default:
      return unreachable(error);
  }
}

export type Refreshed = "in" | "out" | { retryAfter: number };

export async function refresh(): Promise<Refreshed> {
  const { data, error, response } = await client.POST("/auth/refresh", {});
  if (data) {
    tokens = data;
    return "in";
  }
  switch (error.code) {
    case "refresh_token_missing":
    case "refresh_token_invalid":
    case "refresh_token_reused":
    case "session_revoked":
    case "session_expired":
    case "session_idle":
    case "session_outdated":
      return "out";
    case "refresh_busy":
    case "store_unavailable":
    case "internal":
      return { retryAfter: Number(response.headers.get("retry-after") ?? 1) };
    case "cross_origin":
      throw new Error("this origin is not trusted");
    default:
      return unreachable(error);
  }
}

export async function sessions(): Promise<Session[]> {
  const { data, error } = await client.GET("/auth/sessions", { headers: authorization() });
  if (data) return data.sessions;
  if (error.code === "access_token_expired" && (await refresh()) === "in") return sessions();
  throw new Error(`${error.status} ${error.code}`);
}

export async function revokeOldest(): Promise<boolean> {
  const others = (await sessions()).filter((session) => !session.current);
  const oldest = others.sort((a, b) => a.created_at.localeCompare(b.created_at))[0];
  if (!oldest) return false;
  const path = { id: oldest.id };
  const { error } = await client.DELETE("/auth/sessions/{id}", { params: { path }, headers: authorization() });
  // Somebody else may have revoked it.
  return !error || error.code === "session_not_found";
}

export async function revokeToken(token: string): Promise<void> {
  const { error } = await client.POST("/admin/tokens/revoke", { body: { token }, headers: authorization() });
  if (error?.code === "forbidden") throw new Error("for administrators");
}

// Compiles only if every code was handled before.
function unreachable(error: never): never {
  throw new Error(`unknown: ${JSON.stringify(error)}`);
}
