// mod_auth_openidc: Apache logs users in, refreshes, and drops a session that
// has ended elsewhere (back-channel logout).
// interop: long
import { strict as assert } from 'node:assert'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { announcePackage, startApache } from '../lib/debian.mjs'
import { Login } from '../lib/login.mjs'
import { ca, configuration, until } from '../lib/processes.mjs'
import { freePort } from '../lib/server.mjs'
import { apiStatus, ask, command, expiry, issuer, refreshes, step } from '../lib/steps.mjs'

announcePackage('mod_auth_openidc (Apache)', 'libapache2-mod-auth-openidc')
const name = 'robin'
await ask('user', { name, groups: ['operators'] })
const port = await freePort()
const site = `http://127.0.0.1:${port}`
const redirectUri = `${site}/callback`
const goodbye = `${site}/goodbye.html`
const client = await ask('client', {
  name: 'mod_auth_openidc',
  options: [
    '--confidential',
    '--first-party',
    ...['--post-logout-redirect-uri', goodbye],
    ...['--backchannel-logout-uri', `${redirectUri}?logout=backchannel`],
  ],
  redirectUri,
})
// Apache runs as another user.
const trust = join(configuration('ca', { 'ca.pem': readFileSync(ca) }), 'ca.pem')
const apache = await startApache(
  ['auth_openidc'],
  `
OIDCProviderMetadataURL ${issuer}/.well-known/openid-configuration
OIDCCABundlePath ${trust}
OIDCClientID ${client.client_id}
OIDCClientSecret ${client.client_secret}
OIDCRedirectURI ${redirectUri}
OIDCCryptoPassphrase ${client.client_secret}
OIDCScope "openid profile groups"
OIDCPKCEMethod S256
OIDCRemoteUserClaim preferred_username
OIDCInfoHook access_token refresh_token id_token userinfo remote_user
CustomLog "|/bin/cat" "%m %U%q %>s"
<Location />
  AuthType openid-connect
  Require claim groups:operators
</Location>
# Not for /callback: the information about a session would be requested with the next refresh token,
# which mod_auth_openidc 2.4.12 then does not save.
<Location /index.html>
  OIDCRefreshAccessTokenBeforeExpiry 1 logout_on_error
</Location>
# A logout token arrives without claims of a user.
<Location /callback>
  Require valid-user
</Location>
<Location /goodbye.html>
  AuthType None
  Require all granted
</Location>
`,
  port,
)

// Opens the page, each time by another URL: Chromium would show it from its cache.
let opened = 0
async function open() {
  opened += 1
  return await ask('visit', { url: `${site}/index.html?${opened}`, untilText: 'the report' })
}
// Returns what mod_auth_openidc knows of its session, or null if it has none.
async function session() {
  const { text } = await ask('visit', { url: `${redirectUri}?info=json`, until: redirectUri })
  return text.startsWith('{') ? JSON.parse(text) : null
}
// Opens a page until Apache has an access token that the API accepts, and returns the session. On a
// busy machine the token may expire meanwhile.
async function valid() {
  await open()
  return await until('a valid access token', async () => {
    const now = await session()
    if ((await apiStatus(now.access_token)) === 200) return now
    await open()
  })
}

await step('login in Chromium, code with PKCE, `nonce`, userinfo', async () => {
  assert.equal(await session(), null)
  const { remote_user: user, id_token: claims, userinfo } = await valid()
  assert.equal(user, name)
  assert.equal(userinfo.sub, claims.sub)
  return 'passed, `Require claim groups:operators`'
})
await step(`expiry and refresh × ${refreshes}`, async () => {
  let last = await session()
  for (let i = 0; i < refreshes; i++) {
    await expiry(last.access_token)
    const next = await valid()
    assert.notEqual(next.refresh_token, last.refresh_token)
    last = next
  }
})

// Logs in to another app in the same browser, and out of the server.
async function logOutElsewhere() {
  const other = await Login.client('other-app', ['--post-logout-redirect-uri', goodbye], { scope: 'openid' })
  await other.open()
  const parameters = new URLSearchParams({
    id_token_hint: other.tokens.id_token,
    post_logout_redirect_uri: goodbye,
    state: 'the-state',
  })
  const { url } = await ask('visit', { url: `${issuer}/oauth/logout?${parameters}`, until: goodbye })
  assert.equal(url, `${goodbye}?state=the-state`)
}

// Waits until Apache has accepted the next logout token.
let logoutTokens = 0
async function receivesLogout() {
  const accepted = () => apache.lines.filter((line) => line.startsWith('POST /callback?logout=backchannel 200'))
  await until('a logout token', () => accepted().length > logoutTokens)
  logoutTokens += 1
  assert.equal(await session(), null)
}

await step('back-channel logout after a revocation', async () => {
  const { refresh_token: token } = await session()
  const form = new URLSearchParams({ token, client_id: client.client_id, client_secret: client.client_secret })
  const response = await fetch(`${issuer}/oauth/revoke`, { method: 'POST', body: form })
  assert.equal(response.status, 200)
  await receivesLogout()
  return 'Apache has dropped its session'
})
await step('back-channel logout after a logout at another app', async () => {
  await open()
  const { access_token: accessToken } = await session()
  await logOutElsewhere()
  await receivesLogout()
  assert.equal(await apiStatus(accessToken), 401)
  return 'Apache has dropped its session, and the access token is rejected'
})
await step('logout at Apache (RP-initiated)', async () => {
  const { passwords: before } = await open()
  const { access_token: accessToken } = await session()
  await ask('visit', { url: `${redirectUri}?logout=${encodeURIComponent(goodbye)}`, until: goodbye })
  // Apache has removed its session itself, and receives a logout token nevertheless.
  await receivesLogout()
  assert.equal(await apiStatus(accessToken), 401)
  const { passwords: after } = await open()
  assert.equal(after, before + 1, 'the next login asks for the password')
  return 'session ended, the next login asks for the password'
})
await step('back-channel logout after the account was disabled', async () => {
  await command('users', 'disable', name)
  await receivesLogout()
  return 'Apache has dropped its session'
})
process.exit(0)
