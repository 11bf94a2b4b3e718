// oauth4webapi: a public client of a third party, so the user is asked for consent.
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

// Logs in, and returns how often the user typed the password and decided on a consent.
async function logIn(decision) {
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
  const visit = await ask('visit', { url: url.href, until: redirectUri, decision })
  const parameters = oauth.validateAuthResponse(server, client, new URL(visit.url), state)
  const response = await oauth.authorizationCodeGrantRequest(
    server, client, noSecret, parameters, redirectUri, verifier,
  )
  tokens = await oauth.processAuthorizationCodeResponse(server, client, response)
  return [visit.passwords, visit.consents]
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
await step('denied consent', async () => {
  await rejected('access_denied', () => logIn('deny'), codeOf)
  return '`access_denied`'
})
await step('login and consent in Chromium, code with PKCE, `iss` of the response', async () => {
  assert.deepEqual(await logIn('allow'), [1, 2])
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
await step('second login, without password and consent; revocation', async () => {
  assert.deepEqual(await logIn(), [1, 2], 'neither a password nor a consent')
  const response = await oauth.revocationRequest(server, client, noSecret, tokens.refresh_token)
  await oauth.processRevocationResponse(response)
  assert.equal(await apiStatus(tokens.access_token), 401)
  await rejected('invalid_grant', () => refresh(tokens.refresh_token), codeOf)
  return 'both tokens are rejected'
})
process.exit(0)
