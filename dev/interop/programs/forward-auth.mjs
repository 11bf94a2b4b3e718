// nginx, Caddy and Traefik: protect an application by /forward-auth, with the examples of the
// documentation.
// interop: long
import { strict as assert } from 'node:assert'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { request } from 'node:https'
import { installedProxies } from '../lib/proxies.mjs'
import { account, freePort, Server } from '../lib/server.mjs'
import { announceVersion, ask, skip, step } from '../lib/steps.mjs'

// An application that responds with the headers of each request.
const app = createServer((incoming, response) => {
  response.setHeader('content-type', 'application/json')
  response.end(JSON.stringify({ url: incoming.url, headers: incoming.headers }))
})
app.listen(0, '127.0.0.1')
await once(app, 'listening')

// Sends a request to the application through a proxy.
async function call(port, headers) {
  const outgoing = request({
    host: '127.0.0.1',
    port,
    path: '/x?a=b',
    servername: 'app.example.com',
    headers: { host: `app.example.com:${port}`, ...headers },
    rejectUnauthorized: false,
    agent: false,
  })
  outgoing.end()
  const [response] = await once(outgoing, 'response')
  let text = ''
  for await (const part of response) text += part
  return { status: response.statusCode, headers: response.headers, text }
}

// Returns the tokens of a login at the native endpoints.
async function logIn(server) {
  const response = await fetch(`${server.direct}/login`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ name: account.name, password: account.password }),
  })
  assert.equal(response.status, 200, await response.clone().text())
  return await response.json()
}

const proxies = installedProxies()
if (!proxies.every(({ version }) => version)) skip('nginx, Caddy, Traefik', 'a proxy is not installed')
for (const { name, version, start, removesCookie } of proxies) {
  announceVersion(`${name}, forward authentication`, version)
  const port = await freePort()
  const site = `https://app.example.com:${port}`
  const server = await Server.start({
    settings: {
      'tls.mode': 'off',
      'tokens.issuer': `https://auth.example.com:${port}`,
      'tokens.audience': `https://auth.example.com:${port}`,
      'tokens.access_lifetime': '60s',
      'server.trusted_proxies': '127.0.0.1',
      'forward_auth.hosts': `app.example.com:${port}`,
      'forward_auth.cookie_domain': 'example.com',
    },
  })
  process.once('exit', () => server.child.kill('SIGKILL'))
  server.run(['users', 'group', 'add', account.name, 'operators'])
  await start({ proxy: port, matchbook: new URL(server.direct).port, app: app.address().port })

  await step('page without a login: login in Chromium, and return to the page', async () => {
    const { url, text } = await ask('visit', { url: `${site}/x?a=b&c=d`, untilText: 'x-auth-user' })
    assert.equal(url, `${site}/x?a=b&c=d`)
    const { headers } = JSON.parse(text)
    assert.equal(headers['x-auth-name'], account.name)
    assert.equal(headers['x-auth-groups'], 'operators')
    assert.ok(!headers['x-auth-email'], 'the user has no address')
    assert.equal(/matchbook_forward=[^;]/.test(headers.cookie), !removesCookie, headers.cookie)
    return removesCookie ? 'user in `X-Auth-…`, cookie removed' : 'user in `X-Auth-…`'
  })
  await step('API without a login', async () => {
    const { status, headers } = await call(port, { accept: 'application/json' })
    assert.equal(status, 401)
    assert.equal(headers['www-authenticate'].match(/Bearer/g).length, 1)
    return '`401`'
  })
  await step('access token with forged headers, and logout', async () => {
    const { token, refreshToken } = await logIn(server)
    // Some applications do not distinguish `_` and `.` from `-`.
    const names = ['X-Auth-User', 'X_Auth_User', 'X-Auth_Name', 'X_Auth-Email', 'X.Auth.Groups', 'X-Auth.Groups']
    const forged = Object.fromEntries(names.map((header) => [header, 'mallory']))
    const { status, headers, text } = await call(port, { authorization: `Bearer ${token}`, ...forged })
    assert.equal(status, 200, text + JSON.stringify(headers))
    assert.ok(!text.includes('mallory'), text)
    assert.equal(JSON.parse(text).headers['x-auth-name'], account.name)
    const form = new URLSearchParams({ refresh_token: refreshToken })
    assert.equal((await fetch(`${server.direct}/logout`, { method: 'POST', body: form })).status, 204)
    assert.equal((await call(port, { authorization: `Bearer ${token}` })).status, 401)
    return 'accepted until the logout, the headers are replaced'
  })
  await step('logout in Chromium', async () => {
    const { passwords: before } = await ask('visit', { url: `${site}/`, untilText: 'x-auth-user' })
    const logout = `https://auth.example.com:${port}/oauth/logout`
    await ask('visit', { url: logout, logout: true, untilText: 'You are logged out' })
    const { passwords: after } = await ask('visit', { url: `${site}/`, untilText: 'x-auth-user' })
    assert.equal(after, before + 1)
    return 'the next request leads to the login page'
  })
}
process.exit(0)
