// express-openid-connect: a web app that refreshes when its access token has expired.
import express from 'express'
import openidConnect from 'express-openid-connect'
import session from 'express-session'
import { openPage, stay } from '../lib/stay.mjs'
import { announce, ask, issuer } from '../lib/steps.mjs'
import { listen, open, register, scope } from '../lib/web-app.mjs'

announce('express-openid-connect')
const { origin, serve } = await listen()
const client = await register('express-openid-connect', { origin })
const app = express()
app.get('/goodbye', (request, response) => response.json({ page: 'goodbye' }))
app.use(
  openidConnect.auth({
    issuerBaseURL: issuer,
    baseURL: origin,
    clientID: client.client_id,
    clientSecret: client.client_secret,
    secret: 'only for this run',
    authorizationParams: { response_type: 'code', scope },
    idpLogout: true,
    routes: { postLogoutRedirect: '/goodbye' },
    session: { name: 'express', store: new session.MemoryStore() },
  }),
)
// The library sends a user without a session to the login page by itself.
app.get('/', async ({ oidc }, response) => {
  try {
    if (oidc.accessToken.isExpired()) await oidc.accessToken.refresh()
    response.json({ page: 'home', user: await oidc.fetchUserInfo() })
  } catch (error) {
    response.status(error.error === 'invalid_grant' ? 401 : 502).json(`${error.message}: ${error.cause?.message}`)
  }
})
serve(app)
await open(`${origin}/login`)
await stay({
  use: () => openPage(origin),
  logOut: () => ask('visit', { url: `${origin}/logout`, until: `${origin}/goodbye` }),
})
