// What a program of soak.mjs uses to stay logged in: it uses its login at each turn of the driver,
// and reports the outcome.
import { apiStatus, ask, report } from './steps.mjs'

// The program can go on only if the user logs in again.
export class LoginNeeded extends Error {}

// A program refreshes that long before the expiry, if its library lets it decide.
const MARGIN = 5000

// Names the faults from which this program is spared, with the reason.
export const spare = (faults, reason) => report({ spared: { faults, reason } })

// Calls `use` at each turn until the driver ends the run, then `logOut`.
export async function stay({ use, logOut }) {
  for (;;) {
    const { turn } = await ask('turn')
    if (turn === 'logout') break
    await use().then(
      () => report({ used: true }),
      (error) => {
        const message = [error.message, error.cause?.message].filter(Boolean).join(': ')
        if (!(error instanceof LoginNeeded)) return report({ failed: message })
        report({ login: message })
        process.exit(1)
      },
    )
  }
  await logOut()
  report({ loggedOut: true })
  process.exit(0)
}

// Calls the API of the server.
export async function callApi(accessToken) {
  const status = await apiStatus(accessToken)
  if (status !== 200) throw new Error(`the API responds with ${status}`)
}

// Opens a page of a web app, with the cookies of the browser. Returns its JSON. The page has the
// status 401 when the app needs a new login.
export async function openPage(url) {
  const { status, location, text } = await ask('send', { url })
  if (location || status === 401) throw new LoginNeeded(`the app responds with ${status} ${location ?? text}`)
  if (status !== 200) throw new Error(`the app responds with ${status}: ${text}`)
  return JSON.parse(text)
}

// Returns a function that refreshes before the expiry, and calls the API. `tokens` returns the
// current tokens, and `codeOf` the OAuth error of a rejected refresh.
export function keepFresh({ tokens, refresh, codeOf }) {
  let known
  let expiresAt
  return async () => {
    const update = () => {
      if (tokens() === known) return
      known = tokens()
      expiresAt = Date.now() + known.expires_in * 1000
    }
    update()
    if (Date.now() > expiresAt - MARGIN) {
      await refresh().catch((error) => {
        if (codeOf(error) === 'invalid_grant') throw new LoginNeeded('invalid_grant', { cause: error })
        throw error
      })
      update()
    }
    await callApi(known.access_token)
  }
}
