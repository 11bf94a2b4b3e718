// express-openid-connect: two web apps with refresh, and logout in both directions.
import { strict as assert } from 'node:assert'
import express from 'express'
import openidConnect from 'express-openid-connect'
import session from 'express-session'
import { announce, issuer, refreshes, step } from '../lib/steps.mjs'
import {
  addUser, assertEnded, assertUser, clientExpiry, listen, logOut, open, register, revoke, scope,
} from '../lib/web-app.mjs'

announce('express-openid-connect')
const email = await addUser('express@example.com')

// Starts an app. Its `tokens` are those that it used last.
async function start(name) {
  const { origin, serve } = await listen()
  const options = ['--backchannel-logout-uri', `${origin}/backchannel-logout`]
  const client = await register(name, { origin, options })
  const state = { origin, client, tokens: undefined }
  const app = express()
  app.get('/goodbye', (request, response) => response.json({ page: 'goodbye' }))
  app.use(
    openidConnect.auth({
      issuerBaseURL: issuer,
      baseURL: origin,
      clientID: client.client_id,
      clientSecret: client.client_secret,
      secret: 'only for this run',
      authorizationParams: { response_type: 'code', scope },
      authRequired: false,
      idpLogout: true,
      routes: { postLogoutRedirect: '/goodbye' },
      // Ports share cookies.
      session: { name, store: new session.MemoryStore() },
      transactionCookie: { name: `${name}-login` },
      backchannelLogout: true,
    }),
  )
  app.get('/', async ({ oidc }, response) => {
    if (oidc.accessToken.isExpired()) await oidc.accessToken.refresh()
    const user = await oidc.fetchUserInfo().catch(async () => {
      // The access token has expired meanwhile.
      await oidc.accessToken.refresh()
      return oidc.fetchUserInfo()
    })
    state.tokens = { access_token: oidc.accessToken.access_token, refresh_token: oidc.refreshToken }
    response.json({ page: 'home', user, claims: oidc.idTokenClaims })
  })
  // Sends no request to the server.
  app.get('/session', ({ oidc }, response) => response.json({ page: 'session', isActive: oidc.isAuthenticated() }))
  serve(app)
  return state
}

const isActive = async ({ origin }) => (await open(`${origin}/session`)).isActive

// Waits until an app has ended its session.
async function sessionEnd(app) {
  for (let i = 0; i < 100 && (await isActive(app)); i++) await new Promise((resolve) => setTimeout(resolve, 100))
  assert.ok(!(await isActive(app)), 'the app has not ended its session')
}

const app = await start('first')
const other = await start('second')

await step('login in Chromium, code with PKCE, userinfo', async () => {
  const { user, claims } = await open(`${app.origin}/login`)
  assertUser(user, email)
  assertUser(claims, email)
  assert.ok(claims.sid)
})
await step(`expiry and refresh × ${refreshes}, with a new ID token each time`, async () => {
  for (let i = 0; i < refreshes; i++) {
    const before = await open(app.origin)
    const { access_token: accessToken, refresh_token: refreshToken } = app.tokens
    await clientExpiry(accessToken)
    const { user, claims, passwords } = await open(app.origin)
    assert.notEqual(app.tokens.refresh_token, refreshToken)
    assert.equal(user.sub, claims.sub)
    assert.ok(claims.iat > before.claims.iat)
    for (const claim of ['sub', 'aud', 'sid', 'auth_time']) assert.equal(claims[claim], before.claims[claim])
    assert.equal(passwords, 1)
  }
})
await step('back-channel logout after a revocation', async () => {
  assert.ok(await isActive(app))
  await revoke(app.client, app.tokens.refresh_token)
  await assertEnded(app.client, app.tokens)
  await sessionEnd(app)
  // The browser is still logged in at the server.
  const { user, passwords } = await open(`${app.origin}/login`)
  assertUser(user, email)
  assert.equal(passwords, 1)
  return 'the app has ended its session'
})
await step('back-channel logout after a logout at another app', async () => {
  const { passwords } = await open(`${other.origin}/login`)
  assert.equal(passwords, 1)
  assert.ok(await isActive(app))
  await open(`${other.origin}/logout`)
  await assertEnded(app.client, app.tokens)
  await sessionEnd(app)
  await open(`${app.origin}/login`)
  return 'both tokens are rejected, and the app has ended its session'
})
await step('RP-initiated logout', () => logOut(app.client, { origin: app.origin, latest: () => app.tokens }))
process.exit(0)
