// A page that runs in Chromium and stays logged in (stay-page.js), and the server of its files.
import { readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import { ask, issuer, report } from './steps.mjs'

const read = (path) => readFileSync(new URL(path, import.meta.url))

// Runs a page to its end. `library` is the path of a script in node_modules, and `html` loads it and
// the page's own script, /app.js.
export async function runPage({ name, library, script, html }) {
  let config
  let logged
  const files = {
    '/': () => ['text/html', `<!doctype html><title>App</title><body>${html}<script type="module" src="/app.js"></script>`],
    '/app.js': () => ['text/javascript', read(script)],
    '/stay.js': () => ['text/javascript', read('stay-page.js')],
    '/library.js': () => ['text/javascript', read(`../node_modules/${library}`)],
    '/config.json': () => ['application/json', JSON.stringify(config)],
    '/turn': async (request) => {
      const outcome = JSON.parse(await text(request))
      report(outcome)
      if (outcome.login) process.exit(1)
      if (outcome.loggedOut) process.exit(0)
      await logged
      return ['application/json', JSON.stringify(await ask('turn'))]
    },
  }
  files['/callback'] = files['/']
  const listener = createServer(async (request, response) => {
    const file = files[request.url.split('?')[0]]
    if (!file) return response.writeHead(404).end()
    const [type, content] = await file(request)
    response.setHeader('content-type', type).end(content)
  })
  listener.listen(0, '127.0.0.1')
  await once(listener, 'listening')
  const origin = `http://127.0.0.1:${listener.address().port}`
  const options = ['--public', '--first-party']
  const { client_id: clientId } = await ask('client', { name, options, redirectUri: `${origin}/callback` })
  config = { issuer, clientId }
  logged = ask('visit', { url: origin, untilText: 'logged in', stays: true })
  await logged
}
