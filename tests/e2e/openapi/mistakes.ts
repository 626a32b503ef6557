// Every statement here is a mistake that the type checker has to find.

import createClient from "openapi-fetch";
import type { components, paths } from "./schema";

const client = createClient<paths>({ baseUrl: "http://127.0.0.1:3000" });

// A route that does not exist:
await client.POST("/auth/renew", {});

// A route with another method:
await client.GET("/auth/refresh", {});

// A login without a password:
await client.POST("/login", { body: { username: "alice" } });

// A session without its id:
await client.DELETE("/auth/sessions/{id}", {});

// A code that a refresh does not have:
const refreshed = await client.POST("/auth/refresh", {});
if (refreshed.error?.code === "session_not_found") throw refreshed.error;

// A member that tokens do not have:
export const scope = (tokens: components["schemas"]["AuthTokens"]): string => tokens.scope;

// A member that may be missing:
export const soon = (tokens: components["schemas"]["AuthTokens"]): number => tokens.refresh_in;

// A token to revoke without its expiry:
await client.POST("/admin/tokens/revoke", { body: { jti: "x" } });
