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
      args: ['--no-sandbox', '--disable-dev-shm-usage'],
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
  // How often this user typed the password, and decided on a consent.
  passwords = 0
  consents = 0

  constructor(context) {
    this.context = context
  }

  // Opens a URL, logs in and consents if the server asks, and waits for a URL that starts with
  // `until`, or for a text of the page. `decision` is that of the consent.
  async visit(url, { until, untilText, decision = 'allow' }) {
    const page = await this.context.newPage()
    const arrival = () =>
      until
        ? page.waitForURL((at) => at.href.startsWith(until))
        : page.getByText(untilText).waitFor()
    const submit = async (button) => {
      const { pathname } = new URL(page.url())
      const leaves = page.waitForURL((at) => at.pathname !== pathname)
      await Promise.all([leaves, page.press(button, 'Enter')])
    }
    const password = page.locator('#password')
    const consent = page.locator(`button[name=decision][value=${decision}]`)
    try {
      await page.goto(url)
      // The login, the consent, and the return to the client.
      for (let i = 0; i < 3; i++) {
        const next = [arrival(), password.waitFor(), consent.waitFor()]
        for (const promise of next) promise.catch(() => {})
        await Promise.race(next)
        if (await password.isVisible()) {
          await page.fill('#name', account.name)
          await password.fill(account.password)
          await submit('button[type=submit]')
          this.passwords += 1
        } else if (await consent.isVisible()) {
          await submit(`button[value=${decision}]`)
          this.consents += 1
        } else {
          break
        }
      }
      await arrival()
      const { passwords, consents } = this
      return { url: page.url(), text: await page.innerText('body'), passwords, consents }
    } catch (error) {
      const text = await page.innerText('body').catch(() => '')
      throw new Error(`${error.message}\nThe page ${page.url()} shows: ${text}`)
    } finally {
      await page.close()
    }
  }

  async leave() {
    await this.context.close()
  }
}
