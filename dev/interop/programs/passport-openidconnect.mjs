// passport-openidconnect: a web app without PKCE. Passport keeps no tokens; passport-oauth2-refresh
// refreshes them.
import { strict as assert } from 'node:assert'
import { promisify } from 'node:util'
import express from 'express'
import session from 'express-session'
import passport from 'passport'
import refresher from 'passport-oauth2-refresh'
import Strategy from 'passport-openidconnect'
import { announce, apiStatus, expiry, issuer, refreshes, step } from '../lib/steps.mjs'
import { addUser, assertUser, listen, logOut, open, register, scope } from '../lib/web-app.mjs'

announce('passport-openidconnect')
const email = await addUser('passport@example.com')
const { origin, serve } = await listen()
const client = await register('passport-openidconnect', { origin, options: ['--no-pkce'] })
const metadata = await (await fetch(`${issuer}/.well-known/openid-configuration`)).json()
let tokens

function verify(issuer, profile, idProfile, context, idToken, accessToken, refreshToken, params, done) {
  tokens = { access_token: accessToken, refresh_token: refreshToken }
  assert.equal(profile.id, idProfile.id)
  assert.ok(context.timestamp <= new Date())
  done(null, { idToken, claims: profile._json, name: idProfile.displayName, emails: idProfile.emails })
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
    nonce: true,
    maxAge: 3600,
  },
  verify,
)
passport.use(strategy)
refresher.use(strategy)
passport.serializeUser((user, done) => done(null, user))
passport.deserializeUser((user, done) => done(null, user))
const requestNewAccessToken = promisify((refreshToken, done) =>
  refresher.requestNewAccessToken(strategy.name, refreshToken, (error, accessToken, refreshToken) => {
    const failure = error && new Error(`${error.statusCode} ${error.data}`)
    done(failure, { access_token: accessToken, refresh_token: refreshToken })
  }),
)

const app = express()
app.use(session({ secret: 'only for this run', resave: false, saveUninitialized: false }))
app.use(passport.session())
app.get('/login', passport.authenticate('openidconnect'))
app.get('/callback', passport.authenticate('openidconnect', { successRedirect: '/', failWithError: true }))
app.get('/', (request, response) => response.json({ page: 'home', ...request.user }))
// Passport logs out at the app only, so the app sends the browser to the server.
app.get('/logout', (request, response, next) => {
  const url = new URL(metadata.end_session_endpoint)
  url.searchParams.set('id_token_hint', request.user.idToken)
  url.searchParams.set('post_logout_redirect_uri', `${origin}/goodbye`)
  request.logout((error) => (error ? next(error) : response.redirect(url.href)))
})
app.get('/goodbye', (request, response) => response.json({ page: 'goodbye', user: request.user ?? null }))
serve(app)

await step('login in Chromium, code without PKCE, `nonce`, `max_age`, userinfo', async () => {
  const { claims, name, emails } = await open(`${origin}/login`)
  assertUser(claims, email)
  assert.equal(name, claims.name)
  assert.deepEqual(emails, [{ value: email }])
})
await step(`expiry and refresh × ${refreshes}, by passport-oauth2-refresh`, async () => {
  for (let i = 0; i < refreshes; i++) {
    await expiry(tokens.access_token)
    const before = tokens.refresh_token
    tokens = await requestNewAccessToken(before)
    assert.notEqual(tokens.refresh_token, before)
    assert.equal(await apiStatus(tokens.access_token), 200)
  }
})
await step('RP-initiated logout', () => logOut(client, { origin, latest: () => tokens }))
process.exit(0)
