// JupyterHub with oauthenticator: it asks the userinfo endpoint at each request, and refreshes
// when that rejects the access token.
//
// interop: long
import { strict as assert } from 'node:assert'
import { randomBytes } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { output } from '../lib/commands.mjs'
import { Child, executable, temporaryFolder, tools, until } from '../lib/processes.mjs'
import { freePort, root } from '../lib/server.mjs'
import { announceVersion, apiStatus, ask, assertEnded, command, expiry, issuer, refreshes, skip, step } from '../lib/steps.mjs'

const bin = join(tools, 'venv/jupyterhub/bin')
if (!executable(join(bin, 'jupyterhub'))) skip('JupyterHub', 'jupyterhub of PyPI is not installed')
const versions = 'from importlib.metadata import version as v; print(v("jupyterhub"), "and oauthenticator", v("oauthenticator"))'
announceVersion('JupyterHub', await output([join(bin, 'python'), '-c', versions]))

const folder = temporaryFolder('jupyterhub')
const port = await freePort()
const url = `http://127.0.0.1:${port}`
const redirectUri = `${url}/hub/oauth_callback`
const home = `${url}/hub/home`
const client = await ask('client', {
  name: 'jupyterhub',
  options: [
    '--confidential', '--first-party', '--post-logout-redirect-uri', `${url}/hub/login`,
  ],
  redirectUri,
})
const { client_id, client_secret } = client
const token = randomBytes(32).toString('hex')
const metadata = await (await fetch(`${issuer}/.well-known/openid-configuration`)).json()
const logout = new URL(metadata.end_session_endpoint)
logout.search = new URLSearchParams({ client_id, post_logout_redirect_uri: `${url}/hub/login` })

const settings = {
  JupyterHub: {
    bind_url: url,
    hub_port: await freePort(),
    authenticator_class: 'generic-oauth',
    db_url: `sqlite:///${join(folder, 'hub.sqlite')}`,
    cookie_secret_file: join(folder, 'cookie_secret'),
    spawner_class: 'simple',
    services: [{ name: 'reader', api_token: token }],
    load_roles: [{ name: 'reader', scopes: ['admin:users', 'admin:auth_state'], services: ['reader'] }],
  },
  ConfigurableHTTPProxy: {
    command: [process.execPath, join(root, 'dev/interop/node_modules/configurable-http-proxy/bin/configurable-http-proxy')],
    api_url: `http://127.0.0.1:${await freePort()}`,
    pid_file: join(folder, 'proxy.pid'),
  },
  GenericOAuthenticator: {
    client_id,
    client_secret,
    oauth_callback_url: redirectUri,
    authorize_url: metadata.authorization_endpoint,
    token_url: metadata.token_endpoint,
    userdata_url: metadata.userinfo_endpoint,
    scope: ['openid', 'profile', 'groups'],
    login_service: 'Matchbook',
    username_claim: 'preferred_username',
    manage_groups: true,
    auth_state_groups_key: 'oauth_user.groups',
    allowed_groups: ['jupyter-staff'],
    enable_auth_state: true,
    // Userinfo is asked once a second at most.
    auth_refresh_age: 1,
    logout_redirect_url: logout.href,
  },
}

// Returns what JupyterHub keeps of the login.
async function stored() {
  const response = await fetch(`${url}/hub/api/users/ann`, { headers: { authorization: `token ${token}` } })
  const user = await response.json()
  assert.equal(response.status, 200, JSON.stringify(user))
  return user
}

const accessToken = async () => (await stored()).auth_state.access_token
const refreshToken = async () => (await stored()).auth_state.refresh_token
// Opens the page of the user, and returns how often the password was typed so far.
const open = async () => (await ask('visit', { url: home, until: home })).passwords
const login = `${url}/hub/oauth_login?next=/hub/home`
const logIn = async () => (await ask('visit', { url: login, until: home })).passwords

await step('configuration', async () => {
  const file = join(folder, 'jupyterhub_config.py')
  writeFileSync(
    file,
    `import json\nfor name, values in json.loads(${JSON.stringify(JSON.stringify(settings))}).items():\n    c[name].update(values)\n`,
  )
  const hub = new Child([join(bin, 'jupyterhub'), '--config', file], {
    cwd: folder,
    env: { ...process.env, JUPYTERHUB_CRYPT_KEY: randomBytes(32).toString('hex') },
  })
  // Its proxy starts before it.
  await hub.line(/JupyterHub is now running/)
})
await step('login of a user outside the group', async () => {
  await ask('visit', { url: login, untilText: 'Sorry, you are not currently authorized' })
  return 'rejected'
})
await step('login in Chromium, code with PKCE, groups by userinfo', async () => {
  await command('users', 'group', 'add', 'ann', 'jupyter-staff')
  await logIn()
  const user = await stored()
  assert.ok(user.groups.includes('jupyter-staff'))
  assert.ok(user.auth_state.refresh_token)
})
await step(`expiry and refresh × ${refreshes}`, async () => {
  for (let i = 0; i < refreshes; i++) {
    const before = await accessToken()
    await expiry(before)
    await until('an access token that the API accepts', async () => {
      assert.equal(await open(), 1, 'the user typed the password once')
      const after = await accessToken()
      assert.notEqual(after, before)
      return (await apiStatus(after)) === 200
    })
  }
})
await step('another group', async () => {
  await command('users', 'group', 'add', 'ann', 'jupyter-teachers')
  await until('the group', async () => {
    await open()
    return (await stored()).groups.includes('jupyter-teachers')
  })
  return 'JupyterHub knows it without a new login'
})
await step('logout at JupyterHub and at the server', async () => {
  const last = await refreshToken()
  // JupyterHub sends no ID token, so the server confirms first, and has a link back.
  await ask('visit', { url: `${url}/hub/logout`, logout: true, untilText: 'Back to the application' })
  await assertEnded(client, last)
  await ask('visit', { url: home, until: `${url}/hub/login` })
  assert.equal(await logIn(), 2, 'the user typed the password again')
  return 'the tokens are rejected, and the next login asks for the password'
})
await step('logout at the server only', async () => {
  const last = await refreshToken()
  await ask('visit', { url: `${issuer}/oauth/logout`, logout: true, untilText: 'You are logged out' })
  await assertEnded(client, last)
  // It asks userinfo again a second later.
  await new Promise((resolve) => setTimeout(resolve, 1100))
  await ask('visit', { url: home, until: `${url}/hub/login` })
  return 'JupyterHub asks for a new login'
})
process.exit(0)
