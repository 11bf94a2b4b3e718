// Synapse, the server of Matrix: its users log in with OpenID Connect. A back-channel logout ends
// the devices of the session.
//
// interop: long
import { strict as assert } from 'node:assert'
import { join } from 'node:path'
import { writeFileSync } from 'node:fs'
import { output } from '../lib/commands.mjs'
import { Child, executable, temporaryFolder, tools, until } from '../lib/processes.mjs'
import { freePort } from '../lib/server.mjs'
import { announceVersion, ask, command, issuer, skip, step } from '../lib/steps.mjs'

const python = executable(join(tools, 'venv/synapse/bin/python'))
if (!python) skip('Synapse', 'matrix-synapse of PyPI is not installed')
const version = 'from importlib.metadata import version; print(version("matrix-synapse"))'
announceVersion('Synapse', await output([python, '-c', version]))

const folder = temporaryFolder('synapse')
const port = await freePort()
const url = `http://127.0.0.1:${port}`
const { client_id, client_secret } = await ask('client', {
  name: 'synapse',
  options: [
    '--confidential', '--first-party',
    '--backchannel-logout-uri', `${url}/_synapse/client/oidc/backchannel_logout`,
  ],
  redirectUri: `${url}/_synapse/client/oidc/callback`,
})
// A user whose sessions no other program has.
const name = 'ann-of-synapse'
await ask('user', { name })
// The app of Matrix, to which Synapse returns.
const app = `${url}/_matrix/static/`

const configuration = {
  server_name: 'localhost',
  public_baseurl: `${url}/`,
  listeners: [{ type: 'http', port, bind_addresses: ['127.0.0.1'], tls: false, resources: [{ names: ['client'] }] }],
  database: { name: 'sqlite3', args: { database: join(folder, 'homeserver.db') } },
  signing_key_path: join(folder, 'signing.key'),
  media_store_path: join(folder, 'media'),
  pid_file: join(folder, 'homeserver.pid'),
  log_config: join(folder, 'log.yaml'),
  macaroon_secret_key: 'a secret for tests',
  form_secret: 'another secret for tests',
  report_stats: false,
  trusted_key_servers: [],
  sso: { client_whitelist: [app] },
  oidc_providers: [
    {
      idp_id: 'matchbook',
      idp_name: 'Matchbook',
      issuer,
      client_id,
      client_secret,
      scopes: ['openid', 'profile', 'email', 'groups'],
      backchannel_logout_enabled: true,
      attribute_requirements: [{ attribute: 'groups', value: 'synapse-staff' }],
      user_mapping_provider: {
        config: {
          localpart_template: '{{ user.preferred_username }}',
          display_name_template: '{{ user.preferred_username }}',
        },
      },
    },
  ],
}
const log = {
  version: 1,
  formatters: { line: { format: '%(levelname)s %(name)s %(message)s' } },
  handlers: { console: { class: 'logging.StreamHandler', formatter: 'line' } },
  root: { level: 'INFO', handlers: ['console'] },
}

// Sends a request of the Matrix API.
async function matrix(method, path, { token, body } = {}) {
  const response = await fetch(`${url}/_matrix/client/v3/${path}`, {
    method,
    headers: token ? { authorization: `Bearer ${token}` } : {},
    body: body && JSON.stringify(body),
  })
  return { status: response.status, body: await response.json() }
}

const statusOf = async (token) => (await matrix('GET', 'account/whoami', { token })).status
const redirect = `${url}/_matrix/client/v3/login/sso/redirect/oidc-matchbook?redirectUrl=${encodeURIComponent(app)}`

// Waits until Synapse has logged a device out.
const ended = ({ access_token: token }) =>
  until('the end of the device', async () => (await statusOf(token)) === 401)

// Logs in and returns what Synapse tells its app.
async function logIn() {
  const { url: returned } = await ask('visit', { url: redirect, until: `${app}?loginToken=` })
  const token = new URL(returned).searchParams.get('loginToken')
  const { status, body } = await matrix('POST', 'login', { body: { type: 'm.login.token', token } })
  assert.equal(status, 200, JSON.stringify(body))
  return body
}

await step('configuration by discovery', async () => {
  const file = join(folder, 'homeserver.yaml')
  // JSON is YAML.
  writeFileSync(file, JSON.stringify(configuration))
  writeFileSync(configuration.log_config, JSON.stringify(log))
  const start = [python, '-m', 'synapse.app.homeserver', '--config-path', file]
  await output([...start, '--generate-keys'])
  const server = new Child(start)
  await server.responds(`${url}/health`)
  const { body } = await matrix('GET', 'login')
  const flow = body.flows.find(({ type }) => type === 'm.login.sso')
  assert.equal(flow.identity_providers[0].id, 'oidc-matchbook')
})
await step('login of a user outside the group', async () => {
  await ask('visit', { url: redirect, untilText: 'You are not allowed to log in here.' })
  return 'rejected'
})
let first
await step('login in Chromium, code with PKCE, `nonce`, a claim of groups', async () => {
  await command('users', 'group', 'add', name, 'synapse-staff')
  first = await logIn()
  assert.equal(first.user_id, `@${name}:localhost`)
  assert.equal(await statusOf(first.access_token), 200)
})
await step('back-channel logout', async () => {
  const second = await logIn()
  await ask('visit', { url: `${issuer}/oauth/logout`, logout: true, untilText: 'You are logged out' })
  await ended(first)
  await ended(second)
  return 'both devices are logged out'
})
await step('back-channel logout after the administrator has ended the sessions', async () => {
  const third = await logIn()
  await command('users', 'sessions', name, '--end')
  await ended(third)
  return 'the device is logged out'
})
await step('new login and logout', async () => {
  const last = await logIn()
  assert.equal(last.user_id, `@${name}:localhost`)
  assert.equal((await matrix('POST', 'logout', { token: last.access_token })).status, 200)
  assert.equal(await statusOf(last.access_token), 401)
})
process.exit(0)
