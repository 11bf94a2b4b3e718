// Verifies access tokens of Matchbook with jose (npm install jose). For the development
// CA: NODE_EXTRA_CA_CERTS=data/tls/ca.pem node verify.mjs
import { readFileSync } from "node:fs";
import { createRemoteJWKSet, jwtVerify } from "jose";

const ISSUER = "https://localhost:5001"; // tokens.issuer
const AUDIENCE = "https://localhost:5001"; // tokens.audience

// Caches the key set for five minutes: half of `keys.publish_ahead`. An unknown `kid`
// fetches it again, at most every ten seconds.
const keys = createRemoteJWKSet(new URL("https://localhost:5001/.well-known/jwks.json"), {
  cacheMaxAge: 300_000,
  cooldownDuration: 10_000,
});

/** Returns the claims of a valid access token, or throws. */
export async function verify(token) {
  const { payload } = await jwtVerify(token, keys, {
    issuer: ISSUER,
    audience: AUDIENCE,
    typ: "at+jwt", // RFC 9068: no other kind of token is accepted
    algorithms: ["RS256", "ES256", "EdDSA"],
    clockTolerance: 5,
    requiredClaims: ["sub", "exp", "iat", "jti", "sid"],
  });
  return payload;
}

try {
  const claims = await verify(readFileSync(0, "utf8").trim());
  console.log(`user ${claims.sub}, session ${claims.sid}, until ${claims.exp}`);
} catch (error) {
  console.error(`rejected: ${error.message}`);
  process.exitCode = 1;
}
