// Imitates Go's x/oauth2, which sends a failed token request once more, with the other method of
// client authentication. Here the response to the first request is lost.
import { strict as assert } from 'node:assert'
import { createHash, randomBytes } from 'node:crypto'
import { announceVersion, apiStatus, ask, issuer, step } from '../lib/steps.mjs'
import { Proxy } from '../lib/proxy.mjs'

announceVersion("Go's double exchange", 'imitated')
const { client_id: id, client_secret: secret, redirect_uri: redirectUri } = await ask('client', {
  name: 'repeated-exchange',
  options: ['--confidential', '--first-party', '--scope', 'read'],
})
const verifier = randomBytes(32).toString('base64url')

async function logIn() {
  const url = new URL(`${issuer}/oauth/authorize`)
  url.search = new URLSearchParams({
    client_id: id,
    redirect_uri: redirectUri,
    response_type: 'code',
    scope: 'read',
    code_challenge: createHash('sha256').update(verifier).digest('base64url'),
    code_challenge_method: 'S256',
  })
  const { url: returned } = await ask('visit', { url: url.href, until: redirectUri })
  return new URL(returned).searchParams.get('code')
}

// Sends the token request by Basic, and if that fails in the form.
async function exchange(base, code) {
  const form = { grant_type: 'authorization_code', code, redirect_uri: redirectUri, code_verifier: verifier }
  const send = (headers, more) =>
    fetch(`${base}/oauth/token`, { method: 'POST', headers, body: new URLSearchParams({ ...form, ...more }) })
  const basic = `Basic ${Buffer.from(`${id}:${secret}`).toString('base64')}`
  let failed = false
  try {
    const response = await send({ authorization: basic }, {})
    if (response.ok) return { failed, tokens: await response.json() }
  } catch {}
  failed = true
  const response = await send({}, { client_id: id, client_secret: secret })
  assert.equal(response.status, 200, await response.clone().text())
  return { failed, tokens: await response.json() }
}

await step('response to the first exchange lost, second exchange by `client_secret_post`', async () => {
  const fates = ['lose response', 'pass']
  const ca = process.env.NODE_EXTRA_CA_CERTS
  const proxy = await Proxy.start({ target: issuer, ca, fate: () => fates.shift() })
  const { failed, tokens } = await exchange(`http://127.0.0.1:${proxy.port}`, await logIn())
  assert.ok(failed, 'the first exchange fails')
  const lost = JSON.parse(proxy.exchanges[0].body)
  assert.equal(tokens.refresh_token, lost.refresh_token)
  assert.equal(await apiStatus(tokens.access_token), 200)
  proxy.stop()
  return 'the same refresh token'
})
process.exit(0)
