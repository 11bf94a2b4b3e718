// A reverse proxy in front of the server. It records each exchange with the token endpoint, and each
// token request has a fate: a fault that the client sees, while the server may have responded.
import { readFileSync } from 'node:fs'
import http from 'node:http'
import https from 'node:https'
import { once } from 'node:events'

const UNAVAILABLE = JSON.stringify({ error: 'temporarily_unavailable', error_description: 'Made by the proxy.' })

export class Proxy {
  // Every exchange with the token endpoint: `{ at, path, client, fate, form, status, body }`.
  exchanges = []
  // The connections, by the ports of the clients.
  sockets = new Map()

  // Starts a proxy to `target`, whose CA is `ca` if it speaks TLS. With `certificate` (`{ key, cert }`)
  // the proxy speaks TLS as well. `fate` gets the form of a token request and
  // the id of the client, and returns:
  //   'pass'          nothing happens
  //   'lose request'  the connection is closed, and the server gets nothing
  //   'lose response' the connection is closed when the server has responded
  //   'unavailable'   503, and the server gets nothing
  //   'unavailable after' 503 when the server has responded
  //   'cut'           the connection is closed after half of the response
  //   'reset'         the connection is reset (TCP) when the server has responded
  //   { late: ms }    the server gets the request that much later
  // `observe` gets every exchange, with whatever endpoint, when it has ended.
  static async start({ target, port = 0, certificate, ca, fate = () => 'pass', observe = () => {} }) {
    const proxy = new Proxy()
    proxy.target = new URL(target)
    proxy.fate = fate
    proxy.observe = observe
    proxy.protocol = proxy.target.protocol === 'https:' ? https : http
    proxy.agent = new proxy.protocol.Agent({ ca: ca && readFileSync(ca), keepAlive: true })
    const handle = (request, response) => proxy.handle(request, response)
    proxy.listener = certificate ? https.createServer(certificate, handle) : http.createServer(handle)
    proxy.listener.on('connection', (socket) => {
      const { remotePort } = socket
      proxy.sockets.set(remotePort, socket)
      socket.once('close', () => proxy.sockets.delete(remotePort))
    })
    proxy.listener.listen(port, '127.0.0.1')
    await once(proxy.listener, 'listening')
    return proxy
  }

  get port() {
    return this.listener.address().port
  }

  async handle(request, response) {
    const chunks = []
    for await (const chunk of request) chunks.push(chunk)
    const body = Buffer.concat(chunks)
    const url = new URL(request.url, this.target)
    const isToken = url.pathname === '/oauth/token'
    const form = isToken ? Object.fromEntries(new URLSearchParams(body.toString())) : {}
    const client = form.client_id ?? basicUser(request) ?? url.searchParams.get('client_id')
    const fate = isToken ? this.fate(form, client) : 'pass'
    const exchange = { at: Date.now(), path: url.pathname, client, fate, form }
    if (isToken) this.exchanges.push(exchange)
    await this.respond({ request, body, response, exchange })
    this.observe(exchange)
  }

  async respond({ request, body, response, exchange }) {
    const { fate } = exchange
    if (fate === 'lose request') return request.socket.destroy()
    if (fate === 'unavailable') return unavailable(response)
    if (fate.late) await new Promise((resolve) => setTimeout(resolve, fate.late))
    try {
      const result = await this.forward(request, body)
      Object.assign(exchange, { status: result.status, body: result.body.toString(), respondedAt: Date.now() })
      if (fate === 'lose response') return request.socket.destroy()
      if (fate === 'unavailable after') return unavailable(response)
      if (fate === 'reset') return this.sockets.get(request.socket.remotePort)?.resetAndDestroy()
      response.writeHead(result.status, result.headers)
      if (fate === 'cut') return cut(request, response, result.body)
      response.end(result.body)
    } catch (error) {
      exchange.error = error.message
      request.socket.destroy()
    }
  }

  async forward(request, body) {
    const { headers, method } = request
    const sent = this.protocol.request(new URL(request.url, this.target), { method, headers, agent: this.agent })
    sent.end(body)
    const [response] = await once(sent, 'response')
    const chunks = []
    for await (const chunk of response) chunks.push(chunk)
    return { status: response.statusCode, headers: response.headers, body: Buffer.concat(chunks) }
  }

  stop() {
    this.listener.closeAllConnections()
    this.listener.close()
    this.agent.destroy()
  }
}

// Returns the user name of HTTP's Basic authentication.
function basicUser({ headers }) {
  const [, basic] = headers.authorization?.match(/^Basic (.*)$/i) ?? []
  return basic && decodeURIComponent(Buffer.from(basic, 'base64').toString().split(':')[0])
}

function cut(request, response, body) {
  response.write(body.subarray(0, body.length / 2), () => request.socket.destroy())
}

function unavailable(response) {
  response.writeHead(503, { 'content-type': 'application/json', 'retry-after': '1', 'cache-control': 'no-store' })
  response.end(UNAVAILABLE)
}
