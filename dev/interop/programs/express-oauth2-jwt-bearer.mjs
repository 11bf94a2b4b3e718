// express-oauth2-jwt-bearer: an API that verifies access tokens.
import { strict as assert } from 'node:assert'
import { once } from 'node:events'
// docs: api-import
import express from 'express'
import { auth, requiredScopes } from 'express-oauth2-jwt-bearer'
// docs: end
import { ClientCredentials } from 'simple-oauth2'
import { announce, ask, issuer, step } from '../lib/steps.mjs'

announce('express-oauth2-jwt-bearer')
const audience = 'https://api.example.com/'
const registered = await ask('client', {
  name: 'api-client',
  options: ['--confidential', '--machine', '--scope', 'read write', '--audience', audience],
})
const machine = new ClientCredentials({
  client: { id: registered.client_id, secret: registered.client_secret },
  auth: { tokenHost: issuer, tokenPath: '/oauth/token' },
})
const getToken = async (parameters) => (await machine.getToken(parameters)).token.access_token

// docs: api
const app = express()
app.use(auth({ issuerBaseURL: issuer, audience, strict: true }))
app.get('/reports', requiredScopes('read'), (request, response) => {
  response.json({ user: request.auth.payload.sub })
})
// docs: end
app.use((error, request, response, next) => {
  response.status(error.status ?? 500).set(error.headers ?? {}).end(error.message)
})
const listener = app.listen(0, '127.0.0.1')
await once(listener, 'listening')

async function call(token) {
  const response = await fetch(`http://127.0.0.1:${listener.address().port}/reports`, {
    headers: token ? { authorization: `Bearer ${token}` } : {},
  })
  return { status: response.status, text: await response.text() }
}

await step('access token for this API, by discovery and JWKS', async () => {
  const response = await call(await getToken({ scope: 'read', resource: audience }))
  assert.equal(response.status, 200, response.text)
  return 'accepted, `typ` included'
})
await step('no token, another audience, another scope, changed signature', async () => {
  assert.equal((await call()).status, 401)
  assert.equal((await call(await getToken({ scope: 'read' }))).status, 401)
  assert.equal((await call(await getToken({ scope: 'write', resource: audience }))).status, 403)
  const [head, claims, signature] = (await getToken({ scope: 'read', resource: audience })).split('.')
  const changed = (signature[9] === 'A' ? 'B' : 'A') + signature.slice(10)
  assert.equal((await call([head, claims, signature.slice(0, 9) + changed].join('.'))).status, 401)
  return '`401`, `401`, `403`, `401`'
})
await step('expiry', async () => {
  const token = await getToken({ scope: 'read', resource: audience })
  let response = await call(token)
  for (let i = 0; i < 100 && response.status === 200; i++) {
    await new Promise((resolve) => setTimeout(resolve, 100))
    response = await call(token)
  }
  assert.equal(response.status, 401)
  return '`401`'
})
process.exit(0)
