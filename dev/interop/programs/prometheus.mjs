// Prometheus: scrapes a target with access tokens that it gets for itself (client credentials).
// interop: long
import { strict as assert } from 'node:assert'
import { once } from 'node:events'
import { join } from 'node:path'
import express from 'express'
import { auth, requiredScopes } from 'express-oauth2-jwt-bearer'
import { announcePackage } from '../lib/debian.mjs'
import { ca, Child, configuration, temporaryFolder, until } from '../lib/processes.mjs'
import { freePort } from '../lib/server.mjs'
import { ask, issuer, step } from '../lib/steps.mjs'

const LIFETIMES = 3

announcePackage('Prometheus', 'prometheus')
const target = 'http://127.0.0.1:9100/metrics'
const client = await ask('client', {
  name: 'prometheus',
  options: ['--confidential', '--machine', '--scope', 'metrics', '--audience', target],
  redirectUri: null,
})

// A target that accepts access tokens of this issuer only.
const expiries = new Set()
const app = express()
app.use(auth({ issuerBaseURL: issuer, audience: target, strict: true }))
app.get('/metrics', requiredScopes('metrics'), (request, response) => {
  assert.equal(request.auth.payload.sub, client.client_id)
  expiries.add(request.auth.payload.exp)
  response.type('text/plain').end('reports_total 7\n')
})
app.use((error, request, response, next) => response.status(error.status ?? 500).end())
const listener = app.listen(0, '127.0.0.1')
await once(listener, 'listening')

// Starts Prometheus with a secret. Returns a function that returns what it knows of its target.
async function start(secret) {
  const port = await freePort()
  const folder = configuration('prometheus', {
    // JSON is YAML, too.
    'prometheus.yml': JSON.stringify({
      scrape_configs: [
        {
          job_name: 'api',
          scrape_interval: '1s',
          scrape_timeout: '1s',
          static_configs: [{ targets: [`127.0.0.1:${listener.address().port}`] }],
          oauth2: {
            client_id: client.client_id,
            client_secret: secret,
            scopes: ['metrics'],
            token_url: `${issuer}/oauth/token`,
            endpoint_params: { resource: target },
            tls_config: { ca_file: ca },
          },
        },
      ],
    }),
  })
  const child = new Child([
    'prometheus',
    `--config.file=${join(folder, 'prometheus.yml')}`,
    `--storage.tsdb.path=${temporaryFolder('prometheus-data')}`,
    `--web.listen-address=127.0.0.1:${port}`,
  ])
  await child.listens(port)
  const get = async (path) => (await (await fetch(`http://127.0.0.1:${port}/api/v1/${path}`)).json()).data
  const health = async (expected) =>
    await until(`a target that is ${expected}`, async () => {
      const [target] = (await get('targets')).activeTargets
      return target?.health === expected && target
    })
  return { child, health, query: async (text) => (await get(`query?query=${encodeURIComponent(text)}`)).result }
}

await step('scrape by client credentials', async () => {
  const prometheus = await start(client.client_secret)
  await prometheus.health('up')
  const [series] = await prometheus.query('reports_total')
  assert.equal(series.value[1], '7')
  expiries.clear()
  await until('tokens of several lifetimes', () => Math.max(...expiries) - Math.min(...expiries) >= 3 * LIFETIMES)
  const [lowest] = await prometheus.query('min_over_time(up[8s])')
  assert.equal(lowest.value[1], '1', 'no scrape failed')
  await prometheus.child.stop()
  return `passed, during ${LIFETIMES} lifetimes of access tokens without a failed scrape`
})
await step('wrong secret', async () => {
  const prometheus = await start('wrong')
  const { lastError } = await prometheus.health('down')
  assert.match(lastError, /invalid_client/)
  await prometheus.child.stop()
  return '`invalid_client`, and the target is down'
})
process.exit(0)
