// A service in Node: it verifies access tokens by the issuer's JWK set, with the library jose.
//
// Each line of the input is a token. Each line of the output is its user, or the code of the error.
import { createInterface } from "node:readline";
import { createRemoteJWKSet, jwtVerify } from "jose";

const keys = createRemoteJWKSet(new URL(process.argv[2]));
const expected = {
  issuer: "axum-refresh",
  audience: "axum-refresh",
  typ: "at+jwt",
  algorithms: ["EdDSA", "ES256"],
  requiredClaims: ["sub", "sid", "exp"],
};

for await (const token of createInterface({ input: process.stdin })) {
  try {
    const { payload } = await jwtVerify(token, keys, expected);
    console.log(payload.sub);
  } catch (error) {
    console.log(error.code);
  }
}
