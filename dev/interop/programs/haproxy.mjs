// HAProxy in front of an API: verifies access tokens by `jwt_verify`, with a published key as PEM.
// interop: long
import { strict as assert } from 'node:assert'
import { createPublicKey } from 'node:crypto'
import { createServer } from 'node:http'
import { once } from 'node:events'
import { join } from 'node:path'
import { announcePackage } from '../lib/debian.mjs'
import { forge, Login } from '../lib/login.mjs'
import { Child, configuration } from '../lib/processes.mjs'
import { freePort } from '../lib/server.mjs'
import { issuer, refreshes, step } from '../lib/steps.mjs'

announcePackage('HAProxy', 'haproxy')
const port = await freePort()
const api = `http://127.0.0.1:${port}/`
const backend = createServer((request, response) => response.end(request.headers['x-user'])).listen(0, '127.0.0.1')
await once(backend, 'listening')

await step('start with the published keys as PEM', async () => {
  const { keys } = await (await fetch(`${issuer}/.well-known/jwks.json`)).json()
  const signing = keys.filter((key) => key.alg === 'RS256')
  assert.ok(signing.length > 0)
  const files = signing.map((key, i) => [
    `${i}.pem`,
    createPublicKey({ key, format: 'jwk' }).export({ type: 'spki', format: 'pem' }),
  ])
  const folder = configuration('haproxy', Object.fromEntries(files))
  // One rule per published key.
  const isSigned = signing.map(
    (key, i) =>
      `http-request set-var(txn.signed) bool(true) if { var(txn.kid) -m str ${key.kid} } ` +
      `{ var(txn.bearer),jwt_verify(txn.alg,"${join(folder, `${i}.pem`)}") -m int 1 }`,
  )
  const text = `
defaults
  mode http
  timeout client 10s
  timeout server 10s
  timeout connect 10s
frontend api
  bind 127.0.0.1:${port}
  http-request set-var(txn.bearer) http_auth_bearer
  http-request set-var(txn.alg) var(txn.bearer),jwt_header_query('$.alg')
  http-request set-var(txn.kid) var(txn.bearer),jwt_header_query('$.kid')
  http-request set-var(txn.typ) var(txn.bearer),jwt_header_query('$.typ')
  http-request set-var(txn.iss) var(txn.bearer),jwt_payload_query('$.iss')
  http-request set-var(txn.aud) var(txn.bearer),jwt_payload_query('$.aud')
  http-request set-var(txn.scope) var(txn.bearer),jwt_payload_query('$.scope')
  http-request set-var(txn.exp) var(txn.bearer),jwt_payload_query('$.exp','int')
  http-request set-var(txn.now) date()
  ${isSigned.join('\n  ')}
  http-request deny deny_status 401 unless { var(txn.alg) -m str RS256 } { var(txn.signed) -m bool }
  http-request deny deny_status 401 unless { var(txn.typ) -m str at+jwt } { var(txn.iss) -m str ${issuer} }
  http-request deny deny_status 401 unless { var(txn.aud) -m str ${api} }
  http-request deny deny_status 401 if { var(txn.exp),sub(txn.now) -m int le 0 }
  http-request deny deny_status 403 unless { var(txn.scope) -m reg (^|\\ )read(\\ |$) }
  http-request set-header x-user %[var(txn.bearer),jwt_payload_query('$.sub')]
  default_backend reports
backend reports
  server one 127.0.0.1:${backend.address().port}
`
  const main = configuration('haproxy-main', { 'haproxy.cfg': text })
  const child = new Child(['haproxy', '-db', '-f', join(main, 'haproxy.cfg')])
  await child.listens(port)
})

async function call(token) {
  const response = await fetch(api, { headers: token ? { authorization: `Bearer ${token}` } : {} })
  return { status: response.status, text: await response.text() }
}
const isAccepted = async (token) => {
  const { status } = await call(token)
  assert.ok(status === 200 || status === 401, `status ${status}`)
  return status === 200
}

const login = await Login.client('haproxy-client', ['--scope', 'read write', '--audience', api], {
  scope: 'openid read write',
  resource: api,
})
await step('access token of a login in Chromium', async () => {
  await login.open()
  const { status, text } = await call(login.tokens.access_token)
  assert.equal(status, 200, text)
  const [, claims] = login.tokens.access_token.split('.')
  assert.equal(text, JSON.parse(Buffer.from(claims, 'base64url')).sub)
  return 'accepted, by `alg`, `kid`, `typ`, `iss`, `aud`, `exp` and `scope`'
})
await step('no token, changed signature, ID token, another audience, another scope', async () => {
  assert.equal((await call()).status, 401)
  assert.equal((await call(forge(login.tokens.access_token))).status, 401)
  assert.equal((await call(login.tokens.id_token)).status, 401)
  const other = await Login.client('haproxy-other', ['--scope', 'read'], { scope: 'read' })
  await other.open()
  assert.equal((await call(other.tokens.access_token)).status, 401)
  await login.refresh({ scope: 'write' })
  assert.equal((await call(login.tokens.access_token)).status, 403)
  return '`401`, and `403` for the scope'
})
await step(`expiry and refresh × ${refreshes}`, async () => {
  await login.refresh()
  await login.refreshRepeatedly(isAccepted)
})
process.exit(0)
