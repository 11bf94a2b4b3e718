// kubectl, an old and a new version: refreshes id_tokens and sends them to a cluster (auth provider
// `oidc`).
// interop: long
import { strict as assert } from 'node:assert'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:https'
import { join } from 'node:path'
import { createRemoteJWKSet, jwtVerify } from 'jose'
import { Login } from '../lib/login.mjs'
import { ca, configuration, executable, tools } from '../lib/processes.mjs'
import { createCertificate, run, versionOf } from '../lib/commands.mjs'
import { announceVersion, ask, issuer, refreshes, skip, step } from '../lib/steps.mjs'

const kubectl = ['1.20', '1.37'].map((version) => executable(join(tools, 'kubectl', `kubectl-${version}`)))
if (!kubectl.every(Boolean)) skip('kubectl', 'its packages cannot be had')

const login = await Login.client('kubectl', ['--grace-period', '60s'], { scope: 'openid profile groups' })
const { client_id: clientId, client_secret: clientSecret } = login.registered

const name = 'kim'
await ask('user', { name, groups: ['operators'] })

// A cluster that verifies id_tokens as kube-apiserver does, and records them.
const jwks = createRemoteJWKSet(new URL(`${issuer}/.well-known/jwks.json`))
const received = []
const tls = createCertificate()
const cluster = createServer(
  { cert: readFileSync(tls.cert), key: readFileSync(tls.key) },
  async (request, response) => {
    const token = request.headers.authorization?.replace('Bearer ', '')
    const verified = await jwtVerify(token, jwks, { issuer, audience: clientId, algorithms: ['RS256'] }).catch(() => null)
    received.push({ token, claims: verified?.payload })
    response.statusCode = verified ? 200 : 401
    response.setHeader('content-type', 'application/json')
    response.end(JSON.stringify({ kind: 'Status', user: verified?.payload.preferred_username }))
  },
)
cluster.listen(0, '127.0.0.1')
await once(cluster, 'listening')

// The configuration, and a copy of it. Two processes cannot share one: kubectl empties the file
// before it writes it.
let kubeconfigs
function configure(tokens) {
  // JSON is YAML, too.
  const config = {
    apiVersion: 'v1',
    kind: 'Config',
    'current-context': 'one',
    contexts: [{ name: 'one', context: { cluster: 'one', user: 'person' } }],
    clusters: [
      { name: 'one', cluster: { server: `https://localhost:${cluster.address().port}`, 'certificate-authority': tls.cert } },
    ],
    users: [
      {
        name: 'person',
        user: {
          'auth-provider': {
            name: 'oidc',
            config: {
              'idp-issuer-url': issuer,
              'idp-certificate-authority': ca,
              'client-id': clientId,
              'client-secret': clientSecret,
              'id-token': tokens.id_token,
              'refresh-token': tokens.refresh_token,
            },
          },
        },
      },
    ],
  }
  const text = JSON.stringify(config)
  const folder = configuration('kubectl', { config: text, copy: text })
  kubeconfigs = [join(folder, 'config'), join(folder, 'copy')]
}

for (const binary of kubectl) {
  announceVersion('kubectl', versionOf(binary, ['version', '--client']))
  const get = (kubeconfig) => run(binary, ['--kubeconfig', kubeconfig, 'get', '--raw', '/version'])

  await step('id_token of a login in Chromium', async () => {
    received.length = 0
    await login.open()
    configure(login.tokens)
    // kubectl refreshes 10 s before the expiry, so here at once.
    for (const { status, stdout, stderr } of await Promise.all(kubeconfigs.map(get))) {
      assert.equal(status, 0, stderr)
      assert.equal(JSON.parse(stdout).user, name)
    }
    const [{ claims }] = received
    assert.deepEqual(claims.groups, ['operators'])
    return 'accepted, with `preferred_username` and `groups`'
  })
  await step(`expiry, and two copies that refresh at the same time × ${refreshes}`, async () => {
    for (let i = 0; i < refreshes; i++) {
      const { exp } = received.at(-1).claims
      await new Promise((resolve) => setTimeout(resolve, exp * 1000 - Date.now() + 100))
      received.length = 0
      for (const { status, stderr } of await Promise.all(kubeconfigs.map(get))) assert.equal(status, 0, stderr)
      assert.equal(received.length, 2)
      for (const { claims } of received) assert.ok(claims.exp > exp, 'a new id_token')
    }
  })
  await step('logout', async () => {
    const [, refreshToken] = readFileSync(kubeconfigs[0], 'utf8').match(/refresh-token: (\S+)/)
    login.tokens = { refresh_token: refreshToken }
    await login.revoke()
    const { exp } = received.at(-1).claims
    await new Promise((resolve) => setTimeout(resolve, exp * 1000 - Date.now() + 100))
    const { status, stderr } = await get(kubeconfigs[0])
    assert.notEqual(status, 0)
    assert.match(stderr, /invalid_grant/)
    return '`invalid_grant` after the expiry'
  })
}
process.exit(0)
