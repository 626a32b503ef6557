"""A service in Python: it verifies access tokens by the issuer's JWK set, with the library PyJWT.

Each line of the input is a token. Each line of the output is its user, or the name of the error.
"""
import sys

import jwt

keys = jwt.PyJWKClient(sys.argv[1])

for line in sys.stdin:
    token = line.strip()
    try:
        if jwt.get_unverified_header(token).get("typ") != "at+jwt":
            raise jwt.InvalidTokenError("not an access token")
        payload = jwt.decode(
            token,
            keys.get_signing_key_from_jwt(token).key,
            algorithms=["EdDSA", "ES256"],
            issuer="axum-refresh",
            audience="axum-refresh",
            options={"require": ["sub", "sid", "exp"]},
        )
        print(payload["sub"], flush=True)
    except jwt.PyJWTError as error:
        print(type(error).__name__, flush=True)
