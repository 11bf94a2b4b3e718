// simple-oauth2: a web app with a server, and a machine that acts for itself.
import { strict as assert } from 'node:assert'
import { createHash, randomBytes } from 'node:crypto'
// docs: machine-import
import { ClientCredentials } from 'simple-oauth2'
// docs: end
import { AuthorizationCode } from 'simple-oauth2'
import {
  announce, apiStatus, ask, expiry, issuer, refreshRepeatedly, refreshes, rejected, step,
} from '../lib/steps.mjs'

announce('simple-oauth2')
const registered = await ask('client', {
  name: 'simple-oauth2',
  options: ['--confidential', '--first-party', '--machine', '--scope', 'read'],
})
const { client_id: clientId, client_secret: clientSecret, redirect_uri: redirectUri } = registered
const codeOf = (error) => error.data?.payload?.error
const auth = {
  tokenHost: issuer,
  tokenPath: '/oauth/token',
  authorizePath: '/oauth/authorize',
  revokePath: '/oauth/revoke',
}
const app = new AuthorizationCode({ client: { id: clientId, secret: clientSecret }, auth })
let token

async function logIn() {
  const verifier = randomBytes(32).toString('base64url')
  const state = randomBytes(16).toString('base64url')
  const url = app.authorizeURL({
    redirect_uri: redirectUri,
    scope: 'read',
    state,
    code_challenge: createHash('sha256').update(verifier).digest('base64url'),
    code_challenge_method: 'S256',
  })
  const { url: returned } = await ask('visit', { url, until: redirectUri })
  const parameters = new URL(returned).searchParams
  assert.equal(parameters.get('state'), state)
  token = await app.getToken({ code: parameters.get('code'), redirect_uri: redirectUri, code_verifier: verifier })
}

await step('login in Chromium, code with PKCE', async () => {
  await logIn()
  assert.equal(await apiStatus(token.token.access_token), 200)
})
const first = token
await step(`expiry and refresh × ${refreshes}`, async () => {
  await refreshRepeatedly(token.token, async () => {
    // `expires_in` is rounded up to seconds, and counts from the arrival of the response.
    assert.ok(token.expired(2), 'the library sees the expiry')
    token = await token.refresh()
    return token.token
  })
})
await step('wrong secret', async () => {
  const wrong = new AuthorizationCode({ client: { id: clientId, secret: 'wrong' }, auth })
  await rejected('invalid_client', () => wrong.createToken(token.token).refresh(), codeOf)
  token = await token.refresh()
  return '`invalid_client`, and the session continues'
})
await step('replay of the first refresh token', async () => {
  await expiry(token.token.access_token)
  await rejected('invalid_grant', () => first.refresh(), codeOf)
  await rejected('invalid_grant', () => token.refresh(), codeOf)
  return '`invalid_grant`, and the session has ended'
})
await step('second login and revocation', async () => {
  await logIn()
  await token.revokeAll()
  assert.equal(await apiStatus(token.token.access_token), 401)
  await rejected('invalid_grant', () => token.refresh(), codeOf)
  return 'both tokens are rejected'
})
await step('client credentials', async () => {
  // docs: machine
  const machine = new ClientCredentials({
    client: { id: clientId, secret: clientSecret },
    auth: { tokenHost: issuer, tokenPath: '/oauth/token' },
  })
  let accessToken = await machine.getToken({ scope: 'read' })
  // Before each request:
  if (accessToken.expired(10)) {
    accessToken = await machine.getToken({ scope: 'read' })
  }
  // docs: end
  assert.ok(accessToken.token.access_token)
  assert.equal(accessToken.token.refresh_token, undefined)
})
process.exit(0)
