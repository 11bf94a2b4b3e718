// mod_oauth2: Apache in front of an API, which introspects access tokens.
// interop: long
import { strict as assert } from 'node:assert'
import { announcePackage, startApache } from '../lib/debian.mjs'
import { forge, Login } from '../lib/login.mjs'
import { freePort } from '../lib/server.mjs'
import { ask, issuer, refreshes, step } from '../lib/steps.mjs'

announcePackage('mod_oauth2 (Apache)', 'libapache2-mod-oauth2')
const port = await freePort()
const api = `http://127.0.0.1:${port}/`
const server = await ask('client', {
  name: 'mod_oauth2',
  options: ['--confidential', '--machine', '--audience', api],
  redirectUri: null,
})
const options = new URLSearchParams({
  'introspect.auth': 'client_secret_basic',
  client_id: server.client_id,
  client_secret: server.client_secret,
  // mod_oauth2 has no setting for a CA.
  'introspect.ssl_verify': 'false',
  // A result is cached for one second.
  expiry: '1',
})
await startApache(
  ['oauth2'],
  `
OAuth2TokenVerify introspect ${issuer}/oauth/introspect ${options}
OAuth2TargetPass remote_user_claim=sub
<Location />
  AuthType oauth2
  Require oauth2_claim scope:read
  Header set X-User "expr=%{REMOTE_USER}"
</Location>
`,
  port,
)

async function call(token) {
  const response = await fetch(api, { headers: token ? { authorization: `Bearer ${token}` } : {} })
  return { status: response.status, user: response.headers.get('x-user'), text: await response.text() }
}
const isAccepted = async (token) => {
  const { status } = await call(token)
  assert.ok(status === 200 || status === 401, `status ${status}`)
  return status === 200
}

const login = await Login.client('mod_oauth2-client', ['--scope', 'read write', '--audience', api], {
  scope: 'openid read write',
  resource: api,
})
// mod_oauth2 compares the whole value of `scope`.
const narrow = () => login.refresh({ scope: 'read' })
let idToken
await step('access token of a login in Chromium, by introspection', async () => {
  await login.open()
  idToken = login.tokens.id_token
  await narrow()
  const { status, text, user } = await call(login.tokens.access_token)
  assert.equal(status, 200, text)
  assert.equal(text, 'the report\n')
  const [, claims] = login.tokens.access_token.split('.')
  assert.equal(user, JSON.parse(Buffer.from(claims, 'base64url')).sub)
  return 'accepted, `REMOTE_USER` is the user id'
})
await step('no token, changed signature, ID token, another audience, another scope', async () => {
  assert.equal((await call()).status, 401)
  assert.equal((await call(forge(login.tokens.access_token))).status, 401)
  assert.equal((await call(idToken)).status, 401)
  const other = await Login.client('mod_oauth2-other', ['--scope', 'read'], { scope: 'read' })
  await other.open()
  assert.equal((await call(other.tokens.access_token)).status, 401)
  await login.refresh({ scope: 'write' })
  assert.equal((await call(login.tokens.access_token)).status, 401)
  return '`401`'
})
await step(`expiry and refresh × ${refreshes}`, async () => {
  await narrow()
  await login.refreshRepeatedly(isAccepted, narrow)
})
await step('logout', async () => {
  assert.ok(await isAccepted(login.tokens.access_token))
  await login.revoke()
  const start = Date.now()
  while (await isAccepted(login.tokens.access_token)) {
    assert.ok(Date.now() - start < 2000, 'rejected within the lifetime of the cached result')
  }
  return 'rejected as soon as the cached result expires'
})
process.exit(0)
