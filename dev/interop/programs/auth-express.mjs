// @auth/express (Auth.js): a web app that keeps its tokens in an encrypted cookie. Auth.js has no
// refresh and no logout at the server, so the app does both in its callbacks, as its guides say.
import { strict as assert } from 'node:assert'
import { randomBytes } from 'node:crypto'
import express from 'express'
import { ExpressAuth, getSession } from '@auth/express'
import { announce, apiStatus, issuer, refreshes, step } from '../lib/steps.mjs'
import { addUser, assertUser, clientExpiry, listen, logOut, open, register, scope } from '../lib/web-app.mjs'

announce('@auth/express')
const email = await addUser('auth@example.com')
const { origin, serve } = await listen()
const client = await register('auth-express', { origin, callback: '/auth/callback/matchbook' })
const metadata = await (await fetch(`${issuer}/.well-known/openid-configuration`)).json()

async function refresh(token) {
  const response = await fetch(metadata.token_endpoint, {
    method: 'POST',
    body: new URLSearchParams({
      client_id: client.client_id,
      client_secret: client.client_secret,
      grant_type: 'refresh_token',
      refresh_token: token.refresh_token,
    }),
  })
  const tokens = await response.json()
  if (!response.ok) throw new Error(tokens.error)
  // The browser is slower than these access tokens expire.
  const api = await apiStatus(tokens.access_token)
  return { ...token, ...tokens, expires_at: Date.now() / 1000 + tokens.expires_in, api }
}

const config = {
  secret: randomBytes(32).toString('hex'),
  trustHost: true,
  providers: [
    {
      id: 'matchbook',
      name: 'Matchbook',
      type: 'oidc',
      issuer,
      clientId: client.client_id,
      clientSecret: client.client_secret,
      authorization: { params: { scope } },
      checks: ['pkce', 'state', 'nonce'],
      profile: ({ sub, name, email }) => ({ id: sub, name, email }),
    },
  ],
  callbacks: {
    jwt({ token, account, profile }) {
      if (account) {
        const { access_token, refresh_token, id_token, expires_at } = account
        return { ...token, access_token, refresh_token, id_token, expires_at, claims: profile }
      }
      return Date.now() / 1000 < token.expires_at ? token : refresh(token)
    },
    session({ session, token }) {
      const { access_token, refresh_token, id_token, claims, api } = token
      return { ...session, page: 'session', access_token, refresh_token, id_token, claims, api }
    },
    // After its own logout, the app sends the browser to the server.
    redirect: ({ url }) => (url.startsWith(`${origin}/`) || url.startsWith(`${issuer}/`) ? url : origin),
  },
}

// A page that sends the form of an action, with the CSRF token of Auth.js.
const form = (action, callbackUrl) => `<!doctype html><title>App</title><body><script type="module">
const { csrfToken } = await (await fetch('/auth/csrf')).json()
const form = document.createElement('form')
form.method = 'post'
form.action = ${JSON.stringify(`/auth/${action}`)}
for (const [name, value] of Object.entries({ csrfToken, callbackUrl: ${JSON.stringify(callbackUrl)} })) {
  form.append(Object.assign(document.createElement('input'), { name, value }))
}
document.body.append(form)
form.submit()
</script>`

const app = express()
app.use('/auth', ExpressAuth(config))
app.get('/login', (request, response) => response.send(form('signin/matchbook', `${origin}/auth/session`)))
app.get('/logout', async (request, response) => {
  const { id_token: idToken } = await getSession(request, config)
  const url = new URL(metadata.end_session_endpoint)
  url.searchParams.set('id_token_hint', idToken)
  url.searchParams.set('post_logout_redirect_uri', `${origin}/goodbye`)
  response.send(form('signout', url.href))
})
app.get('/goodbye', async (request, response) => {
  response.json({ page: 'goodbye', session: await getSession(request, config) })
})
serve(app)

// The browser keeps the tokens. Opening the page of the session refreshes them.
let session
const openSession = async (path = '/auth/session') => (session = await open(origin + path))

await step('login in Chromium, code with PKCE and `nonce`', async () => {
  const { user, claims } = await openSession('/login')
  assertUser(claims, email)
  assert.equal(user.email, email)
})
await step(`expiry and refresh × ${refreshes}, by a callback`, async () => {
  for (let i = 0; i < refreshes; i++) {
    await clientExpiry(session.access_token)
    const before = session.refresh_token
    const { passwords } = await openSession()
    assert.notEqual(session.refresh_token, before)
    assert.equal(session.api, 200)
    assert.equal(passwords, 1)
  }
})
await step('RP-initiated logout', async () => {
  await openSession()
  return logOut(client, { origin, latest: () => session, logIn: () => openSession('/login') })
})
process.exit(0)
