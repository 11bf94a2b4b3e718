// @auth/express (Auth.js): a web app that keeps its tokens in an encrypted cookie, and refreshes in a
// callback, as the guides of Auth.js say.
import { randomBytes } from 'node:crypto'
import express from 'express'
import { ExpressAuth, getSession } from '@auth/express'
import { callApi, LoginNeeded, openPage, stay } from '../lib/stay.mjs'
import { announce, ask, issuer } from '../lib/steps.mjs'
import { listen, open, register, scope } from '../lib/web-app.mjs'

announce('@auth/express')
const { origin, serve } = await listen()
const client = await register('auth-express', { origin, callback: '/auth/callback/matchbook' })
const metadata = await (await fetch(`${issuer}/.well-known/openid-configuration`)).json()

async function refresh(token) {
  const form = {
    client_id: client.client_id,
    client_secret: client.client_secret,
    grant_type: 'refresh_token',
    refresh_token: token.refresh_token,
  }
  const response = await fetch(metadata.token_endpoint, { method: 'POST', body: new URLSearchParams(form) })
  const tokens = await response.json()
  if (!response.ok) throw new Error(tokens.error)
  return { ...token, ...tokens, expires_at: Date.now() / 1000 + tokens.expires_in, error: undefined }
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
    },
  ],
  callbacks: {
    jwt({ token, account }) {
      if (account) {
        const { access_token, refresh_token, id_token, expires_at } = account
        return { ...token, access_token, refresh_token, id_token, expires_at }
      }
      if (Date.now() / 1000 < token.expires_at - 2) return token
      // Auth.js ends the session if this callback throws.
      return refresh(token).catch((error) => ({ ...token, error: error.message }))
    },
    session({ session, token }) {
      const { access_token, id_token, error } = token
      return { ...session, page: 'session', access_token, id_token, error }
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
app.get('/goodbye', (request, response) => response.json({ page: 'goodbye' }))
serve(app)

async function use() {
  const session = await openPage(`${origin}/auth/session`)
  if (!session || session.error === 'invalid_grant') throw new LoginNeeded(JSON.stringify(session))
  if (session.error) throw new Error(session.error)
  await callApi(session.access_token)
}

await open(`${origin}/login`)
await stay({ use, logOut: () => ask('visit', { url: `${origin}/logout`, until: `${origin}/goodbye` }) })
