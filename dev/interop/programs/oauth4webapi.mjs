// oauth4webapi: a public client without a secret.
import { strict as assert } from 'node:assert'
import * as oauth from 'oauth4webapi'
import {
  announce, apiStatus, ask, expiry, issuer, refreshRepeatedly, refreshes, rejected, step,
} from '../lib/steps.mjs'

announce('oauth4webapi')
const registered = await ask('client', { name: 'oauth4webapi', options: ['--public', '--scope', 'read'] })
const client = { client_id: registered.client_id }
const redirectUri = registered.redirect_uri
const noSecret = oauth.None()
const codeOf = (error) => error.error ?? error.code
let server
let tokens

async function logIn() {
  const verifier = oauth.generateRandomCodeVerifier()
  const state = oauth.generateRandomState()
  const url = new URL(server.authorization_endpoint)
  url.search = new URLSearchParams({
    client_id: client.client_id,
    redirect_uri: redirectUri,
    response_type: 'code',
    scope: 'read',
    state,
    code_challenge: await oauth.calculatePKCECodeChallenge(verifier),
    code_challenge_method: 'S256',
  })
  const { url: returned } = await ask('visit', { url: url.href, until: redirectUri })
  const parameters = oauth.validateAuthResponse(server, client, new URL(returned), state)
  const response = await oauth.authorizationCodeGrantRequest(
    server, client, noSecret, parameters, redirectUri, verifier,
  )
  tokens = await oauth.processAuthorizationCodeResponse(server, client, response)
}

async function refresh(refreshToken) {
  const response = await oauth.refreshTokenGrantRequest(server, client, noSecret, refreshToken)
  return oauth.processRefreshTokenResponse(server, client, response)
}

await step('discovery (RFC 8414)', async () => {
  const url = new URL(issuer)
  const response = await oauth.discoveryRequest(url, { algorithm: 'oauth2' })
  server = await oauth.processDiscoveryResponse(url, response)
})
await step('login in Chromium, code with PKCE, `iss` of the response', async () => {
  await logIn()
  assert.equal(await apiStatus(tokens.access_token), 200)
})
const first = tokens.refresh_token
await step(`expiry and refresh × ${refreshes}`, async () => {
  tokens = await refreshRepeatedly(tokens, refresh)
})
await step('access token as JWT (RFC 9068)', async () => {
  const request = new Request(issuer, { headers: { authorization: `Bearer ${tokens.access_token}` } })
  const claims = await oauth.validateJwtAccessToken(server, request, issuer)
  assert.equal(claims.client_id, client.client_id)
})
await step('secret of a public client', async () => {
  const response = await oauth.refreshTokenGrantRequest(
    server, client, oauth.ClientSecretBasic('wrong'), tokens.refresh_token,
  )
  await rejected('invalid_client', () => oauth.processRefreshTokenResponse(server, client, response),
    (error) => error.error ?? (error.cause?.[0]?.scheme === 'basic' ? 'invalid_client' : error.code))
  tokens = await refresh(tokens.refresh_token)
  return '`invalid_client`, and the session continues'
})
await step('replay of the first refresh token', async () => {
  await expiry(tokens.access_token)
  await rejected('invalid_grant', () => refresh(first), codeOf)
  await rejected('invalid_grant', () => refresh(tokens.refresh_token), codeOf)
  return '`invalid_grant`, and the session has ended'
})
await step('second login and revocation', async () => {
  await logIn()
  const response = await oauth.revocationRequest(server, client, noSecret, tokens.refresh_token)
  await oauth.processRevocationResponse(response)
  assert.equal(await apiStatus(tokens.access_token), 401)
  await rejected('invalid_grant', () => refresh(tokens.refresh_token), codeOf)
  return 'both tokens are rejected'
})
process.exit(0)
