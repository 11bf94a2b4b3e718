// oauth4webapi in the browser: a single-page app, whose requests are cross-origin (CORS).
import { strict as assert } from 'node:assert'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { once } from 'node:events'
import { announceAs, ask, issuer, refreshes, step } from '../lib/steps.mjs'

const read = (path) => readFileSync(new URL(path, import.meta.url))
announceAs('oauth4webapi in Chromium', 'oauth4webapi')

const page = `<!doctype html><title>App</title>
<script type="importmap">{"imports":{"oauth4webapi":"/oauth4webapi.js"}}</script>
<body><script type="module" src="/app.js"></script>`
let config
const files = {
  '/': () => ['text/html', page],
  '/callback': () => ['text/html', page],
  '/app.js': () => ['text/javascript', read('../lib/single-page-app.js')],
  '/oauth4webapi.js': () => ['text/javascript', read('../node_modules/oauth4webapi/build/index.js')],
  '/config.json': () => ['application/json', JSON.stringify(config)],
}
const listener = createServer((request, response) => {
  const file = files[request.url.split('?')[0]]
  if (!file) return response.writeHead(404).end()
  const [type, content] = file()
  response.setHeader('content-type', type).end(content)
})
listener.listen(0, '127.0.0.1')
await once(listener, 'listening')
const origin = `http://127.0.0.1:${listener.address().port}`
const { client_id: clientId } = await ask('client', {
  name: 'single-page-app',
  // The default. On a busy machine two tabs can be more than the 2 s of this run apart.
  options: ['--public', '--first-party', '--scope', 'read', '--grace-period', '120s'],
  redirectUri: `${origin}/callback`,
})
config = { issuer, clientId, refreshes }

await step(`discovery, login, refresh × ${refreshes}, two tabs at once, revocation, refusal`, async () => {
  const { text } = await ask('visit', { url: origin, untilText: 'results {' })
  const results = JSON.parse(text.slice(text.indexOf('{')))
  assert.deepEqual(results, { sameSuccessor: true, afterLogout: 'invalid_grant' })
  return 'both tabs get the same successor; `invalid_grant` after the logout'
})
process.exit(0)
