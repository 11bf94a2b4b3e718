// passport-openidconnect: a web app without PKCE, refreshed by passport-oauth2-refresh.
import { promisify } from 'node:util'
import express from 'express'
import session from 'express-session'
import passport from 'passport'
import refresher from 'passport-oauth2-refresh'
import Strategy from 'passport-openidconnect'
import { callApi, LoginNeeded, openPage, stay } from '../lib/stay.mjs'
import { announce, ask, issuer } from '../lib/steps.mjs'
import { listen, open, register, scope } from '../lib/web-app.mjs'

announce('passport-openidconnect')
const { origin, serve } = await listen()
const client = await register('passport-openidconnect', { origin, options: ['--no-pkce'] })
const metadata = await (await fetch(`${issuer}/.well-known/openid-configuration`)).json()

const expiry = (lifetime) => Date.now() + lifetime * 1000
function verify(issuer, profile, idProfile, context, idToken, accessToken, refreshToken, params, done) {
  done(null, { idToken, accessToken, refreshToken, expiresAt: expiry(params.expires_in) })
}
const strategy = new Strategy(
  {
    issuer: metadata.issuer,
    authorizationURL: metadata.authorization_endpoint,
    tokenURL: metadata.token_endpoint,
    userInfoURL: metadata.userinfo_endpoint,
    clientID: client.client_id,
    clientSecret: client.client_secret,
    callbackURL: client.redirect_uri,
    scope: scope.replace('openid ', ''),
  },
  verify,
)
passport.use(strategy)
refresher.use(strategy)
passport.serializeUser((user, done) => done(null, user))
passport.deserializeUser((user, done) => done(null, user))
const request = promisify((token, done) =>
  refresher.requestNewAccessToken(strategy.name, token, (error, accessToken, refreshToken, params) => {
    if (error?.data?.includes('invalid_grant')) return done(new LoginNeeded(error.data))
    if (error) return done(new Error(error.data ?? error.message))
    done(null, { accessToken, refreshToken, expiresAt: expiry(params.expires_in) })
  }),
)


// The library does not end if a response is cut off, so the app waits for 10 s only.
async function refresh(token) {
  const timeout = new Promise((_, reject) => setTimeout(reject, 10_000, new Error('the refresh takes too long')))
  return Promise.race([request(token), timeout])
}

const app = express()
app.use(session({ secret: 'only for this run', resave: false, saveUninitialized: false, name: 'passport' }))
app.use(passport.session())
app.get('/login', passport.authenticate('openidconnect'))
app.get('/callback', passport.authenticate('openidconnect', { successRedirect: '/', failWithError: true }))
app.get('/', async ({ user, session }, response) => {
  if (!user) return response.status(401).json('no session')
  try {
    if (Date.now() > user.expiresAt - 2000) {
      Object.assign(user, await refresh(user.refreshToken))
      session.passport.user = user
    }
    await callApi(user.accessToken)
    response.json({ page: 'home' })
  } catch (error) {
    response.status(error instanceof LoginNeeded ? 401 : 502).json(error.message)
  }
})
// Passport logs out at the app only, so the app sends the browser to the server.
app.get('/logout', (request, response, next) => {
  const url = new URL(metadata.end_session_endpoint)
  url.searchParams.set('id_token_hint', request.user.idToken)
  url.searchParams.set('post_logout_redirect_uri', `${origin}/goodbye`)
  request.logout((error) => (error ? next(error) : response.redirect(url.href)))
})
app.get('/goodbye', (request, response) => response.json({ page: 'goodbye' }))
serve(app)
await open(`${origin}/login`)
await stay({
  use: () => openPage(origin),
  logOut: () => ask('visit', { url: `${origin}/logout`, until: `${origin}/goodbye` }),
})
