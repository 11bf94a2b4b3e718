// What a page of the soak uses to stay logged in, in Chromium: as stay.mjs, by requests to the
// program that serves the page.
export class LoginNeeded extends Error {}

async function next(outcome) {
  const response = await fetch('/turn', { method: 'POST', body: JSON.stringify(outcome) })
  return (await response.json()).turn
}

export async function stay({ use, logOut }) {
  document.body.textContent = 'logged in'
  let outcome = {}
  while ((await next(outcome)) !== 'logout') {
    outcome = await use().then(
      () => ({ used: true }),
      (error) => ({ [error instanceof LoginNeeded ? 'login' : 'failed']: `${error.message} ${error.cause?.message ?? ''}`.trim() }),
    )
  }
  await logOut()
  await next({ loggedOut: true })
}

export async function callApi(issuer, accessToken) {
  const { status } = await fetch(`${issuer}/oauth/userinfo`, { headers: { authorization: `Bearer ${accessToken}` } })
  if (status !== 200) throw new Error(`the API responds with ${status}`)
}
