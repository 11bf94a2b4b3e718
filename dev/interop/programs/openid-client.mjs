// openid-client: a web app with a server, which keeps its secret.
import { strict as assert } from 'node:assert'
// docs: web-app-import
import * as client from 'openid-client'
// docs: end
import {
  announce, apiStatus, ask, expiry, issuer, refreshRepeatedly, refreshes, rejected, step,
} from '../lib/steps.mjs'

announce('openid-client')
const registered = await ask('client', {
  name: 'openid-client',
  options: ['--confidential', '--first-party', '--scope', 'read'],
})
const { client_id: clientId, client_secret: clientSecret, redirect_uri: redirectUri } = registered
const codeOf = (error) => error.error ?? error.code
let config
let tokens

async function logIn() {
  // docs: web-app-login
  const codeVerifier = client.randomPKCECodeVerifier()
  const state = client.randomState()
  const url = client.buildAuthorizationUrl(config, {
    redirect_uri: redirectUri,
    scope: 'read',
    state,
    code_challenge: await client.calculatePKCECodeChallenge(codeVerifier),
    code_challenge_method: 'S256',
  })
  // docs: end
  const { url: returned } = await ask('visit', { url: url.href, until: redirectUri })
  const callbackUrl = new URL(returned)
  // docs: web-app-callback
  tokens = await client.authorizationCodeGrant(config, callbackUrl, {
    pkceCodeVerifier: codeVerifier,
    expectedState: state,
  })
  // docs: end
}

await step('discovery (RFC 8414)', async () => {
  // docs: web-app-discovery
  config = await client.discovery(new URL(issuer), clientId, clientSecret, undefined, {
    algorithm: 'oauth2',
  })
  // docs: end
  assert.equal(config.serverMetadata().issuer, issuer)
})
await step('login in Chromium, code with PKCE, `iss` of the response', async () => {
  await logIn()
  assert.equal(await apiStatus(tokens.access_token), 200)
})
const first = tokens.refresh_token
await step(`expiry and refresh × ${refreshes}`, async () => {
  tokens = await refreshRepeatedly(tokens, async () => {
    // docs: web-app-refresh
    tokens = await client.refreshTokenGrant(config, tokens.refresh_token)
    // docs: end
    return tokens
  })
})
await step('wrong secret', async () => {
  const wrong = new client.Configuration(config.serverMetadata(), clientId, 'wrong')
  await rejected('invalid_client', () => client.refreshTokenGrant(wrong, tokens.refresh_token), codeOf)
  tokens = await client.refreshTokenGrant(config, tokens.refresh_token)
  return '`invalid_client`, and the session continues'
})
await step('introspection', async () => {
  // docs: introspection
  const claims = await client.tokenIntrospection(config, tokens.access_token)
  if (!claims.active) throw new Error('the token is not active')
  // docs: end
  assert.equal(claims.client_id, clientId)
})
await step('replay of the first refresh token', async () => {
  await expiry(tokens.access_token)
  await rejected('invalid_grant', () => client.refreshTokenGrant(config, first), codeOf)
  await rejected('invalid_grant', () => client.refreshTokenGrant(config, tokens.refresh_token), codeOf)
  return '`invalid_grant`, and the session has ended'
})
await step('second login and revocation', async () => {
  await logIn()
  // docs: web-app-logout
  await client.tokenRevocation(config, tokens.refresh_token)
  // docs: end
  assert.equal(await apiStatus(tokens.access_token), 401)
  await rejected('invalid_grant', () => client.refreshTokenGrant(config, tokens.refresh_token), codeOf)
  return 'both tokens are rejected'
})
process.exit(0)
