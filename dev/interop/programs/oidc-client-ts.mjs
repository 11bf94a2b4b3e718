// oidc-client-ts in the browser: a single-page app, whose requests are cross-origin (CORS), with
// automatic renewal and RP-initiated logout.
import { strict as assert } from 'node:assert'
import { readFileSync } from 'node:fs'
import { announce, ask, issuer, refreshes, step } from '../lib/steps.mjs'
import { addUser, assertUser, listen, scope } from '../lib/web-app.mjs'

announce('oidc-client-ts')
const email = await addUser('browser@example.com')
const read = (path) => readFileSync(new URL(path, import.meta.url))
const page = `<!doctype html><title>App</title>
<script src="/oidc-client-ts.js"></script>
<body><script type="module" src="/app.js"></script>`
let config
const files = {
  '/': () => ['text/html', page],
  '/callback': () => ['text/html', page],
  '/goodbye': () => ['text/html', page],
  '/app.js': () => ['text/javascript', read('../lib/oidc-client-ts-page.js')],
  '/oidc-client-ts.js': () => ['text/javascript', read('../node_modules/oidc-client-ts/dist/browser/oidc-client-ts.min.js')],
  '/config.json': () => ['application/json', JSON.stringify(config)],
}
const { origin, serve } = await listen()
serve((request, response) => {
  const file = files[request.url.split('?')[0]]
  if (!file) return response.writeHead(404).end()
  const [type, content] = file()
  response.setHeader('content-type', type).end(content)
})
const { client_id: clientId } = await ask('client', {
  name: 'oidc-client-ts',
  options: ['--public', '--first-party', '--post-logout-redirect-uri', `${origin}/goodbye`],
  redirectUri: `${origin}/callback`,
})
config = { issuer, clientId, refreshes, scope }

await step(`discovery, login, userinfo, automatic renewal × ${refreshes}, revocation, RP-initiated logout`, async () => {
  const { text, passwords } = await ask('visit', { url: origin, untilText: 'results {' })
  const { profile, ...results } = JSON.parse(text.slice(text.indexOf('{')))
  assert.deepEqual(results, {
    isSameSession: true,
    afterRevocation: 401,
    refreshAfterRevocation: 'invalid_grant',
    state: 'logout',
    afterLogout: 401,
    refreshAfterLogout: 'invalid_grant',
    userAfterLogout: null,
  })
  assertUser(profile, email)
  assert.equal(passwords, 1, 'the second login needs no password')
  return 'both tokens are rejected after the revocation, and after the logout'
})
await step('login after the logout', async () => {
  const { text, passwords } = await ask('visit', { url: origin, untilText: 'results {' })
  assert.ok(!text.includes('error'), text)
  assert.equal(passwords, 2)
  return 'asks for the password'
})
process.exit(0)
