// A user with a browser: logs in at the pages of the server, in headless Chromium.
import { accessSync, constants } from 'node:fs'
import { createServer } from 'node:http'
import { once } from 'node:events'
import { delimiter, join } from 'node:path'
import { chromium } from 'playwright-core'
import { account } from './server.mjs'

// Includes the waits of a page for the expiry of its access tokens.
const TIMEOUT = 180_000

// Returns the path of an installed Chromium, if there is one.
export function installedChromium() {
  const names = ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable']
  for (const folder of process.env.PATH.split(delimiter)) {
    for (const name of names) {
      const path = join(folder, name)
      try {
        accessSync(path, constants.X_OK)
        return path
      } catch {}
    }
  }
}

export class Browser {
  // Starts Chromium, and a listener at the redirect URI of programs that have none.
  static async start() {
    const browser = new Browser()
    // Chromium has its own list of CAs, so `ignoreHTTPSErrors` stands for the import of the CA.
    browser.chromium = await chromium.launch({
      executablePath: installedChromium(),
      // The hosts of the examples are on this machine.
      args: ['--no-sandbox', '--disable-dev-shm-usage', '--host-resolver-rules=MAP *.example.com 127.0.0.1'],
    })
    browser.listener = createServer((request, response) => response.end('You are logged in.'))
    browser.listener.listen(0, '127.0.0.1')
    await once(browser.listener, 'listening')
    return browser
  }

  // The redirect URI of a program, by a path of its own.
  redirectUri(name) {
    return `http://127.0.0.1:${this.listener.address().port}/${name}`
  }

  // A user with cookies of their own.
  async user() {
    const context = await this.chromium.newContext({ ignoreHTTPSErrors: true })
    context.setDefaultTimeout(TIMEOUT)
    return new User(context)
  }

  async stop() {
    await this.chromium.close()
    this.listener.closeAllConnections()
    this.listener.close()
  }
}

class User {
  // The login name.
  name = account.name
  // How often this user typed the password, and decided on a consent.
  passwords = 0
  consents = 0

  constructor(context) {
    this.context = context
  }

  // Opens a URL, does what the pages of the server ask for, and waits for a URL that starts with
  // `until`, or for a text of the page. `decision` is that of a consent or of the approval of a
  // device, `code` is typed where the server asks for the code of a device, and `logout` confirms
  // a logout. The page is closed afterwards, unless it `stays`.
  async visit(url, { until, untilText, decision = 'allow', code, logout = false, stays = false }) {
    const page = await this.context.newPage()
    const arrival = () =>
      until
        ? page.waitForURL((at) => at.href.startsWith(until))
        : page.getByText(untilText).first().waitFor()
    // The forms of the server, each with what the user does.
    const forms = [
      [page.locator('#password'), async () => {
        await page.fill('#name', this.name)
        await page.fill('#password', account.password)
        await submit('button[type=submit]')
        this.passwords += 1
      }],
      [page.locator('input[name=user_code]:not([type=hidden])'), async () => {
        if (code) await page.fill('input[name=user_code]', code)
        await submit('button[type=submit]')
      }],
      [page.locator(`button[name=decision][value=${decision}]`), async () => {
        await submit(`button[value=${decision}]`)
        this.consents += 1
      }],
    ]
    const logOut = 'form[action=logout] button[type=submit]'
    if (logout) forms.push([page.locator(logOut), () => submit(logOut)])
    // A form leads to another page, whose URL may be the same.
    const submit = async (button) => {
      const leaves = page.waitForEvent('framenavigated')
      await Promise.all([leaves, page.press(button, 'Enter')])
      await page.waitForLoadState()
    }
    try {
      await page.goto(url)
      // The code of a device, the login, the consent, and the return to the client.
      for (let i = 0; i < 5; i++) {
        const next = [arrival(), ...forms.map(([form]) => form.waitFor())]
        for (const promise of next) promise.catch(() => {})
        await Promise.race(next)
        let fill
        for (const [form, fillIt] of forms) if (await form.isVisible()) fill ??= fillIt
        if (!fill) break
        await fill()
      }
      await arrival()
      const { passwords, consents } = this
      return { url: page.url(), text: await page.innerText('body'), passwords, consents }
    } catch (error) {
      const text = await page.innerText('body').catch(() => '')
      throw new Error(`${error.message}\nThe page ${page.url()} shows: ${text}`)
    } finally {
      if (!stays) await page.close()
    }
  }

  // Sends a request with the cookies of the browser, without a page, and follows no redirect.
  async send(url) {
    const response = await this.context.request.get(url, { maxRedirects: 0 })
    const { location = null } = response.headers()
    const result = { status: response.status(), location, text: await response.text() }
    await response.dispose()
    return result
  }

  async leave() {
    await this.context.close()
  }
}
