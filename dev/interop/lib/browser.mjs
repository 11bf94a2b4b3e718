// A person with a browser: logs in at the pages of the server, in headless Chromium.
import { accessSync, constants } from 'node:fs'
import { createServer } from 'node:http'
import { once } from 'node:events'
import { delimiter, join } from 'node:path'
import { chromium } from 'playwright-core'
import { user } from './server.mjs'

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

  // A person with cookies of their own.
  async person() {
    return new Person(await this.chromium.newContext({ ignoreHTTPSErrors: true }))
  }

  async stop() {
    await this.chromium.close()
    this.listener.closeAllConnections()
    this.listener.close()
  }
}

class Person {
  passwords = 0

  constructor(context) {
    this.context = context
  }

  // Opens a URL, logs in if the server asks, and waits for a URL that starts with `until`, or for
  // a text of the page. Returns both.
  async visit(url, { until, untilText }) {
    const page = await this.context.newPage()
    const arrival = () =>
      until
        ? page.waitForURL((at) => at.href.startsWith(until), { timeout: TIMEOUT })
        : page.getByText(untilText).waitFor({ timeout: TIMEOUT })
    try {
      await page.goto(url, { timeout: TIMEOUT })
      const form = page.locator('#password')
      const first = [arrival(), form.waitFor({ timeout: TIMEOUT })]
      await Promise.race(first)
      for (const promise of first) promise.catch(() => {})
      if (await form.isVisible()) {
        await page.fill('#name', user.name)
        await form.fill(user.password)
        await page.click('button[type=submit]')
        this.passwords += 1
      }
      await arrival()
      return { url: page.url(), text: await page.innerText('body'), passwords: this.passwords }
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
