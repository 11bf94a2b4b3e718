// What the programs of kubectl have in common: a cluster, and the configuration of kubectl.
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:https'
import { join } from 'node:path'
import { createRemoteJWKSet, jwtVerify } from 'jose'
import { createCertificate } from './commands.mjs'
import { ca, configuration } from './processes.mjs'
import { issuer } from './steps.mjs'

// Starts a cluster that verifies ID tokens as kube-apiserver does, and records them.
export async function startCluster(audience) {
  const jwks = createRemoteJWKSet(new URL(`${issuer}/.well-known/jwks.json`))
  const tls = createCertificate()
  const cluster = { ca: tls.cert, received: [] }
  const certificate = { cert: readFileSync(tls.cert), key: readFileSync(tls.key) }
  const listener = createServer(certificate, async (request, response) => {
    const token = request.headers.authorization?.replace('Bearer ', '')
    const verified = await jwtVerify(token, jwks, { issuer, audience, algorithms: ['RS256'] }).catch(() => null)
    cluster.received.push({ token, claims: verified?.payload })
    response.statusCode = verified ? 200 : 401
    response.setHeader('content-type', 'application/json')
    response.end(JSON.stringify({ kind: 'Status', user: verified?.payload.preferred_username }))
  })
  listener.listen(0, '127.0.0.1')
  await once(listener, 'listening')
  cluster.url = `https://localhost:${listener.address().port}`
  return cluster
}

// Writes the tokens of a login into configurations of these names. Returns their paths. Each kubectl
// needs its own, because kubectl empties the file before it writes it.
export function writeConfig(cluster, { registered, tokens }, names) {
  // JSON is YAML, too.
  const config = {
    apiVersion: 'v1',
    kind: 'Config',
    'current-context': 'one',
    contexts: [{ name: 'one', context: { cluster: 'one', user: 'person' } }],
    clusters: [{ name: 'one', cluster: { server: cluster.url, 'certificate-authority': cluster.ca } }],
    users: [
      {
        name: 'person',
        user: {
          'auth-provider': {
            name: 'oidc',
            config: {
              'idp-issuer-url': issuer,
              'idp-certificate-authority': ca,
              'client-id': registered.client_id,
              'client-secret': registered.client_secret,
              'id-token': tokens.id_token,
              'refresh-token': tokens.refresh_token,
            },
          },
        },
      },
    ],
  }
  const folder = configuration('kubectl', Object.fromEntries(names.map((name) => [name, JSON.stringify(config)])))
  return names.map((name) => join(folder, name))
}
